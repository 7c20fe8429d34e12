"""The verdicts that are due: each act that is held is asked about until it has helped, or its time is up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import structlog

from agent.remediation import verification
from agent.remediation.catalog import BoundRemedy
from agent.remediation.model import Act, Event, EventKind, Measure, Phase
from agent.remediation.verification import Query, VerificationEvidence
from collectors import Labels
from rules import promql
from rules.alerts import Alert, AlertState
from rules.templates.template import Scope


class VerificationInputs(NamedTuple):
    """What verdicts rest on."""

    now_ms: int
    alerts: Mapping[Labels, Alert]
    query: Query
    has_samples_since: Callable[[Iterable[str], int], bool]
    """Whether metrics, by their names, have been sampled since a time."""


def collect_verdicts(
    acts: Iterable[Act], catalog: Mapping[str, BoundRemedy], inputs: VerificationInputs
) -> Iterator[Event]:
    """One event for each act on which something can be said now."""
    for act in acts:
        if act.phase is not Phase.HELD or act.verified or act.did_ms is None:
            continue
        name, _ = act.verdict_key
        # Without a verdict it would keep every other remedy back for ever.
        gone = Event(act.id, EventKind.UNJUDGED, f"{name} has left the configuration")
        verdict = _judge_act(act, act.did_ms, catalog[name], inputs) if name in catalog else gone
        if verdict is not None:
            yield verdict


def measure_before(act: Act, catalog: Mapping[str, BoundRemedy], inputs: VerificationInputs) -> Measure:
    """What there is before an act, or before what is held is tightened."""
    name, labels = act.verdict_key
    expression_values = _evaluate_expression(catalog[name], labels, inputs).values if name in catalog else None
    return verification.measure(inputs.query, expression_values)


def _judge_act(act: Act, did_ms: int, bound: BoundRemedy, inputs: VerificationInputs) -> Event | None:
    _, labels = act.verdict_key
    result, age_ms = _evaluate_expression(bound, labels, inputs), inputs.now_ms - did_ms
    least_ms = verification.WINDOW_MS if result.values is None else result.window_ms
    evidence = VerificationEvidence(
        None if result.values is None else bool(result.values),
        newer=age_ms >= result.window_ms and inputs.has_samples_since(result.names, did_ms + 1),
        alert=_classify_alert(inputs.alerts.get(labels), did_ms, inputs),
        expired=age_ms >= max(bound.settings.verify.within * 1000, least_ms),
    )
    if not (result.values or evidence.alert == "ended" or evidence.expired):
        return None
    after = verification.measure(inputs.query, result.values)
    verdict = verification.judge(evidence, act.before, after)
    if verdict is None:
        return None
    kind, detail = verdict
    return Event(act.id, kind, "; ".join(filter(None, (act.plan, detail))), after=after)


def _classify_alert(
    alert: Alert | None, did_ms: int, inputs: VerificationInputs
) -> Literal["fires", "ended", "unknown"]:
    if alert is None or not alert.fresh:
        return "unknown"
    if alert.state is AlertState.FIRING:
        return "fires"
    ended_since = alert.state is AlertState.RESOLVED and (alert.resolved_at_ms or 0) > did_ms
    return (
        "ended" if ended_since and inputs.has_samples_since(promql.compile(alert.expr).names, did_ms + 1) else "unknown"
    )


class _ExpressionResult(NamedTuple):
    """A remedy's expression for one alert: what it gives (None where it has none), and what that rests on."""

    values: tuple[float, ...] | None
    window_ms: int = 0
    names: frozenset[str] = frozenset()


def _evaluate_expression(bound: BoundRemedy, labels: Labels, inputs: VerificationInputs) -> _ExpressionResult:
    if bound.verify is None:
        return _ExpressionResult(None)
    alert = inputs.alerts.get(labels)
    value = float("nan") if alert is None else alert.value
    text = bound.verify.expand(
        Scope(dict(bound.select_labels(dict(labels))), value, {}, "", inputs.now_ms, lambda _: [])
    )
    try:
        compiled = promql.compile(text)
        return _ExpressionResult(tuple(number for _, number in inputs.query(text)), compiled.window_ms, compiled.names)
    except promql.PromqlError as error:
        reason = str(error)
        structlog.get_logger().warning("the verify expression cannot be asked", remedy=bound.remedy.name, reason=reason)
        return _ExpressionResult(())
