"""
What each built-in rule says when series that it selects are missing.

A guard that needs more than it has to switches its alert off where a kernel lacks a file: throttle counts without
seconds, as before Linux 5.5, silenced both throttling rules.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rules.expected_words import EXPECTED, REAL_HOSTS, Word
from tests.rules.missing_evidence import (
    BuiltinRule,
    World,
    ask,
    drop,
    drop_metrics,
    list_rules,
    list_sampled,
    list_worlds,
)


def _hear(folder: Path, rule: BuiltinRule, pairs: list[tuple[World, World]]) -> Word:
    """Returns what the rule says in the second world of each pair, where it had spoken in the first."""
    changed = [after for before, after in pairs if before.series != after.series]
    answers = ask(folder, rule, changed)
    if all(answers):
        return Word.SPEAKS
    return Word.EITHER if any(answers) else Word.SILENT


def _list_speaking(folder: Path, rule: BuiltinRule) -> list[World]:
    sick, _ = list_worlds(rule)
    return [world for world, speaks in zip(sick, ask(folder, rule, sick), strict=True) if speaks]


def test_every_selector_of_every_rule_has_an_expected_word() -> None:
    """A new rule or selector needs a row in the table, with its reason; a row for none is left over."""
    selectors = {rule.key: set(list_sampled(rule)) for rule in list_rules()}

    assert {key: set(rows) for key, rows in EXPECTED.items()} == selectors


@pytest.mark.parametrize("rule", list_rules(), ids=str)
def test_without_one_of_its_selectors_a_rule_says_what_the_rest_is_worth(rule: BuiltinRule, tmp_path: Path) -> None:
    """In the sick worlds of the unit tests, each selector is missing in turn; the word is the table's."""
    worlds = _list_speaking(tmp_path, rule)
    words = {
        text: _hear(tmp_path, rule, [(world, drop(world, selector)) for world in worlds])
        for text, selector in list_sampled(rule).items()
    }

    assert worlds
    assert words == {text: row.word for text, row in EXPECTED[rule.key].items()}


@pytest.mark.deep
@pytest.mark.parametrize("rule", [rule for rule in list_rules() if rule.is_alert], ids=str)
def test_what_is_missing_makes_nobody_sick(rule: BuiltinRule, tmp_path: Path) -> None:
    """In the healthy worlds, no missing selector makes the rule speak, but for those that the table accepts."""
    _, healthy = list_worlds(rule)
    misled = {
        text
        for text, selector in list_sampled(rule).items()
        if any(ask(tmp_path, rule, [drop(world, selector) for world in healthy]))
    }

    assert misled == {text for text, row in EXPECTED[rule.key].items() if row.speaks_of_healthy}


@pytest.mark.deep
@pytest.mark.parametrize("name", REAL_HOSTS)
def test_on_real_hosts_those_rules_are_silent_that_have_no_evidence(name: str, tmp_path: Path) -> None:
    """What a kind of kernel or board lacks, all at once, silences the rules of the table and no other."""
    host = REAL_HOSTS[name]
    silent = set()
    for rule in list_rules():
        if not any(selector.startswith(host.lacks) for selector in list_sampled(rule)):
            continue
        pairs = [(world, drop_metrics(world, host.lacks)) for world in _list_speaking(tmp_path, rule)]
        has_lost = all(before.series != after.series for before, after in pairs)
        if has_lost and _hear(tmp_path, rule, pairs) is Word.SILENT:
            silent.add(rule.key)

    assert silent == host.silent
