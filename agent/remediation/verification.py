"""
Verifies acts by decode time per token, temperature, available memory, and the remedy's own expression.

Decode time is compared only at an equal load and an equal context, since a fuller batch or a longer context takes
longer by itself. The load is the concurrent requests, by powers of two. The context is the share of the KV cache in
use. Without it, decode time is only shown in the audit, and no verdict rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

import structlog

from agent.pacing.inputs import InstantQuery, index_by_engine
from agent.remediation.model import Act, Event, EventKind, Measure, Phase, Remedy
from agent.text.units import format_bytes
from collectors import Labels
from rules import promql
from rules.alerts import Alert, AlertState
from rules.templates.template import Scope

FASTER_RATIO = 0.95  # of the time per token: a smaller difference is noise
# Times the context of each request: attention is a part of a decode step, so this moves it by less
CONTEXT_RATIO = 1.25
WINDOW_MS = 30_000
"""The window of decode time; sooner after an act it still includes the time before."""

_SPEED_QUERY = "steadytok_engine_tokens_per_second"
_RUNNING_QUERY = "max_over_time(steadytok_engine_requests_running[30s])"
_CONTEXT_QUERY = """
sum by (engine) (avg_over_time(steadytok_engine_kv_cache_usage_ratio[30s]))
  / (sum by (engine) (avg_over_time(steadytok_engine_requests_running[30s])) > 0)
"""
_HOTTEST_QUERY = "max(steadytok_dimm_temperature_celsius)"
_AVAILABLE_QUERY = "sum by (node) (steadytok_node_meminfo_available_bytes)"
NOTABLE_CHANGE = 0.05  # of a node's available memory; smaller differences come and go by themselves


def measure(query: InstantQuery, expression_values: tuple[float, ...] | None = None) -> Measure:
    """Measures the present; `expression_values` are those of the remedy's own expression."""
    speeds = index_by_engine(row for row in query(_SPEED_QUERY) if row[1] > 0)
    contexts = index_by_engine(row for row in query(_CONTEXT_QUERY) if row[1] > 0)
    hottest = query(_HOTTEST_QUERY)
    return Measure(
        {engine: 1000 / speed for engine, speed in speeds.items()},
        {
            engine: int(math.log2(count)) if count >= 1 else 0
            for engine, count in index_by_engine(query(_RUNNING_QUERY)).items()
        },
        hottest[0][1] if hottest else None,
        {labels.get("node", ""): value for labels, value in query(_AVAILABLE_QUERY)},
        expression_values,
        contexts,
    )


def compare(before: Measure | None, after: Measure) -> tuple[str, bool | None]:
    """Returns the change in words, and True if decoding became faster; None if that cannot be compared."""
    if before is None:
        return "", None
    parts, faster = list(_describe_nodes(before, after)), None
    for engine, later in sorted(after.ms_per_token.items()):
        earlier, same_context = before.ms_per_token.get(engine), _is_context_alike(before, after, engine)
        if earlier is None or same_context is False or before.load.get(engine) != after.load.get(engine):
            continue
        parts.append(
            f"{engine} {earlier:.0f} -> {later:.0f} ms per token{'' if same_context else ' (context not known)'}"
        )
        faster = bool(faster) or later < FASTER_RATIO * earlier if same_context else faster
    if before.hottest is not None and after.hottest is not None:
        parts.append(f"hottest DIMM {before.hottest:.0f} -> {after.hottest:.0f} °C")
    if after.expression_values is not None:
        parts.append(
            f"its expression {_format_values(before.expression_values)} -> {_format_values(after.expression_values)}"
        )
    return "; ".join(parts), faster


def _is_context_alike(before: Measure, after: Measure, engine: str) -> bool | None:
    """True if an engine's requests have about as much context as before; None if it does not report that."""
    earlier, later = before.context.get(engine), after.context.get(engine)
    return None if earlier is None or later is None else max(earlier, later) <= CONTEXT_RATIO * min(earlier, later)


def _describe_nodes(before: Measure, after: Measure) -> Iterator[str]:
    """Yields the nodes whose available memory changed notably."""
    for node, later in sorted(after.available.items()):
        earlier = before.available.get(node)
        if earlier is not None and abs(later - earlier) > NOTABLE_CHANGE * earlier:
            yield f"node {node} available {format_bytes(earlier)} -> {format_bytes(later)}"


def _format_values(values: tuple[float, ...] | None) -> str:
    return "not known" if values is None else ", ".join(f"{value:.4g}" for value in values) or "nothing"


