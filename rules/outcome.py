"""Evaluates one rule at one time, to samples or alerts; after Prometheus' rules/recording.go and alerting.go."""

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
from rules.promql.values import MAX_VALUE_LENGTH
from rules.templates.template import Budget, Scope

ALERTS = gauge("ALERTS", "Alerts that are pending or firing, by alertname and alertstate.")
ALERTS_FOR_STATE = gauge("ALERTS_FOR_STATE", "When an alert became active, in Unix seconds.")

_DUPLICATE_LABELSET = "vector contains metrics with the same labelset after applying {} labels"


class RuleError(Exception):
    """A rule has no result this time; the message says why."""


@dataclass(frozen=True)
class GroupEvaluation:
    """One evaluation of one group: its time, its History, and what its templates may use."""

    history: History
    now_ms: int
    group: Group
    interval_ms: int
    external_labels: Mapping[str, str] = field(default_factory=dict)
    external_url: str = ""

    @property
    def at_ms(self) -> int:
        """The time that queries are evaluated at and that results are stored at."""
        return self.now_ms - self.group.query_offset_ms

    def run_query(self, budget: QueryBudget, text: str) -> list[tuple[Labels, float]]:
        """Runs a template's query on the budget shared by the rule's templates; raises PromqlError."""
        budget.release()
        return list(compile_query(text).evaluate_at(self.history, self.at_ms, budget))


def run_rule_query(rule: Rule, evaluation: GroupEvaluation) -> Vector:
    """Evaluates the rule's query; raises RuleError."""
    if rule.query.kind not in ("vector", "scalar"):
        raise RuleError("rule result is not a vector or scalar")
    try:
        return rule.query.evaluate_at(evaluation.history, evaluation.at_ms)
    except PromqlError as error:
        raise RuleError(str(error)) from None


def build_recording_samples(rule: Rule, metric: Metric, vector: Vector, limit: int) -> list[Sample]:
    """Builds the samples of a recording rule; raises RuleError for equal label sets, or beyond the limit (0: none)."""
    labels = [(name, template.text) for name, template in rule.labels]
    samples = [Sample(metric, relabel(series_labels, labels), value) for series_labels, value in vector]
    if len({sample.labels for sample in samples}) < len(samples):
        raise RuleError(_DUPLICATE_LABELSET.format("rule"))
    if 0 < limit < len(samples):
        raise RuleError(f"exceeded limit of {limit} with {len(samples)} series")
    return samples


def relabel(labels: Labels, changes: Sequence[tuple[str, str]]) -> Labels:
    """Drops the metric name and applies the rule's labels, which win; an empty value removes a label."""
    remaining = {name: value for name, value in labels if name != "__name__"}
    remaining.update(changes)
    return tuple(sorted((name, value) for name, value in remaining.items() if value))


def build_alerts(rule: Rule, vector: Vector, evaluation: GroupEvaluation) -> dict[Labels, Alert]:
    """Builds a pending Alert for each element of the result; raises RuleError if two have the same labels."""
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
    expanded = ((name, _limit_label(name, value)) for name, value in _expand_templates(rule.labels, scope))
    rule_labels = (*expanded, ("alertname", rule.name))
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


def _limit_label(name: str, value: str) -> str:
    """Returns the value, or an error in its place: no template may lose the alert."""
    if len(value) <= MAX_VALUE_LENGTH:
        return value
    return (
        f"<error expanding template: label {name} would have {len(value):,} characters, and {MAX_VALUE_LENGTH:,} are "
        "allowed; put long texts into annotations>"
    )


def _expand_templates(templates: Templates, scope: Scope) -> Labels:
    return tuple((name, template.expand(scope)) for name, template in templates)


def build_alert_samples(active: Active) -> list[Sample]:
    """Builds the samples of ALERTS and ALERTS_FOR_STATE for the pending and firing alerts."""
    samples: list[Sample] = []
    for labels, alert in active.items():
        if alert.state is not AlertState.RESOLVED:
            state = relabel(labels, [("alertstate", alert.state.value)])
            samples.append(Sample(ALERTS, state, 1.0))
            samples.append(Sample(ALERTS_FOR_STATE, labels, float(alert.active_at_ms // 1000)))
    return samples
