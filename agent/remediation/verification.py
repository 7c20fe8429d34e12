"""
Whether an act has helped: decode time per token, temperature, what nodes can give, and the remedy's own expression.

Decode time is compared only at an equal load (requests at once, by powers of two) and at an equal context, since a
fuller batch or a longer context takes longer by itself. Of the context engines tell the share of their KV cache that is
in use; where one does not, its decode time is told in the diary and no verdict rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from agent.remediation.model import EventKind, Measure
from agent.text.units import format_bytes

FASTER_RATIO = 0.95  # of the time per token: less of a difference is noise
CONTEXT_RATIO = (
    1.25  # times the context of each request: attention is a part of a decode step, so this moves it by less
)
WINDOW_MS = 30_000
"""What decode time looks at; sooner after an act it is still made of what was before."""

_SPEED_QUERY = "steadytok_engine_tokens_per_second"
_RUNNING_QUERY = "max_over_time(steadytok_engine_requests_running[30s])"
_CONTEXT_QUERY = """
sum by (engine) (avg_over_time(steadytok_engine_kv_cache_usage_ratio[30s]))
  / (sum by (engine) (avg_over_time(steadytok_engine_requests_running[30s])) > 0)
"""
_HOTTEST_QUERY = "max(steadytok_dimm_temperature_celsius)"
_AVAILABLE_QUERY = "sum by (node) (steadytok_node_meminfo_available_bytes)"
NOTABLE_CHANGE = 0.05  # of a node's available memory; less of a difference comes and goes by itself

Query = Callable[[str], list[tuple[dict[str, str], float]]]


def measure(query: Query, expression_values: tuple[float, ...] | None = None) -> Measure:
    """Now; `shown` is what the remedy's own expression gives."""
    speeds = {labels.get("engine", ""): value for labels, value in query(_SPEED_QUERY) if value > 0}
    running = {labels.get("engine", ""): value for labels, value in query(_RUNNING_QUERY)}
    hottest = query(_HOTTEST_QUERY)
    return Measure(
        {engine: 1000 / speed for engine, speed in speeds.items()},
        {engine: int(math.log2(count)) if count >= 1 else 0 for engine, count in running.items()},
        hottest[0][1] if hottest else None,
        {labels.get("node", ""): value for labels, value in query(_AVAILABLE_QUERY)},
        expression_values,
        {labels.get("engine", ""): value for labels, value in query(_CONTEXT_QUERY) if value > 0},
    )


def compare(before: Measure | None, after: Measure) -> tuple[str, bool | None]:
    """The change in words, and whether decoding became faster; None where that cannot be compared."""
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
    if after.shown is not None:
        parts.append(f"its expression {_format_values(before.shown)} -> {_format_values(after.shown)}")
    return "; ".join(parts), faster


def _is_context_alike(before: Measure, after: Measure, engine: str) -> bool | None:
    """Whether the requests of an engine have about as much context as before, None where it does not tell."""
    earlier, later = before.context.get(engine), after.context.get(engine)
    return None if earlier is None or later is None else max(earlier, later) <= CONTEXT_RATIO * min(earlier, later)


def _describe_nodes(before: Measure, after: Measure) -> Iterator[str]:
    """The nodes that have notably more or less to give."""
    for node, later in sorted(after.available.items()):
        earlier = before.available.get(node)
        if earlier is not None and abs(later - earlier) > NOTABLE_CHANGE * earlier:
            yield f"node {node} available {format_bytes(earlier)} -> {format_bytes(later)}"


def _format_values(values: tuple[float, ...] | None) -> str:
    return "not known" if values is None else ", ".join(f"{value:.4g}" for value in values) or "nothing"


class VerificationEvidence(NamedTuple):
    """What is known when a verdict is asked for."""

    expression_holds: bool | None
    """Whether the remedy's expression gives something, None where it has none."""
    newer: bool
    """Whether that rests on samples newer than the act, all of them."""
    alert: Literal["fires", "ended", "unknown"]
    """`ended`: on fresh evidence newer than the act; `unknown`: lost, withdrawn with its rule, or expired."""
    expired: bool
    """Whether its time is up."""


def judge(evidence: VerificationEvidence, before: Measure | None, after: Measure) -> tuple[EventKind, str] | None:
    """The verdict with its reason, None while it is too early."""
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
    """Why nobody can say whether it helped; empty where one can."""
    if not evidence.newer:
        return "nothing newer than the act is known"
    if evidence.alert == "ended":
        return "the alert has ended, though its expression shows nothing"
    return "the alert is gone or its evidence lost" if evidence.alert == "unknown" else ""
