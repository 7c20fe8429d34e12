"""Which recording rules a rule builds on, directly or not: what it needs of the past, and whose silence is its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rules.model import Rule

MAX_DEPENDENCIES = 200_000
"""Pairs of a rule and one that it builds on, of all rules: each tick looks at them. A chain of 630 has as many."""


class TooManyDependenciesError(Exception):
    """The rules build on each other more than MOST times; the argument is the index of the one too many."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def find_dependencies(rules: Sequence[Rule], budget: int) -> list[list[int]]:
    """For each rule the indexes of those that it builds on, itself among them where it does; raises TooManyError."""
    recorders: dict[str, list[int]] = {}
    for index, rule in enumerate(rules):
        if rule.kind == "record":
            recorders.setdefault(rule.name, []).append(index)
    dependencies: list[list[int]] = []
    for index, rule in enumerate(rules):
        dependencies.append(_collect_dependencies(rule, rules, recorders, budget))
        budget -= len(dependencies[-1])
        if budget < 0:
            raise TooManyDependenciesError(index)
    return dependencies


def _collect_dependencies(rule: Rule, rules: Sequence[Rule], recorders: dict[str, list[int]], limit: int) -> list[int]:
    """Nearest first; one more than `most` is enough."""
    dependencies: list[int] = []
    names = list(rule.query.names)
    visited = set(names)
    for name in names:
        for recorder in recorders.get(name, ()):
            dependencies.append(recorder)
            names += rules[recorder].query.names - visited
            visited |= rules[recorder].query.names
        if len(dependencies) > limit:
            break
    return dependencies