class VerificationEvidence(NamedTuple):
    """The evidence of a verdict."""

    expression_holds: bool | None
    """True if the remedy's expression has a value; None if it has no expression."""
    newer: bool
    """True if all of it rests on samples newer than the act."""
    alert: Literal["fires", "ended", "unknown"]
    """`ended`: on fresh evidence newer than the act; `unknown`: lost, withdrawn with its rule, or expired."""
    expired: bool
    """True once the time for a verdict is over."""


def judge(evidence: VerificationEvidence, before: Measure | None, after: Measure) -> tuple[EventKind, str] | None:
    """Returns the verdict with its reason; None while it is too early."""
    change, faster = compare(before, after)
    holds, ended = evidence.expression_holds, evidence.alert == "ended"
    if evidence.newer and (holds or (holds is None and ended)):
        return EventKind.HELPED, change
    if not evidence.expired:
        return None
    if holds is None and faster:
        return EventKind.HELPED, change
    if reason := _explain_unjudged(evidence):
        return EventKind.UNJUDGED, "; ".join(filter(None, (change, reason)))
    return EventKind.USELESS, change


def _explain_unjudged(evidence: VerificationEvidence) -> str:
    """Returns the reason why no verdict is possible; empty if one is."""
    if not evidence.newer:
        return "no samples newer than the act"
    if evidence.alert == "ended":
        return "the alert has ended, but the verify expression has no value"
    return "the alert is gone or its evidence lost" if evidence.alert == "unknown" else ""


class VerificationInputs(NamedTuple):
    """The inputs of all verdicts at one moment."""

    now_ms: int
    alerts: Mapping[Labels, Alert]
    query: InstantQuery
    has_samples_since: Callable[[Iterable[str], int], bool]
    """True if the named metrics have been sampled since a time."""


def collect_verdicts(acts: Iterable[Act], catalog: Mapping[str, Remedy], inputs: VerificationInputs) -> Iterator[Event]:
    """Yields one event for each act whose verdict is due."""
    for act in acts:
        if act.phase is not Phase.HELD or act.verified or act.did_ms is None:
            continue
        name, _ = act.verdict_key
        # Without a verdict the act would block every other remedy for ever.
        gone = Event(act.id, EventKind.UNJUDGED, f"{name} has left the configuration")
        verdict = _judge_act(act, act.did_ms, catalog[name], inputs) if name in catalog else gone
        if verdict is not None:
            yield verdict


def measure_before(act: Act, catalog: Mapping[str, Remedy], inputs: VerificationInputs) -> Measure:
    """Measures before an act, or before a held value is tightened."""
    name, labels = act.verdict_key
    expression_values = _evaluate_expression(catalog[name], labels, inputs).values if name in catalog else None
    return measure(inputs.query, expression_values)


def _judge_act(act: Act, did_ms: int, remedy: Remedy, inputs: VerificationInputs) -> Event | None:
    _, labels = act.verdict_key
    result, age_ms = _evaluate_expression(remedy, labels, inputs), inputs.now_ms - did_ms
    least_ms = WINDOW_MS if result.values is None else result.window_ms
    evidence = VerificationEvidence(
        None if result.values is None else bool(result.values),
        newer=age_ms >= result.window_ms and inputs.has_samples_since(result.names, did_ms + 1),
        alert=_classify_alert(inputs.alerts.get(labels), did_ms, inputs),
        expired=age_ms >= max(remedy.settings.verify.within * 1000, least_ms),
    )
    if not (result.values or evidence.alert == "ended" or evidence.expired):
        return None
    after = measure(inputs.query, result.values)
    verdict = judge(evidence, act.before, after)
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
    """The values of a remedy's expression for one alert (None without an expression), and their sources."""

    values: tuple[float, ...] | None
    window_ms: int = 0
    names: frozenset[str] = frozenset()


def _evaluate_expression(remedy: Remedy, labels: Labels, inputs: VerificationInputs) -> _ExpressionResult:
    if remedy.verify is None:
        return _ExpressionResult(None)
    alert = inputs.alerts.get(labels)
    value = float("nan") if alert is None else alert.value
    text = remedy.verify.expand(
        Scope(dict(remedy.select_labels(dict(labels))), value, {}, "", inputs.now_ms, lambda _: [])
    )
    try:
        compiled = promql.compile(text)
        return _ExpressionResult(tuple(number for _, number in inputs.query(text)), compiled.window_ms, compiled.names)
    except promql.PromqlError as error:
        reason = str(error)
        structlog.get_logger().warning("the verify expression cannot be evaluated", remedy=remedy.name, reason=reason)
        return _ExpressionResult(())
