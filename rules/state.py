"""
The state of rules between evaluations: per group when it is due, per rule its health and its alerts.

After a reload a rule inherits the state of the rule that it replaces.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from collectors import Labels, Metric, gauge
from rules.alerts import Alert
from rules.dependencies import find_dependencies
from rules.history.history import RECORDED_PREFIX
from rules.model import Group, Rule

JITTER_MS = 50  # a tick that comes at most this early still counts for its slot


@dataclass(frozen=True, slots=True)
class RuleHealth:
    """The outcome of a rule's last evaluation; `error` is empty when it succeeded."""

    file: str
    group: str
    name: str
    kind: str
    health: str = "unknown"
    """`unknown` before the first evaluation, then `ok` or `err`."""
    error: str = ""
    last_ms: int | None = None
    duration_seconds: float = 0.0
    series: int = 0
    """Elements in the query's result; a count that is always 0 reveals a rule that matches nothing."""
    fresh: bool = True
    """False if a source of the query was silent."""


@dataclass
class RuleState:
    """One rule with everything that its evaluations leave behind."""

    rule: Rule
    metric: Metric
    health: RuleHealth
    sampling_group: str = ""
    """The group that its series are recorded under; a reload keeps it, because History knows a series' owner."""
    active: dict[Labels, Alert] = field(default_factory=dict)
    restored_labels: frozenset[Labels] = frozenset()
    """Labels of the alerts restored after a restart; older agents saved them without the identity."""
    has_live_series: bool = False
    """True if the last evaluation left live series."""
    query_fresh: bool = True
    """True if no source of its own query was silent at the last evaluation."""
    dependencies: tuple[RuleState, ...] = ()
    """The recording rules it builds on, directly or not."""

    @property
    def sampled_names(self) -> set[str]:
        """The metrics it is ultimately computed from, without those that rules record."""
        states = (self, *self.dependencies)
        return {name for state in states for name in state.rule.query.names} - {
            state.rule.name for state in self.dependencies
        }

    @property
    def window_ms(self) -> int:
        """How much of the past it needs, including the rules it builds on."""
        return self.rule.query.window_ms + max((state.rule.query.window_ms for state in self.dependencies), default=0)

    def shift(self, delta_ms: int) -> None:
        """Moves every stored time with the wall clock."""
        self.active = {labels: alert.shift(delta_ms) for labels, alert in self.active.items()}
        last_ms = self.health.last_ms
        self.health = replace(self.health, last_ms=None if last_ms is None else last_ms + delta_ms)


