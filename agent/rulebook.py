"""Which rules this agent asks: the built-in ones and the operator's files, all or nothing."""

from __future__ import annotations

import glob
from pathlib import Path

from agent.config.schema import Config
from agent.text.units import written
from rules.evaluator import RuleSet
from rules.rulefile import BUILTIN, RuleFileError, load_rules


class RulebookError(Exception):
    """The rules cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def rule_files(config: Config, where: str) -> list[Path]:
    """The files of the built-in rules and those that the operator's patterns name."""
    found = sorted(BUILTIN.glob("*.yml")) if config.rules.builtin else []
    for pattern in config.rules.files:
        matches = sorted(Path(path) for path in glob.glob(pattern))
        if not matches and not glob.has_magic(pattern):
            raise RulebookError([f"{where}: $.rules.files: no such file: {pattern}"])
        found += matches
    return found


def rule_set(config: Config, where: str) -> RuleSet:
    """All rules, less the disabled ones; `where` (the configuration file) opens the messages about its settings."""
    try:
        rules = load_rules(rule_files(config, where), subquery_step_ms=round(config.rules.interval * 1000))
    except RuleFileError as error:
        raise RulebookError(error.messages) from error
    unknown = sorted(set(config.rules.disable) - set(rules.names))
    if unknown:
        raise RulebookError([f"{where}: $.rules.disable: no rule is named {name!r}" for name in unknown])
    chosen = rules.disabled(config.rules.disable)
    if chosen.reach_ms > config.sample.keep * 1000:
        reach = written(chosen.reach_ms / 1000)
        raise RulebookError([f"{where}: $.sample.keep: expected {reach} or more, which is how far back the rules look"])
    return chosen
