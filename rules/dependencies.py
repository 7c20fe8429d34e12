"""
Finds the recording rules that a rule builds on, directly or not, for its time window and the silence of its sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rules.model import Rule

MAX_DEPENDENCIES = 200_000
"""The total of dependencies of all rules, which each tick walks; a chain of 630 rules has as many."""


class TooManyDependenciesError(Exception):
    """The rules have too many dependencies; `index` is the rule that exceeds the limit."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def find_dependencies(rules: Sequence[Rule], budget: int) -> list[list[int]]:
    """Returns for each rule the indexes of the rules it builds on (itself if recursive); TooManyDependenciesError."""
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
    """Returns the dependencies of one rule, nearest first; stops when they exceed `limit`."""
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
