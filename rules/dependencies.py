"""Which recording rules a rule builds on, directly or not: what it needs of the past, and whose silence is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rules.rulefile import Rule

MOST = 200_000
"""Pairs of a rule and one that it builds on, of all rules: each tick looks at them. A chain of 630 has as many."""


class TooManyError(Exception):
    """The rules build on each other more than MOST times; the argument is the index of the one too many."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def sources(rules: Sequence[Rule], most: int) -> list[list[int]]:
    """For each rule the indexes of those that it builds on, itself among them where it does; raises TooManyError."""
    recorders: dict[str, list[int]] = {}
    for index, rule in enumerate(rules):
        if rule.kind == "record":
            recorders.setdefault(rule.name, []).append(index)
    found: list[list[int]] = []
    for index, rule in enumerate(rules):
        found.append(_closure(rule, rules, recorders, most))
        most -= len(found[-1])
        if most < 0:
            raise TooManyError(index)
    return found


def _closure(rule: Rule, rules: Sequence[Rule], recorders: dict[str, list[int]], most: int) -> list[int]:
    """Nearest first; one more than `most` is enough."""
    found: list[int] = []
    names = list(rule.query.names)
    seen = set(names)
    for name in names:
        for recorder in recorders.get(name, ()):
            found.append(recorder)
            names += rules[recorder].query.names - seen
            seen |= rules[recorder].query.names
        if len(found) > most:
            break
    return found
