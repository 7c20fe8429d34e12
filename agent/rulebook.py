"""Which rules this agent asks: the built-in ones and the operator's files, all or nothing."""

from __future__ import annotations

import glob
from pathlib import Path

from agent.config import RulesSettings
from agent.units import written
from rules.groups import RuleSet
from rules.rulefile import BUILTIN, RuleFileError, load_rules


class RulebookError(Exception):
    """The rules cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def rule_files(settings: RulesSettings) -> list[Path]:
    """The files of the built-in rules and those that the operator's patterns name."""
    found = sorted(BUILTIN.glob("*.yml")) if settings.builtin else []
    for pattern in settings.files:
        matches = sorted(Path(path) for path in glob.glob(pattern))
        if not matches and not glob.has_magic(pattern):
            raise RulebookError([f"$.rules.files: no such file: {pattern}"])
        found += matches
    return found


def rule_set(settings: RulesSettings, *, keep_ms: int) -> RuleSet:
    """All rules, less the disabled ones; refuses what looks back further than history reaches."""
    try:
        rules = load_rules(rule_files(settings), subquery_step_ms=round(settings.interval * 1000))
    except RuleFileError as error:
        raise RulebookError(error.messages) from error
    unknown = sorted(set(settings.disable) - set(rules.names))
    if unknown:
        raise RulebookError([f"$.rules.disable: no rule is named {name!r}" for name in unknown])
    chosen = rules.disabled(settings.disable)
    if chosen.reach_ms > keep_ms:
        reach = written(chosen.reach_ms / 1000)
        raise RulebookError([f"$.sample.keep: rules look back {reach}, so at least that must be kept"])
    return chosen
