"""
Whether an act has helped: decode time per token, temperature, what nodes can give, and the remedy's own expression.

Decode time is compared only at an equal load (requests at once, by powers of two), since a fuller batch or a longer
context takes longer by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from agent.acts import Kind, Measure
from agent.units import bytes_written

BETTER = 0.95  # of the time per token: less of a difference is noise
_SPEED = "steadytok_engine_tokens_per_second"
_RUNNING = "max_over_time(steadytok_engine_requests_running[30s])"
_HOTTEST = "max(steadytok_dimm_temperature_celsius)"
_AVAILABLE = "sum by (node) (steadytok_node_meminfo_available_bytes)"
NOTABLE = 0.05  # of a node's available memory; less of a difference comes and goes by itself

Ask = Callable[[str], list[tuple[dict[str, str], float]]]


def measure(ask: Ask) -> Measure:
    """Now."""
    speeds = {labels.get("engine", ""): value for labels, value in ask(_SPEED) if value > 0}
    running = {labels.get("engine", ""): value for labels, value in ask(_RUNNING)}
    hottest = ask(_HOTTEST)
    return Measure(
        {engine: 1000 / speed for engine, speed in speeds.items()},
        {engine: int(math.log2(count)) if count >= 1 else 0 for engine, count in running.items()},
        hottest[0][1] if hottest else None,
        {labels.get("node", ""): value for labels, value in ask(_AVAILABLE)},
    )


def compared(before: Measure | None, after: Measure) -> tuple[str, bool | None]:
    """The change in words, and whether decoding became faster; None where the loads cannot be compared."""
    parts, faster = list(_nodes(before, after)), None
    for engine, now in sorted(after.ms_per_token.items()):
        then = None if before is None else before.ms_per_token.get(engine)
        if before is None or then is None or before.load.get(engine) != after.load.get(engine):
            continue
        parts.append(f"{engine} {then:.0f} -> {now:.0f} ms per token")
        faster = bool(faster) or now < BETTER * then
    if before is not None and before.hottest is not None and after.hottest is not None:
        parts.append(f"hottest DIMM {before.hottest:.0f} -> {after.hottest:.0f} °C")
    return "; ".join(parts), faster


def _nodes(before: Measure | None, after: Measure) -> Iterator[str]:
    """The nodes that have notably more or less to give."""
    for node, now in sorted(after.available.items()):
        then = None if before is None else before.available.get(node)
        if then is not None and abs(now - then) > NOTABLE * then:
            yield f"node {node} available {bytes_written(then)} -> {bytes_written(now)}"


def judged(
    shown: bool | None, ended: bool, over: bool, before: Measure | None, after: Measure
) -> tuple[Kind, str] | None:
    """
    The verdict, None while it is too early.

    `shown`: whether the remedy's expression gives something, None where it has none; `ended`: whether the alert has
    ended on fresh evidence; `over`: whether its time is up.
    """
    change, faster = compared(before, after)
    if shown or (shown is None and ended):
        return Kind.HELPED, change
    if not over:
        return None
    if shown is None and faster:
        return Kind.HELPED, change
    if ended:
        return Kind.UNJUDGED, "; ".join(
            filter(None, (change, "the alert has ended, though its expression shows nothing"))
        )
    return Kind.USELESS, change
