"""One rule at one time: its result as series or as alerts, after Prometheus' rules/recording.go and alerting.go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from collectors import Labels, Metric, Sample, gauge
from rules.alerts import Active, Alert, AlertState
from rules.history.history import History
from rules.model import Group, Rule, Templates
from rules.promql import PromqlError, QueryBudget, Vector
from rules.promql import compile as compile_query
from rules.templates.template import Budget, Scope

ALERTS = gauge("ALERTS", "Alerts that are pending or firing, by alertname and alertstate.")
ALERTS_FOR_STATE = gauge("ALERTS_FOR_STATE", "When an alert became active, in Unix seconds.")

_DUPLICATE_LABELSET = "vector contains metrics with the same labelset after applying {} labels"


class RuleError(Exception):
    """Why a rule gave nothing this time."""


@dataclass(frozen=True)
class GroupEvaluation:
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

    def run_query(self, budget: QueryBudget, text: str) -> list[tuple[Labels, float]]:
        """A template's query, at the expense of all templates of its rule; PromqlError where it has no answer."""
        budget.release()
        return list(compile_query(text).evaluate_at(self.history, self.at_ms, budget))


def run_rule_query(rule: Rule, evaluation: GroupEvaluation) -> Vector:
    """The rule's query at this moment; raises RuleError."""
    if rule.query.kind not in ("vector", "scalar"):
        raise RuleError("rule result is not a vector or scalar")
    try:
        return rule.query.evaluate_at(evaluation.history, evaluation.at_ms)
    except PromqlError as error:
        raise RuleError(str(error)) from None


def build_recording_samples(rule: Rule, metric: Metric, vector: Vector, limit: int) -> list[Sample]:
    """The samples a recording rule writes; raises RuleError for a duplicate labelset or beyond the limit (0: none)."""
    labels = [(name, template.text) for name, template in rule.labels]
    samples = [Sample(metric, relabel(series_labels, labels), value) for series_labels, value in vector]
    if len({sample.labels for sample in samples}) < len(samples):
        raise RuleError(_DUPLICATE_LABELSET.format("rule"))
    if 0 < limit < len(samples):
        raise RuleError(f"exceeded limit of {limit} with {len(samples)} series")
    return samples


def relabel(labels: Labels, changes: Sequence[tuple[str, str]]) -> Labels:
    """Labels without the metric's name and with the rule's own, which win; an empty value drops a label."""
    remaining = {name: value for name, value in labels if name != "__name__"}
    remaining.update(changes)
    return tuple(sorted((name, value) for name, value in remaining.items() if value))


def build_alerts(rule: Rule, vector: Vector, evaluation: GroupEvaluation) -> dict[Labels, Alert]:
    """A pending Alert for each element of the result; raises RuleError where two have the same labels."""
    alerts: dict[Labels, Alert] = {}
    budget, run_query = Budget(), partial(evaluation.run_query, QueryBudget())
    for labels, value in vector:
        scope = Scope(
            dict(labels),
            value,
            evaluation.external_labels,
            evaluation.external_url,
            evaluation.at_ms,
            run_query,
            budget,
        )
        alert = _build_alert(rule, labels, scope, evaluation)
        if alert.labels in alerts:
            raise RuleError(_DUPLICATE_LABELSET.format("alert"))
        alerts[alert.labels] = alert
    return alerts


def _build_alert(rule: Rule, labels: Labels, scope: Scope, evaluation: GroupEvaluation) -> Alert:
    rule_labels = (*_expand_templates(rule.labels, scope), ("alertname", rule.name))
    return Alert(
        name=rule.name,
        labels=relabel(labels, rule_labels),
        annotations=_expand_templates(rule.annotations, scope),
        state=AlertState.PENDING,
        value=scope.value,
        active_at_ms=evaluation.now_ms,
        expr=rule.expr,
        interval_ms=evaluation.interval_ms,
    )


def _expand_templates(templates: Templates, scope: Scope) -> Labels:
    return tuple((name, template.expand(scope)) for name, template in templates)


def build_alert_samples(active: Active) -> list[Sample]:
    """ALERTS and ALERTS_FOR_STATE of the alerts that are pending or firing."""
    samples: list[Sample] = []
    for labels, alert in active.items():
        if alert.state is not AlertState.RESOLVED:
            state = relabel(labels, [("alertstate", alert.state.value)])
            samples.append(Sample(ALERTS, state, 1.0))
            samples.append(Sample(ALERTS_FOR_STATE, labels, float(alert.active_at_ms // 1000)))
    return samples
