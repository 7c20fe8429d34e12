"""
The state machine of an alert, as a table from state and evidence to the next state. Pure: the caller passes the time.

The states and their order are those of Prometheus' rules/alerting.go:
https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/. There are two differences.

While a collector is silent, an alert that vanishes is *lost*, not resolved. It keeps firing with `fresh` false until a
fresh evaluation shows it again, a fresh empty result resolves it, or 15 minutes have passed.

After a restart Prometheus restarts a short `for` (prometheus #15175); here the alert continues. Its absence does not
end it until the metrics of its rule have been sampled again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from collectors import Labels

RESOLVED_RETENTION_MS = 15 * 60_000
"""How long a resolved alert is retained, so that Alertmanager receives it more than once."""

LOST_RETENTION_MS = 15 * 60_000
"""How long a lost alert keeps firing before it counts as resolved."""

SETTLE_MS = 60_000
"""How long a restored alert waits for metrics that have not been sampled since the restart."""


class AlertState(Enum):
    """The state of an alert; an untracked alert has none."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Evidence(Enum):
    """What one evaluation reveals about one alert."""

    PRESENT = "present"
    ABSENT = "absent"
    SILENT = "silent"
    """Absent while a source of the query is silent, so the absence proves nothing."""
    UNCOVERED = "uncovered"
    """Absent, but too little was sampled since the restart for that to prove anything."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `labels` are its identity and include `alertname`. Times are in Unix ms."""

    name: str
    labels: Labels
    annotations: Labels
    state: AlertState
    value: float
    active_at_ms: int
    expr: str
    interval_ms: int
    """The interval of the rule's group."""
    fired_at_ms: int | None = None
    resolved_at_ms: int | None = None
    keep_firing_since_ms: int | None = None
    lost_since_ms: int | None = None
    """When the alert lost its evidence; None while it has some."""
    fresh: bool = True
    """False if a source of the evidence is silent, or was when the alert ended: remedies treat the alert as lost."""
    restored_ms: int | None = None
    """When it was restored after a restart; None once its rule's evidence is complete again."""

    def shift(self, delta_ms: int) -> Alert:
        """Returns the same alert after a shift of the wall clock."""
        return replace(
            self,
            active_at_ms=self.active_at_ms + delta_ms,
            fired_at_ms=_shift_time(self.fired_at_ms, delta_ms),
            resolved_at_ms=_shift_time(self.resolved_at_ms, delta_ms),
            keep_firing_since_ms=_shift_time(self.keep_firing_since_ms, delta_ms),
            lost_since_ms=_shift_time(self.lost_since_ms, delta_ms),
            restored_ms=_shift_time(self.restored_ms, delta_ms),
        )


@dataclass(frozen=True, slots=True)
class AlertConditions:
    """The time of an evaluation, the rule's `for` and `keep_firing_for`, and whether no source was silent."""

    for_ms: int
    keep_firing_for_ms: int
    now_ms: int
    fresh: bool
    window_ms: int = 0
    """How much of the past the rule needs: its ranges, subqueries and offsets."""
    sources_sampled: bool = True
    """True if every metric of the rule was sampled since the restart; only computed for restored alerts."""


Active = Mapping[Labels, Alert]
"""The alerts of one rule by their labels."""


def advance_alerts(active: Active, results: Active, conditions: AlertConditions) -> dict[Labels, Alert]:
    """
    Returns the alerts of a rule after an evaluation.

    `results` has a new, pending Alert for each element of the query's result. An alert that is already tracked takes
    its value, its annotations, and what a reload may have changed in its rule.
    """
    after: dict[Labels, Alert] = {}
    for labels in (*active, *(labels for labels in results if labels not in active)):
        alert = advance_alert(active.get(labels), results.get(labels), conditions)
        if alert is not None:
            after[labels] = alert
    return after


def advance_alert(alert: Alert | None, result: Alert | None, conditions: AlertConditions) -> Alert | None:
    """Returns one alert after an evaluation, or None if it is no longer tracked."""
    candidate = alert or result
    if candidate is None:
        return None
    if alert is not None and alert.restored_ms is not None and not _lacks_coverage(alert, conditions):
        alert = candidate = replace(alert, restored_ms=None)
    state = alert.state if alert else None
    return TRANSITIONS[state, _classify_evidence(alert, result, conditions)](
        _TransitionInputs(candidate, result or candidate, conditions)
    )


def count_live(active: Active) -> int:
    """Counts the pending and firing alerts, for a group's `limit`."""
    return sum(alert.state is not AlertState.RESOLVED for alert in active.values())


def _classify_evidence(alert: Alert | None, result: Alert | None, conditions: AlertConditions) -> Evidence:
    if result is not None:
        return Evidence.PRESENT
    if alert is not None and alert.restored_ms is not None:
        return Evidence.UNCOVERED
    return Evidence.ABSENT if conditions.fresh else Evidence.SILENT


