"""The rules in memory: one rule, one rule group, and the set of all groups that the evaluator runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rules.promql import Query
from rules.templates.template import Template

Templates = tuple[tuple[str, Template], ...]
"""Names of labels or annotations, each with its template."""


@dataclass(frozen=True)
class Rule:
    """One valid recording or alerting rule; durations are in ms, and labels include those of its group."""

    kind: str
    """`record` or `alert`."""
    name: str
    query: Query
    labels: Templates
    annotations: Templates = ()
    for_ms: int = 0
    keep_firing_for_ms: int = 0
    line: int = 0

    @property
    def expr(self) -> str:
        """The text of the expression."""
        return self.query.text

    @property
    def identity(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """The kind, the name and the label texts: a rule where they are equal is the same after a reload."""
        return self.kind, self.name, tuple((name, template.text) for name, template in self.labels)


@dataclass(frozen=True)
class Group:
    """A rule group, evaluated in order at one time; `interval_ms` 0 means the default, `limit` 0 means none."""

    file: str
    name: str
    rules: tuple[Rule, ...]
    interval_ms: int = 0
    query_offset_ms: int = 0
    limit: int = 0


@dataclass(frozen=True)
class RuleSet:
    """The rule groups of all files, in order."""

    groups: tuple[Group, ...] = ()

    @property
    def rules(self) -> Iterator[Rule]:
        """All rules in the order of evaluation."""
        return (rule for group in self.groups for rule in group.rules)

    @property
    def reach_ms(self) -> int:
        """How far back the rules look, which History must retain at least."""
        reaches = (rule.query.reach_ms + group.query_offset_ms for group in self.groups for rule in group.rules)
        return max(reaches, default=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all rules, each once."""
        return tuple(dict.fromkeys(rule.name for rule in self.rules))

    def exclude_rules(self, names: Sequence[str]) -> RuleSet:
        """Returns the set without the rules of these names; raises ValueError for an unknown name."""
        unknown = sorted(set(names) - set(self.names))
        if unknown:
            raise ValueError(f"no rule is named {', '.join(unknown)}; there are: {', '.join(sorted(self.names))}")
        remaining = ((group, tuple(rule for rule in group.rules if rule.name not in names)) for group in self.groups)
        return RuleSet(tuple(_with_rules(group, rules) for group, rules in remaining if rules))

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet(self.groups + other.groups)


def _with_rules(group: Group, rules: tuple[Rule, ...]) -> Group:
    return Group(group.file, group.name, rules, group.interval_ms, group.query_offset_ms, group.limit)
