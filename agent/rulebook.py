"""Which rules this agent asks: the built-in ones and the operator's files, all or nothing."""

from __future__ import annotations

import glob
from pathlib import Path

from agent.config.schema import AgentConfig
from agent.text.units import format_duration
from rules.model import RuleSet
from rules.rulefile import BUILTIN, RuleFileError, load_rules


class RulesConfigError(Exception):
    """The rules cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def list_rule_files(config: AgentConfig, source: str) -> list[Path]:
    """The files of the built-in rules and those that the operator's patterns name."""
    paths = sorted(BUILTIN.glob("*.yml")) if config.rules.builtin else []
    for pattern in config.rules.files:
        matches = sorted(Path(path) for path in glob.glob(pattern))
        if not matches and not glob.has_magic(pattern):
            raise RulesConfigError([f"{source}: $.rules.files: no such file: {pattern}"])
        paths += matches
    return paths


def load_rule_set(config: AgentConfig, source: str) -> RuleSet:
    """All rules, less the disabled ones; `where` (the configuration file) opens the messages about its settings."""
    try:
        rules = load_rules(list_rule_files(config, source), subquery_step_ms=round(config.rules.interval * 1000))
    except RuleFileError as error:
        raise RulesConfigError(error.messages) from error
    unknown = sorted(set(config.rules.disable) - set(rules.names))
    if unknown:
        raise RulesConfigError([f"{source}: $.rules.disable: no rule is named {name!r}" for name in unknown])
    enabled = rules.exclude_rules(config.rules.disable)
    if enabled.reach_ms > config.sample.keep * 1000:
        required = format_duration(enabled.reach_ms / 1000)
        raise RulesConfigError(
            [f"{source}: $.sample.keep: expected {required} or more, which is how far back the rules look"]
        )
    return enabled
