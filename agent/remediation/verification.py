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

from agent.remediation.model import Kind, Measure
from agent.text.units import bytes_written

BETTER = 0.95  # of the time per token: less of a difference is noise
ALIKE = 1.25  # times the context of each request: attention is a part of a decode step, so this moves it by less
WINDOW_MS = 30_000
"""What decode time looks at; sooner after an act it is still made of what was before."""

_SPEED = "steadytok_engine_tokens_per_second"
_RUNNING = "max_over_time(steadytok_engine_requests_running[30s])"
_CONTEXT = """
sum by (engine) (avg_over_time(steadytok_engine_kv_cache_usage_ratio[30s]))
  / (sum by (engine) (avg_over_time(steadytok_engine_requests_running[30s])) > 0)
"""
_HOTTEST = "max(steadytok_dimm_temperature_celsius)"
_AVAILABLE = "sum by (node) (steadytok_node_meminfo_available_bytes)"
NOTABLE = 0.05  # of a node's available memory; less of a difference comes and goes by itself

Ask = Callable[[str], list[tuple[dict[str, str], float]]]


def measure(ask: Ask, shown: tuple[float, ...] | None = None) -> Measure:
    """Now; `shown` is what the remedy's own expression gives."""
    speeds = {labels.get("engine", ""): value for labels, value in ask(_SPEED) if value > 0}
    running = {labels.get("engine", ""): value for labels, value in ask(_RUNNING)}
    hottest = ask(_HOTTEST)
    return Measure(
        {engine: 1000 / speed for engine, speed in speeds.items()},
        {engine: int(math.log2(count)) if count >= 1 else 0 for engine, count in running.items()},
        hottest[0][1] if hottest else None,
        {labels.get("node", ""): value for labels, value in ask(_AVAILABLE)},
        shown,
        {labels.get("engine", ""): value for labels, value in ask(_CONTEXT) if value > 0},
    )


def compared(before: Measure | None, after: Measure) -> tuple[str, bool | None]:
    """The change in words, and whether decoding became faster; None where that cannot be compared."""
    if before is None:
        return "", None
    parts, faster = list(_nodes(before, after)), None
    for engine, now in sorted(after.ms_per_token.items()):
        then, alike = before.ms_per_token.get(engine), _alike(before, after, engine)
        if then is None or alike is False or before.load.get(engine) != after.load.get(engine):
            continue
        parts.append(f"{engine} {then:.0f} -> {now:.0f} ms per token{'' if alike else ' (context not known)'}")
        faster = bool(faster) or now < BETTER * then if alike else faster
    if before.hottest is not None and after.hottest is not None:
        parts.append(f"hottest DIMM {before.hottest:.0f} -> {after.hottest:.0f} °C")
    if after.shown is not None:
        parts.append(f"its expression {_written(before.shown)} -> {_written(after.shown)}")
    return "; ".join(parts), faster


def _alike(before: Measure, after: Measure, engine: str) -> bool | None:
    """Whether the requests of an engine have about as much context as before, None where it does not tell."""
    then, now = before.context.get(engine), after.context.get(engine)
    return None if then is None or now is None else max(then, now) <= ALIKE * min(then, now)


def _nodes(before: Measure, after: Measure) -> Iterator[str]:
    """The nodes that have notably more or less to give."""
    for node, now in sorted(after.available.items()):
        then = before.available.get(node)
        if then is not None and abs(now - then) > NOTABLE * then:
            yield f"node {node} available {bytes_written(then)} -> {bytes_written(now)}"


def _written(values: tuple[float, ...] | None) -> str:
    return "not known" if values is None else ", ".join(f"{value:.4g}" for value in values) or "nothing"


class Evidence(NamedTuple):
    """What is known when a verdict is asked for."""

    shown: bool | None
    """Whether the remedy's expression gives something, None where it has none."""
    newer: bool
    """Whether that rests on samples newer than the act, all of them."""
    alert: Literal["fires", "ended", "unknown"]
    """`ended`: on fresh evidence newer than the act; `unknown`: lost, withdrawn with its rule, or expired."""
    over: bool
    """Whether its time is up."""


def judged(evidence: Evidence, before: Measure | None, after: Measure) -> tuple[Kind, str] | None:
    """The verdict with its reason, None while it is too early."""
    change, faster = compared(before, after)
    shown, ended = evidence.shown, evidence.alert == "ended"
    if evidence.newer and (shown or (shown is None and ended)):
        return Kind.HELPED, change
    if not evidence.over:
        return None
    if shown is None and faster:
        return Kind.HELPED, change
    if why := _unjudged(evidence):
        return Kind.UNJUDGED, "; ".join(filter(None, (change, why)))
    return Kind.USELESS, change


def _unjudged(evidence: Evidence) -> str:
    """Why nobody can say whether it helped; empty where one can."""
    if not evidence.newer:
        return "nothing newer than the act is known"
    if evidence.alert == "ended":
        return "the alert has ended, though its expression shows nothing"
    return "the alert is gone or its evidence lost" if evidence.alert == "unknown" else ""
