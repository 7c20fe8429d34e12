"""One rule at one time: its result as series or as alerts, after Prometheus' rules/recording.go and alerting.go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from collectors import Labels, Metric, Sample, gauge
from rules.alerts import Active, Alert, AlertState
from rules.history.history import History
from rules.promql import Effort, PromqlError, Vector
from rules.promql import compile as compile_query
from rules.rulefile import Group, Rule, Templates
from rules.templates.template import Budget, Scope

ALERTS = gauge("ALERTS", "Alerts that are pending or firing, by alertname and alertstate.")
ALERTS_FOR_STATE = gauge("ALERTS_FOR_STATE", "When an alert became active, in Unix seconds.")

_DUPLICATE = "vector contains metrics with the same labelset after applying {} labels"


class RuleError(Exception):
    """Why a rule gave nothing this time."""


@dataclass(frozen=True)
class Moment:
    """One evaluation of one group: when, over what, and what its templates may see."""

    history: History
    now_ms: int
    group: Group
    interval_ms: int
    external_labels: Mapping[str, str] = field(default_factory=dict)
    external_url: str = ""

    @property
    def at_ms(self) -> int:
        """The time that is asked about, and that results are stored at."""
        return self.now_ms - self.group.query_offset_ms

    def ask(self, effort: Effort, text: str) -> list[tuple[Labels, float]]:
        """A template's query, at the expense of all templates of its rule; PromqlError where it has no answer."""
        effort.release()
        return list(compile_query(text).at(self.history, self.at_ms, effort))


def result_of(rule: Rule, moment: Moment) -> Vector:
    """The rule's query at this moment; raises RuleError."""
    if rule.query.kind not in ("vector", "scalar"):
        raise RuleError("rule result is not a vector or scalar")
    try:
        return rule.query.at(moment.history, moment.at_ms)
    except PromqlError as error:
        raise RuleError(str(error)) from None


def recorded(rule: Rule, metric: Metric, vector: Vector, limit: int) -> list[Sample]:
    """The samples a recording rule writes; raises RuleError for a duplicate labelset or beyond the limit (0: none)."""
    labels = [(name, template.text) for name, template in rule.labels]
    samples = [Sample(metric, relabelled(found, labels), value) for found, value in vector]
    if len({sample.labels for sample in samples}) < len(samples):
        raise RuleError(_DUPLICATE.format("rule"))
    if 0 < limit < len(samples):
        raise RuleError(f"exceeded limit of {limit} with {len(samples)} series")
    return samples


def relabelled(labels: Labels, changes: Sequence[tuple[str, str]]) -> Labels:
    """Labels without the metric's name and with the rule's own, which win; an empty value drops a label."""
    kept = {name: value for name, value in labels if name != "__name__"}
    kept.update(changes)
    return tuple(sorted((name, value) for name, value in kept.items() if value))


def found_alerts(rule: Rule, vector: Vector, moment: Moment) -> dict[Labels, Alert]:
    """A pending Alert for each element of the result; raises RuleError where two have the same labels."""
    found: dict[Labels, Alert] = {}
    budget, ask = Budget(), partial(moment.ask, Effort())
    for labels, value in vector:
        around = Scope(dict(labels), value, moment.external_labels, moment.external_url, moment.at_ms, ask, budget)
        alert = _alert(rule, labels, around, moment)
        if alert.labels in found:
            raise RuleError(_DUPLICATE.format("alert"))
        found[alert.labels] = alert
    return found


def _alert(rule: Rule, labels: Labels, around: Scope, moment: Moment) -> Alert:
    own = (*_expanded(rule.labels, around), ("alertname", rule.name))
    return Alert(
        name=rule.name,
        labels=relabelled(labels, own),
        annotations=_expanded(rule.annotations, around),
        state=AlertState.PENDING,
        value=around.value,
        active_at_ms=moment.now_ms,
        expr=rule.expr,
        interval_ms=moment.interval_ms,
    )


def _expanded(templates: Templates, scope: Scope) -> Labels:
    return tuple((name, template.expand(scope)) for name, template in templates)


def alert_samples(active: Active) -> list[Sample]:
    """ALERTS and ALERTS_FOR_STATE of the alerts that are pending or firing."""
    samples: list[Sample] = []
    for labels, alert in active.items():
        if alert.state is not AlertState.RESOLVED:
            state = relabelled(labels, [("alertstate", alert.state.value)])
            samples.append(Sample(ALERTS, state, 1.0))
            samples.append(Sample(ALERTS_FOR_STATE, labels, float(alert.active_at_ms // 1000)))
    return samples