def _lacks_coverage(alert: Alert, conditions: AlertConditions) -> bool:
    age_ms = conditions.now_ms - (alert.restored_ms or 0)
    if age_ms < conditions.window_ms or (not conditions.sources_sampled and age_ms < SETTLE_MS):
        return True
    # A firing alert with a silent source becomes lost, which has its own time limit; a pending one would be dropped.
    return alert.state is AlertState.PENDING and not conditions.fresh and age_ms < LOST_RETENTION_MS


@dataclass(frozen=True, slots=True)
class _TransitionInputs:
    alert: Alert
    result: Alert
    conditions: AlertConditions


def _start(inputs: _TransitionInputs) -> Alert:
    return _apply_for(
        replace(inputs.result, active_at_ms=inputs.conditions.now_ms, fresh=inputs.conditions.fresh), inputs.conditions
    )


def _refresh(inputs: _TransitionInputs) -> Alert:
    refreshed = replace(
        inputs.alert,
        value=inputs.result.value,
        annotations=inputs.result.annotations,
        expr=inputs.result.expr,
        interval_ms=inputs.result.interval_ms,
        keep_firing_since_ms=None,
        lost_since_ms=None,
        fresh=inputs.conditions.fresh,
    )
    return _apply_for(refreshed, inputs.conditions)


def _apply_for(alert: Alert, conditions: AlertConditions) -> Alert:
    long_enough = conditions.now_ms - alert.active_at_ms >= conditions.for_ms
    if alert.state is AlertState.PENDING and long_enough:
        return replace(alert, state=AlertState.FIRING, fired_at_ms=conditions.now_ms)
    if alert.state is AlertState.FIRING and not long_enough:  # a reload brought a longer `for` (prometheus #18244)
        return replace(alert, state=AlertState.PENDING, fired_at_ms=None)
    return alert


def _drop(inputs: _TransitionInputs) -> None:
    return None


def _keep_firing_or_resolve(inputs: _TransitionInputs) -> Alert:
    conditions = inputs.conditions
    since = inputs.alert.keep_firing_since_ms
    since = conditions.now_ms if since is None else since
    if conditions.now_ms - since < conditions.keep_firing_for_ms:
        continued = replace(inputs.alert, keep_firing_since_ms=since, lost_since_ms=None, fresh=True)
        return _apply_for(continued, conditions)
    return _resolve(inputs.alert, conditions)


def _keep_lost_or_resolve(inputs: _TransitionInputs) -> Alert:
    conditions = inputs.conditions
    since = inputs.alert.lost_since_ms
    since = conditions.now_ms if since is None else since
    if conditions.now_ms - since < LOST_RETENTION_MS:
        return _apply_for(replace(inputs.alert, lost_since_ms=since, fresh=False), conditions)
    return _resolve(inputs.alert, conditions)


def _wait_for_evidence(inputs: _TransitionInputs) -> Alert:
    return replace(inputs.alert, fresh=False)


def _mark_lost(inputs: _TransitionInputs) -> Alert:
    since = inputs.alert.lost_since_ms
    return replace(inputs.alert, lost_since_ms=inputs.conditions.now_ms if since is None else since, fresh=False)


def _resolve(alert: Alert, conditions: AlertConditions) -> Alert:
    resolved = AlertState.RESOLVED
    return replace(alert, state=resolved, resolved_at_ms=conditions.now_ms, lost_since_ms=None, fresh=conditions.fresh)


def _retain_or_forget(inputs: _TransitionInputs) -> Alert | None:
    resolved_at_ms = inputs.alert.resolved_at_ms
    expired = resolved_at_ms is not None and inputs.conditions.now_ms - resolved_at_ms > RESOLVED_RETENTION_MS
    return None if expired else inputs.alert


def _shift_time(at_ms: int | None, delta_ms: int) -> int | None:
    return None if at_ms is None else at_ms + delta_ms


TRANSITIONS: Mapping[tuple[AlertState | None, Evidence], Callable[[_TransitionInputs], Alert | None]] = {
    (None, Evidence.PRESENT): _start,
    (AlertState.PENDING, Evidence.PRESENT): _refresh,
    (AlertState.PENDING, Evidence.ABSENT): _drop,
    (AlertState.PENDING, Evidence.SILENT): _drop,
    (AlertState.PENDING, Evidence.UNCOVERED): _wait_for_evidence,
    (AlertState.FIRING, Evidence.PRESENT): _refresh,
    (AlertState.FIRING, Evidence.ABSENT): _keep_firing_or_resolve,
    (AlertState.FIRING, Evidence.SILENT): _keep_lost_or_resolve,
    (AlertState.FIRING, Evidence.UNCOVERED): _mark_lost,
    (AlertState.RESOLVED, Evidence.PRESENT): _start,
    (AlertState.RESOLVED, Evidence.ABSENT): _retain_or_forget,
    (AlertState.RESOLVED, Evidence.SILENT): _retain_or_forget,
    (AlertState.RESOLVED, Evidence.UNCOVERED): _retain_or_forget,
}
"""What an evaluation does to an alert in each state; None is an alert that is not tracked yet."""
