"""
The life of an alert as a table: (state, what the query showed) to what becomes of it. Pure; the time is passed in.

The order of things is that of Prometheus' rules/alerting.go:
https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/.
It differs only while a collector is silent: there an alert that vanishes is *lost*, not resolved. It stays firing with
`fresh` false until a fresh evaluation shows it again, a fresh empty result resolves it, or 15 minutes have passed.
And after a restart: there Prometheus begins a short `for` again (prometheus #15175), here the alert goes on, and
absence does not end it before what its rule looks at has been seen again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from collectors import Labels

RESOLVED_RETENTION_MS = 15 * 60_000
"""How long a resolved alert is kept, so that Alertmanager is told more than once."""

LOST_RETENTION_MS = 15 * 60_000
"""How long an alert whose evidence fell silent is held before it counts as resolved."""

SETTLE_MS = 60_000
"""How long after a restart a restored alert waits for metrics that nobody has sampled yet."""


class AlertState(Enum):
    """Where an alert stands; one that is not tracked has no state."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Evidence(Enum):
    """What one evaluation showed of one alert."""

    PRESENT = "present"
    ABSENT = "absent"
    SILENT = "silent"
    """Absent, but a source of the query is silent: nobody knows."""
    UNCOVERED = "uncovered"
    """Absent, but since the restart too little has been seen for that to mean anything."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; `labels` are its identity and hold `alertname`. Times are Unix milliseconds."""

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
    """Since when the alert is firing without evidence; None while there is some."""
    fresh: bool = True
    """False where it is held by, or ended on, evidence with a silent source: remedies count it as lost."""
    restored_ms: int | None = None
    """When it was restored after a restart; None as soon as its rule's evidence is whole again."""

    def shifted(self, delta_ms: int) -> Alert:
        """The same alert after the wall clock stepped by delta_ms."""
        return replace(
            self,
            active_at_ms=self.active_at_ms + delta_ms,
            fired_at_ms=_plus(self.fired_at_ms, delta_ms),
            resolved_at_ms=_plus(self.resolved_at_ms, delta_ms),
            keep_firing_since_ms=_plus(self.keep_firing_since_ms, delta_ms),
            lost_since_ms=_plus(self.lost_since_ms, delta_ms),
            restored_ms=_plus(self.restored_ms, delta_ms),
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """A rule's `for` and `keep_firing_for`, the time of the evaluation, and whether its sources all speak."""

    for_ms: int
    keep_firing_for_ms: int
    now_ms: int
    fresh: bool
    window_ms: int = 0
    """How much of the past the rule needs: its ranges, subqueries and offsets."""
    heard: bool = True
    """Whether every metric of the rule has been sampled since the restart; asked for restored alerts only."""


Active = Mapping[Labels, Alert]
"""The alerts of one rule by their labels."""


def advance(active: Active, found: Active, terms: Terms) -> dict[Labels, Alert]:
    """
    The alerts of a rule after an evaluation.

    `found` has a new, pending Alert for each element of the result; of one that is already tracked its value and
    annotations count, and what a reload may have changed of its rule.
    """
    after: dict[Labels, Alert] = {}
    for labels in (*active, *(labels for labels in found if labels not in active)):
        alert = step(active.get(labels), found.get(labels), terms)
        if alert is not None:
            after[labels] = alert
    return after


def step(alert: Alert | None, found: Alert | None, terms: Terms) -> Alert | None:
    """One alert after an evaluation, or None when it is no longer tracked."""
    subject = alert or found
    if subject is None:
        return None
    if alert is not None and alert.restored_ms is not None and not _uncovered(alert, terms):
        alert = subject = replace(alert, restored_ms=None)
    state = alert.state if alert else None
    return TRANSITIONS[state, _evidence(alert, found, terms)](_Case(subject, found or subject, terms))


def live(active: Active) -> int:
    """How many alerts are pending or firing: what a group's `limit` counts."""
    return sum(alert.state is not AlertState.RESOLVED for alert in active.values())


def _evidence(alert: Alert | None, found: Alert | None, terms: Terms) -> Evidence:
    if found is not None:
        return Evidence.PRESENT
    if alert is not None and alert.restored_ms is not None:
        return Evidence.UNCOVERED
    return Evidence.ABSENT if terms.fresh else Evidence.SILENT


def _uncovered(alert: Alert, terms: Terms) -> bool:
    age_ms = terms.now_ms - (alert.restored_ms or 0)
    if age_ms < terms.window_ms or (not terms.heard and age_ms < SETTLE_MS):
        return True
    # A firing alert whose source stays silent is lost, which has its own end; a pending one would be forgotten.
    return alert.state is AlertState.PENDING and not terms.fresh and age_ms < LOST_RETENTION_MS


@dataclass(frozen=True, slots=True)
class _Case:
    alert: Alert
    found: Alert
    terms: Terms


def _begin(case: _Case) -> Alert:
    return _ripened(replace(case.found, active_at_ms=case.terms.now_ms, fresh=case.terms.fresh), case.terms)


def _seen(case: _Case) -> Alert:
    again = replace(
        case.alert,
        value=case.found.value,
        annotations=case.found.annotations,
        expr=case.found.expr,
        interval_ms=case.found.interval_ms,
        keep_firing_since_ms=None,
        lost_since_ms=None,
        fresh=case.terms.fresh,
    )
    return _ripened(again, case.terms)


def _ripened(alert: Alert, terms: Terms) -> Alert:
    long_enough = terms.now_ms - alert.active_at_ms >= terms.for_ms
    if alert.state is AlertState.PENDING and long_enough:
        return replace(alert, state=AlertState.FIRING, fired_at_ms=terms.now_ms)
    if alert.state is AlertState.FIRING and not long_enough:  # a reload brought a longer `for` (prometheus #18244)
        return replace(alert, state=AlertState.PENDING, fired_at_ms=None)
    return alert


def _dropped(case: _Case) -> None:
    return None


def _kept_or_resolved(case: _Case) -> Alert:
    terms = case.terms
    since = case.alert.keep_firing_since_ms
    since = terms.now_ms if since is None else since
    if terms.now_ms - since < terms.keep_firing_for_ms:
        kept = replace(case.alert, keep_firing_since_ms=since, lost_since_ms=None, fresh=True)
        return _ripened(kept, terms)
    return _resolved(case.alert, terms)


def _held_or_given_up(case: _Case) -> Alert:
    terms = case.terms
    since = case.alert.lost_since_ms
    since = terms.now_ms if since is None else since
    if terms.now_ms - since < LOST_RETENTION_MS:
        return _ripened(replace(case.alert, lost_since_ms=since, fresh=False), terms)
    return _resolved(case.alert, terms)


def _waiting(case: _Case) -> Alert:
    return replace(case.alert, fresh=False)


def _held(case: _Case) -> Alert:
    since = case.alert.lost_since_ms
    return replace(case.alert, lost_since_ms=case.terms.now_ms if since is None else since, fresh=False)


def _resolved(alert: Alert, terms: Terms) -> Alert:
    ended = AlertState.RESOLVED
    return replace(alert, state=ended, resolved_at_ms=terms.now_ms, lost_since_ms=None, fresh=terms.fresh)


def _remembered(case: _Case) -> Alert | None:
    ended = case.alert.resolved_at_ms
    expired = ended is not None and case.terms.now_ms - ended > RESOLVED_RETENTION_MS
    return None if expired else case.alert


def _plus(at_ms: int | None, delta_ms: int) -> int | None:
    return None if at_ms is None else at_ms + delta_ms


TRANSITIONS: Mapping[tuple[AlertState | None, Evidence], Callable[[_Case], Alert | None]] = {
    (None, Evidence.PRESENT): _begin,
    (AlertState.PENDING, Evidence.PRESENT): _seen,
    (AlertState.PENDING, Evidence.ABSENT): _dropped,
    (AlertState.PENDING, Evidence.SILENT): _dropped,
    (AlertState.PENDING, Evidence.UNCOVERED): _waiting,
    (AlertState.FIRING, Evidence.PRESENT): _seen,
    (AlertState.FIRING, Evidence.ABSENT): _kept_or_resolved,
    (AlertState.FIRING, Evidence.SILENT): _held_or_given_up,
    (AlertState.FIRING, Evidence.UNCOVERED): _held,
    (AlertState.RESOLVED, Evidence.PRESENT): _begin,
    (AlertState.RESOLVED, Evidence.ABSENT): _remembered,
    (AlertState.RESOLVED, Evidence.SILENT): _remembered,
    (AlertState.RESOLVED, Evidence.UNCOVERED): _remembered,
}
"""The whole life: what an evaluation does to an alert in each state (None: not tracked yet)."""
