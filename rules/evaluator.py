"""
Evaluates rule groups when they are due, records their results in History, and tracks their alerts.

After Prometheus' rules/group.go and manager.go. The rules of a group run in order at the same time, so later rules see
the results of earlier ones. A late tick is skipped, never caught up with. A failed query leaves the rule's state as it
was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from collectors import Sample
from rules.alert_restore import SavedAlert, build_rule_keys, restore_alert, with_current_identity
from rules.alerts import Alert, AlertConditions, advance_alerts, count_live
from rules.history.history import History
from rules.model import Group, Rule, RuleSet
from rules.outcome import (
    GroupEvaluation,
    RuleError,
    build_alert_samples,
    build_alerts,
    build_recording_samples,
    run_rule_query,
)
from rules.promql import compile as compile_query
from rules.reach import describe_excess
from rules.state import GroupState, RuleHealth, RuleState, assign_sampling_groups, build_group_states, inherit_states


class RuleReport(NamedTuple):
    """One rule with its health and its alerts, resolved ones included."""

    rule: Rule
    health: RuleHealth
    alerts: tuple[Alert, ...]


class GroupReport(NamedTuple):
    """One group with its rules, the interval in effect, and the time of its last evaluation."""

    group: Group
    interval_ms: int
    last_ms: int | None
    rules: tuple[RuleReport, ...]


class RuleEvaluator:
    """Evaluates a RuleSet tick by tick, and reports its alerts and the health of its rules."""

    def __init__(
        self,
        rule_set: RuleSet,
        *,
        interval_ms: int,
        external_labels: Mapping[str, str],
        external_url: str,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`interval_ms` is the default of groups without an interval; `clock` returns seconds and times the rules."""
        self.rule_set = rule_set
        self.interval_ms = interval_ms
        self.external_labels = dict(external_labels)
        self.external_url = external_url
        self._clock = clock
        self._ended_groups: tuple[str, ...] = ()
        """Sampling groups of removed rules, whose series end at the next evaluation."""
        self._windows: dict[str, int] = {}
        """By the expressions of alerts, which are those of the rules, and of restored alerts."""
        self._groups = build_group_states(rule_set.groups, interval_ms)
        self._by_key = dict(zip(build_rule_keys(rule_set.rules), self._states, strict=True))
        assign_sampling_groups(self._groups, set())

    @property
    def _states(self) -> list[RuleState]:
        return [state for group in self._groups for state in group.rules]

    def evaluate(self, history: History, now_ms: int, *, force: bool = False) -> None:
        """Evaluates the groups that are due, or with `force` all; an error of a rule goes to its health."""
        for sampling_group in self._ended_groups:
            history.record(sampling_group, now_ms, ())
        self._ended_groups = ()
        for state in self._groups:
            if force or state.is_due(now_ms):
                self._evaluate_group(state, history, now_ms)

    def _evaluate_group(self, state: GroupState, history: History, now_ms: int) -> None:
        evaluation = GroupEvaluation(
            history, now_ms, state.group, state.interval_ms, self.external_labels, self.external_url
        )
        for rule_state in state.rules:
            started = self._clock()
            outcome = _evaluate_rule(rule_state, evaluation)
            seconds = self._clock() - started
            rule_state.health = replace(rule_state.health, **outcome, last_ms=now_ms, duration_seconds=seconds)
        state.schedule_next(now_ms)

    def list_alerts(self) -> tuple[Alert, ...]:
        """Returns the alerts in the order of the rules: pending, firing, and resolved for up to 15 minutes."""
        return tuple(alert for group in self._groups for state in group.rules for alert in state.active.values())

    def find_window_ms(self, expr: str) -> int:
        """Returns how much of the past an alert's expression needs, including the recording rules it builds on."""
        if expr not in self._windows:
            query, recorders = compile_query(expr), (state for state in self._states if state.rule.kind == "record")
            windows = (state.window_ms for state in recorders if state.rule.name in query.names)
            self._windows[expr] = query.window_ms + max(windows, default=0)
        return self._windows[expr]

    def export_alerts(self) -> tuple[SavedAlert, ...]:
        """Returns the alerts that must outlive the process, in the order of the rules."""
        return tuple(SavedAlert(key, alert) for key, state in self._by_key.items() for alert in state.active.values())

    def restore_alerts(self, saved_alerts: Iterable[SavedAlert], now_ms: int, saved_ms: int) -> int:
        """Restores the alerts saved at saved_ms, before the first evaluation; returns how many found their rule."""
        count = 0
        for key, alert in saved_alerts:
            state = self._by_key.get(key)
            if state is not None and state.rule.kind == "alert":
                state.active[alert.labels] = restore_alert(alert, now_ms, saved_ms)
                state.restored_labels |= {alert.labels}
                count += 1
        return count

    def list_sampling_groups(self) -> tuple[str, ...]:
        """Returns the groups of History that the rules record under."""
        return tuple(state.sampling_group for state in self._states)

    def report(self) -> tuple[GroupReport, ...]:
        """Returns every group with its rules, for the query API."""
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
        """The health of each rule, in the order of the rules."""
        return tuple(state.health for group in self._groups for state in group.rules)

    def shift(self, delta_ms: int) -> None:
        """Moves every stored time after a shift of the wall clock, so that durations stay the same."""
        for group in self._groups:
            group.shift(delta_ms)

    def replace_rules(self, rule_set: RuleSet) -> RuleEvaluator:
        """
        Returns the evaluator after a reload: rules of the same kind, name and labels keep their alerts and their `for`.

        The series of removed rules end at the next evaluation; their alerts are dropped without being resolved, as
        Prometheus does.
        """
        successor = RuleEvaluator(
            rule_set,
            interval_ms=self.interval_ms,
            external_labels=self.external_labels,
            external_url=self.external_url,
            clock=self._clock,
        )
        for state in successor._states:
            state.sampling_group = ""
        retired_states = inherit_states(successor._groups, self._groups)
        retired_names = {state.sampling_group for state in retired_states} | set(self._ended_groups)
        assign_sampling_groups(successor._groups, retired_names)
        ended = (state.sampling_group for state in retired_states if state.has_live_series)
        successor._ended_groups = (*self._ended_groups, *ended)
        return successor


def _evaluate_rule(state: RuleState, evaluation: GroupEvaluation) -> dict[str, Any]:
    """Evaluates one rule; returns the fields of its RuleHealth that change."""
    if excess := describe_excess(evaluation.group, state.rule, evaluation.history.retention_ms):
        return {"health": "err", "error": excess}
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
    except Exception as error:  # a bug in the evaluation of one rule must not stop the others and the tick
        return {"health": "err", "error": f"internal error: {type(error).__name__}: {error}"}
    return {"health": "ok", "error": "", "series": series, "fresh": fresh}


def _evaluate_alerting(state: RuleState, evaluation: GroupEvaluation, fresh: bool) -> int:
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


def _evaluate_recording(state: RuleState, evaluation: GroupEvaluation) -> int:
    vector = run_rule_query(state.rule, evaluation)
    _record_samples(
        state, evaluation, build_recording_samples(state.rule, state.metric, vector, evaluation.group.limit)
    )
    return len(vector)


def _record_samples(state: RuleState, evaluation: GroupEvaluation, samples: list[Sample]) -> None:
    """Records the samples; History ends the series without one. A rule that never had a sample needs no row."""
    if samples or state.has_live_series:
        evaluation.history.record(state.sampling_group, evaluation.at_ms, samples)
    state.has_live_series = bool(samples)