@dataclass
class GroupState:
    """One rule group with its rules, the interval in effect, and its last and next evaluation."""

    group: Group
    interval_ms: int
    rules: list[RuleState]
    next_ms: int | None = None
    last_ms: int | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The file and the name, which together identify a group."""
        return self.group.file, self.group.name

    def is_due(self, now_ms: int) -> bool:
        """True if the group must be evaluated at this tick."""
        if self.last_ms is not None and now_ms <= self.last_ms:
            return False
        return self.next_ms is None or now_ms >= self.next_ms - _compute_slot_tolerance_ms(self.interval_ms)

    def schedule_next(self, now_ms: int) -> None:
        """Notes an evaluation at now_ms and computes the next slot."""
        self.last_ms = now_ms
        self.next_ms = compute_next_slot(now_ms, self.interval_ms)

    def shift(self, delta_ms: int) -> None:
        """Moves every stored time with the wall clock."""
        self.last_ms = None if self.last_ms is None else self.last_ms + delta_ms
        self.next_ms = None if self.next_ms is None else self.next_ms + delta_ms
        for state in self.rules:
            state.shift(delta_ms)


def compute_next_slot(now_ms: int, interval_ms: int) -> int:
    """
    Returns the start of the slot that follows an evaluation at now_ms; slots are multiples of the interval.

    An evaluation just before a slot counts for that slot; otherwise ticks that jitter around a slot would drop every
    other evaluation.
    """
    start = (now_ms // interval_ms + 1) * interval_ms
    return start if start - now_ms > _compute_slot_tolerance_ms(interval_ms) // 2 else start + interval_ms


def _compute_slot_tolerance_ms(interval_ms: int) -> int:
    return min(JITTER_MS, interval_ms // 20)


def build_group_states(groups: tuple[Group, ...], default_interval_ms: int) -> list[GroupState]:
    """Builds the state of groups that have not been evaluated yet, with dependencies but without sampling groups."""
    states = [
        GroupState(
            group, group.interval_ms or default_interval_ms, [_build_rule_state(group, rule) for rule in group.rules]
        )
        for group in groups
    ]
    _link_dependencies([rule_state for state in states for rule_state in state.rules])
    return states


def _build_rule_state(group: Group, rule: Rule) -> RuleState:
    metric = gauge(rule.name, f"Recorded by a rule: {' '.join(rule.expr.split())}")
    return RuleState(rule, metric, RuleHealth(group.file, group.name, rule.name, rule.kind))


def _link_dependencies(states: list[RuleState]) -> None:
    # No limit here: load_rules has checked it, where the error can name the file.
    for state, indexes in zip(states, find_dependencies([state.rule for state in states], sys.maxsize), strict=True):
        state.dependencies = tuple(states[index] for index in indexes)


def assign_sampling_groups(groups: list[GroupState], used_names: set[str]) -> None:
    """Gives each rule without a sampling group one that no other rule uses and that is not in `used_names`."""
    used_names |= {state.sampling_group for group in groups for state in group.rules}
    suffixes: dict[str, int] = {}
    for group in groups:
        for state in group.rules:
            if not state.sampling_group:
                name = f"{RECORDED_PREFIX}{group.group.file};{group.group.name};{state.rule.name}"
                state.sampling_group = _make_unique(name, used_names, suffixes)
                used_names.add(state.sampling_group)


def _make_unique(name: str, used_names: set[str], suffixes: dict[str, int]) -> str:
    candidate = name
    while candidate in used_names:
        suffixes[name] = suffixes.get(name, 1) + 1
        candidate = f"{name}#{suffixes[name]}"
    return candidate


_GroupAndRule = tuple[GroupState, RuleState]


def inherit_states(groups: list[GroupState], old_groups: list[GroupState]) -> list[RuleState]:
    """
    Passes the state of the old groups and rules on to the new ones; returns the old rules without a successor.

    The old state is shared, not copied: the old groups must not be evaluated afterwards.
    """
    new_states = [(group, state) for group in groups for state in group.rules]
    old_states = [(group, state) for group in old_groups for state in group.rules]
    for key in (_get_exact_key, _get_identity_key, _get_series_key):
        new_states, old_states = _match_states(new_states, old_states, key)
    by_key = {group.key: group for group in old_groups}
    for group in groups:
        if (old_group := by_key.get(group.key)) is not None:
            group.last_ms = old_group.last_ms
            group.next_ms = old_group.next_ms if old_group.interval_ms == group.interval_ms else None
    return [state for _, state in old_states]


def _get_exact_key(pair: _GroupAndRule) -> object:
    return pair[0].key, _get_identity_key(pair)


def _get_identity_key(pair: _GroupAndRule) -> object:
    return pair[1].rule.identity


def _get_series_key(pair: _GroupAndRule) -> object:
    """Matches a rule that has changed, but whose series continue in the same sampling group."""
    return pair[0].key, pair[1].rule.name, pair[1].rule.kind


def _match_states(
    new_states: list[_GroupAndRule], old_states: list[_GroupAndRule], key: Callable[[_GroupAndRule], object]
) -> tuple[list[_GroupAndRule], list[_GroupAndRule]]:
    """Matches new rules to old ones in order by their key; returns the new and the old rules without a match."""
    candidates: dict[object, deque[RuleState]] = {}
    for old_state in old_states:
        candidates.setdefault(key(old_state), deque()).append(old_state[1])
    unmatched = []
    for new_state in new_states:
        if matches := candidates.get(key(new_state)):
            _inherit_state(new_state[1], matches.popleft(), key is not _get_series_key)
        else:
            unmatched.append(new_state)
    remaining_ids = {id(state) for states in candidates.values() for state in states}
    return unmatched, [old_state for old_state in old_states if id(old_state[1]) in remaining_ids]


def _inherit_state(new_state: RuleState, old_state: RuleState, with_alerts: bool) -> None:
    new_state.has_live_series = old_state.has_live_series
    new_state.sampling_group = old_state.sampling_group
    new_state.query_fresh = old_state.query_fresh
    if with_alerts:
        new_state.active, new_state.restored_labels = old_state.active, old_state.restored_labels
        new_state.health = replace(old_state.health, file=new_state.health.file, group=new_state.health.group)
