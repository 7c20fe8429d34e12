"""
The living state of rules: which group is due, what each rule gave, which alerts there are.

After Prometheus' rules/group.go and manager.go. A group's rules run in order at the same time, later ones see what
earlier ones recorded. A late tick is skipped, never caught up with. A query's error leaves everything as it was.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from collectors import Labels, Metric, Sample, gauge
from rules.alert_restore import SavedAlert, build_rule_keys, restore_alert, with_current_identity
from rules.alerts import Alert, AlertConditions, advance_alerts, count_live
from rules.dependencies import find_dependencies
from rules.history.history import RECORDED_PREFIX, History
from rules.outcome import (
    GroupEvaluation,
    RuleError,
    build_alert_samples,
    build_alerts,
    build_recording_samples,
    run_rule_query,
)
from rules.promql import Query
from rules.rulefile import Group, Rule, RuleSet

__all__ = ["RuleEvaluator", "RuleHealth", "RuleSet"]

JITTER_MS = 50  # how much a tick may come early and still count for its slot


@dataclass(frozen=True, slots=True)
class RuleHealth:
    """How one rule fares; `error` is of its last evaluation, empty where that was well."""

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
    """How many elements the query gave: always 0 points at a rule that matches nothing."""
    fresh: bool = True
    """False where a source of the query was silent."""


class RuleReport(NamedTuple):
    """One rule with how it fares and the alerts it has, resolved ones included."""

    rule: Rule
    health: RuleHealth
    alerts: tuple[Alert, ...]


class GroupReport(NamedTuple):
    """One group with its rules, the interval it really has, and when it was last evaluated."""

    group: Group
    interval_ms: int
    last_ms: int | None
    rules: tuple[RuleReport, ...]


@dataclass
class _RuleState:
    rule: Rule
    metric: Metric
    health: RuleHealth
    sampling_group: str = ""
    """The group its series are recorded under; kept over reloads, because History remembers who owns a series."""
    active: dict[Labels, Alert] = field(default_factory=dict)
    restored_labels: frozenset[Labels] = frozenset()
    """Which of these came back after a restart: they may be from before rules saw the identity."""
    has_live_series: bool = False
    """Whether its last evaluation left live series."""
    query_fresh: bool = True
    """Whether every source of its own query spoke at its last evaluation."""
    dependencies: tuple[_RuleState, ...] = ()
    """The recording rules it builds on, directly or not."""

    @property
    def sampled_names(self) -> set[str]:
        """The metrics it comes from at last, without those that rules record."""
        states = (self, *self.dependencies)
        return {name for state in states for name in state.rule.query.names} - {
            state.rule.name for state in self.dependencies
        }

    @property
    def window_ms(self) -> int:
        """How much of the past it needs, that of the rules it builds on included."""
        return self.rule.query.window_ms + max((state.rule.query.window_ms for state in self.dependencies), default=0)

    def shift(self, delta_ms: int) -> None:
        self.active = {labels: alert.shift(delta_ms) for labels, alert in self.active.items()}
        last_ms = self.health.last_ms
        self.health = replace(self.health, last_ms=None if last_ms is None else last_ms + delta_ms)


@dataclass
class _GroupState:
    group: Group
    interval_ms: int
    rules: list[_RuleState]
    next_ms: int | None = None
    last_ms: int | None = None

    def is_due(self, now_ms: int) -> bool:
        if self.last_ms is not None and now_ms <= self.last_ms:
            return False
        return self.next_ms is None or now_ms >= self.next_ms - _slot_tolerance_ms(self.interval_ms)

    def schedule_next(self, now_ms: int) -> None:
        self.last_ms = now_ms
        self.next_ms = compute_next_slot(now_ms, self.interval_ms)

    def shift(self, delta_ms: int) -> None:
        self.last_ms = None if self.last_ms is None else self.last_ms + delta_ms
        self.next_ms = None if self.next_ms is None else self.next_ms + delta_ms
        for state in self.rules:
            state.shift(delta_ms)


def compute_next_slot(now_ms: int, interval_ms: int) -> int:
    """
    The start of the slot after the one that an evaluation at now_ms counts for; slots are multiples of the interval.

    One that comes just before a slot counts for it, or ticks that jitter around a slot would be dropped every other
    time.
    """
    start = (now_ms // interval_ms + 1) * interval_ms
    return start if start - now_ms > _slot_tolerance_ms(interval_ms) // 2 else start + interval_ms


def _slot_tolerance_ms(interval_ms: int) -> int:
    return min(JITTER_MS, interval_ms // 20)


class RuleEvaluator:
    """A RuleSet over time: evaluate it each tick, ask it for alerts and health."""

    def __init__(
        self,
        rule_set: RuleSet,
        *,
        interval_ms: int,
        external_labels: Mapping[str, str],
        external_url: str,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`interval_ms` is of groups without one of their own; `clock` gives seconds, for how long rules take."""
        self.rule_set = rule_set
        self.interval_ms = interval_ms
        self.external_labels = dict(external_labels)
        self.external_url = external_url
        self._clock = clock
        self._ended_groups: tuple[str, ...] = ()
        self._groups = [
            _GroupState(group, group.interval_ms or interval_ms, [_new_state(group, rule) for rule in group.rules])
            for group in rule_set.groups
        ]
        _link_dependencies(self._states)
        self._by_key = dict(zip(build_rule_keys(rule_set.rules), self._states, strict=True))
        _assign_sampling_groups(self._groups, set())

    @property
    def _states(self) -> list[_RuleState]:
        return [state for group in self._groups for state in group.rules]

    def evaluate(self, history: History, now_ms: int, *, force: bool = False) -> None:
        """Evaluates the groups that are due, or every group, and records what they give; raises nothing of a rule's."""
        for sampling_group in self._ended_groups:
            history.record(sampling_group, now_ms, ())
        self._ended_groups = ()
        for state in self._groups:
            if force or state.is_due(now_ms):
                self._evaluate_group(state, history, now_ms)

    def _evaluate_group(self, state: _GroupState, history: History, now_ms: int) -> None:
        evaluation = GroupEvaluation(
            history, now_ms, state.group, state.interval_ms, self.external_labels, self.external_url
        )
        for rule_state in state.rules:
            started = self._clock()
            outcome = _evaluate_rule(rule_state, evaluation)
            seconds = self._clock() - started
            rule_state.health = replace(rule_state.health, **outcome, last_ms=now_ms, duration_seconds=seconds)
        state.schedule_next(now_ms)

    def alerts(self) -> tuple[Alert, ...]:
        """Pending, firing, and resolved for up to 15 minutes, in the order of the rules."""
        return tuple(alert for group in self._groups for state in group.rules for alert in state.active.values())

    def compute_window_ms(self, query: Query) -> int:
        """How much of the past a query needs, that of the recording rules it builds on included."""
        recorders = (state for state in self._states if state.rule.kind == "record" and state.rule.name in query.names)
        return query.window_ms + max((state.window_ms for state in recorders), default=0)

    def export_alerts(self) -> tuple[SavedAlert, ...]:
        """What must outlive the process, in the order of the rules."""
        return tuple(SavedAlert(key, alert) for key, state in self._by_key.items() for alert in state.active.values())

    def restore_alerts(self, saved_alerts: Iterable[SavedAlert], now_ms: int, saved_ms: int) -> int:
        """Goes on, before the first evaluation, with what was kept at saved_ms; returns how many alerts came back."""
        count = 0
        for key, alert in saved_alerts:
            state = self._by_key.get(key)
            if state is not None and state.rule.kind == "alert":
                state.active[alert.labels] = restore_alert(alert, now_ms, saved_ms)
                state.restored_labels |= {alert.labels}
                count += 1
        return count

    def sampling_groups(self) -> tuple[str, ...]:
        """The groups of History that the rules record under."""
        return tuple(state.sampling_group for state in self._states)

    def report(self) -> tuple[GroupReport, ...]:
        """Every group with its rules, as the query API shows them."""
        return tuple(
            GroupReport(
                state.group,
                state.interval_ms,
                state.last_ms,
                tuple(
                    RuleReport(rule_state.rule, rule_state.health, tuple(rule_state.active.values()))
                    for rule_state in state.rules
                ),
            )
            for state in self._groups
        )

    @property
    def health(self) -> tuple[RuleHealth, ...]:
        """How each rule fares, in the order of the rules."""
        return tuple(state.health for group in self._groups for state in group.rules)

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped by delta_ms: every time kept here moves with it, so that durations stay."""
        for group in self._groups:
            group.shift(delta_ms)

    def replace_rules(self, rule_set: RuleSet) -> RuleEvaluator:
        """
        The state after a reload: rules of the same kind, name and labels keep their alerts, so `for` keeps running.

        The series of rules that are gone end at the next evaluation; their alerts are dropped without being resolved,
        as Prometheus does.
        """
        successor = RuleEvaluator(
            rule_set,
            interval_ms=self.interval_ms,
            external_labels=self.external_labels,
            external_url=self.external_url,
            clock=self._clock,
        )
        old_states = [(group, state) for group in self._groups for state in group.rules]
        new_states = [(group, state) for group in successor._groups for state in group.rules]
        for _, new_state in new_states:
            new_state.sampling_group = ""
        for key in (_exact_key, _identity_key, _series_key):
            new_states, old_states = _inherit_states(new_states, old_states, key)
        retired_names = {state.sampling_group for _, state in old_states} | set(self._ended_groups)
        _assign_sampling_groups(successor._groups, retired_names)
        successor._ended_groups = (
            *self._ended_groups,
            *(state.sampling_group for _, state in old_states if state.has_live_series),
        )
        old_groups = {_group_key(group): group for group in self._groups}
        for group in successor._groups:
            if (old_group := old_groups.get(_group_key(group))) is not None:
                group.last_ms = old_group.last_ms
                group.next_ms = old_group.next_ms if old_group.interval_ms == group.interval_ms else None
        return successor


def _new_state(group: Group, rule: Rule) -> _RuleState:
    metric = gauge(rule.name, f"Recorded by a rule: {' '.join(rule.expr.split())}")
    return _RuleState(rule, metric, RuleHealth(group.file, group.name, rule.name, rule.kind))


def _link_dependencies(states: list[_RuleState]) -> None:
    # Without a bound: that was asked about when the files were read, where it can be said to somebody.
    for state, indexes in zip(states, find_dependencies([state.rule for state in states], sys.maxsize), strict=True):
        state.dependencies = tuple(states[index] for index in indexes)


def _assign_sampling_groups(groups: list[_GroupState], used_names: set[str]) -> None:
    """Gives each rule that has none a sampling group nobody else has or is about to leave."""
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


def _evaluate_rule(state: _RuleState, evaluation: GroupEvaluation) -> dict[str, Any]:
    try:
        state.query_fresh = state.rule.query.is_fresh(evaluation.history, evaluation.at_ms)
        fresh = state.query_fresh and all(dependency.query_fresh for dependency in state.dependencies)
        series = (
            _evaluate_alerting(state, evaluation, fresh)
            if state.rule.kind == "alert"
            else _evaluate_recording(state, evaluation)
        )
    except RuleError as error:
        return {"health": "err", "error": str(error)}
    except Exception as error:  # a fault in evaluating one rule must not take the others and the tick with it
        return {"health": "err", "error": f"internal error: {type(error).__name__}: {error}"}
    return {"health": "ok", "error": "", "series": series, "fresh": fresh}


def _evaluate_alerting(state: _RuleState, evaluation: GroupEvaluation, fresh: bool) -> int:
    rule, limit = state.rule, evaluation.group.limit
    vector = run_rule_query(rule, evaluation)
    conditions = AlertConditions(rule.for_ms, rule.keep_firing_for_ms, evaluation.now_ms, fresh)
    since = [alert.restored_ms for alert in state.active.values() if alert.restored_ms is not None]
    if since:
        sources_sampled = all(evaluation.history.has_samples_since(name, min(since)) for name in state.sampled_names)
        conditions = replace(
            conditions, window_ms=state.window_ms + evaluation.group.query_offset_ms, sources_sampled=sources_sampled
        )
    results = build_alerts(rule, vector, evaluation)
    state.restored_labels = state.restored_labels.intersection(state.active)
    previous = with_current_identity(state.active, state.restored_labels, results, evaluation.history.identity)
    state.active = advance_alerts(previous, results, conditions)
    if 0 < limit < (count := count_live(state.active)):
        state.active = {}
        raise RuleError(f"exceeded limit of {limit} with {count} alerts")
    _record_samples(state, evaluation, build_alert_samples(state.active))
    return len(vector)


def _evaluate_recording(state: _RuleState, evaluation: GroupEvaluation) -> int:
    vector = run_rule_query(state.rule, evaluation)
    _record_samples(
        state, evaluation, build_recording_samples(state.rule, state.metric, vector, evaluation.group.limit)
    )
    return len(vector)


def _record_samples(state: _RuleState, evaluation: GroupEvaluation, samples: list[Sample]) -> None:
    """History ends the series that are not among the samples; a rule that never gave one needs no row."""
    if samples or state.has_live_series:
        evaluation.history.record(state.sampling_group, evaluation.at_ms, samples)
    state.has_live_series = bool(samples)


_GroupAndRule = tuple[_GroupState, _RuleState]


def _exact_key(pair: _GroupAndRule) -> object:
    return _group_key(pair[0]), _identity_key(pair)


def _identity_key(pair: _GroupAndRule) -> object:
    return pair[1].rule.identity


def _series_key(pair: _GroupAndRule) -> object:
    """Not the same rule any more, but its series go on in the same sampling group."""
    return _group_key(pair[0]), pair[1].rule.name, pair[1].rule.kind


def _group_key(group: _GroupState) -> tuple[str, str]:
    return group.group.file, group.group.name


def _inherit_states(
    new_states: list[_GroupAndRule], old_states: list[_GroupAndRule], key: Callable[[_GroupAndRule], object]
) -> tuple[list[_GroupAndRule], list[_GroupAndRule]]:
    """Each takes over from the first rule left of the same key; gives the heirs that found none, and what is left."""
    candidates: dict[object, deque[_RuleState]] = {}
    for old_state in old_states:
        candidates.setdefault(key(old_state), deque()).append(old_state[1])
    unmatched = []
    for new_state in new_states:
        if matches := candidates.get(key(new_state)):
            _copy_state(new_state[1], matches.popleft(), key is not _series_key)
        else:
            unmatched.append(new_state)
    remaining_ids = {id(state) for states in candidates.values() for state in states}
    return unmatched, [old_state for old_state in old_states if id(old_state[1]) in remaining_ids]


def _copy_state(new_state: _RuleState, old_state: _RuleState, with_alerts: bool) -> None:
    new_state.has_live_series, new_state.sampling_group, new_state.query_fresh = (
        old_state.has_live_series,
        old_state.sampling_group,
        old_state.query_fresh,
    )
    if with_alerts:
        new_state.active, new_state.restored_labels = old_state.active, old_state.restored_labels
        new_state.health = replace(old_state.health, file=new_state.health.file, group=new_state.health.group)
