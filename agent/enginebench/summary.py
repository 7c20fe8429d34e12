"""
What a run says: percentiles, and whether its speed held from the first requests to the last.

The curve to look for: 30 % slower after five requests in a row, 65 % of the start after ten, the same again after a
restart (kvcache-ai/ktransformers#805). A run cannot tell why, except by what else changed meanwhile.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from agent.enginebench.heat import Heat
from agent.enginebench.load import Run

ENOUGH = 5  # requests, below which a first and a last part say nothing
SAGS = 0.1  # of the speed at the start: a loss that matters
HOTTER = 5.0  # degrees
SLOWER = 0.05  # of the processors' frequency


class Percentiles(NamedTuple):
    """Of some seconds or speeds; None where there is none."""

    p50: float
    p90: float
    p99: float
    most: float


class Sag(NamedTuple):
    """Speeds of the first and the last fifth of the requests (medians), the part that was lost, and the noise of it."""

    first: float
    last: float
    lost: float
    noise: float


class Summary(NamedTuple):
    """A whole run in numbers; speeds in tokens per second, times in seconds."""

    requests: int
    failed: int
    tokens: int
    seconds: float
    throughput: float
    speed: Percentiles | None
    first_token: Percentiles | None
    between_tokens: Percentiles | None
    sag: Sag | None


def summarise(run: Run) -> Summary:
    """The numbers of a run."""
    answers = run.answers
    seconds = max((a.ended for a in answers), default=0.0) - min((a.sent for a in answers), default=0.0)
    tokens = sum(answer.tokens for answer in answers)
    return Summary(
        requests=len(answers),
        failed=len(run.failures),
        tokens=tokens,
        seconds=seconds,
        throughput=tokens / seconds if seconds > 0 else 0.0,
        speed=percentiles(speeds(run)),
        first_token=percentiles(a.first_token for a in answers if a.first_token is not None),
        between_tokens=percentiles(gap for answer in answers for gap in answer.gaps),
        sag=sag(speeds(run)),
    )


def speeds(run: Run) -> list[float]:
    """Tokens per second of each request that has them, in the order in which they ended."""
    return [answer.speed for answer in run.answers if answer.speed is not None]


def percentiles(values: Iterable[float]) -> Percentiles | None:
    """Nearest-rank percentiles: each is a value that was measured."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p90, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.9, 0.99))
    return Percentiles(p50, p90, p99, ordered[-1])


def sag(found: Sequence[float]) -> Sag | None:
    """From the first fifth to the last; noise is what neighbours differ by, so that a slow fall is none."""
    if len(found) < ENOUGH:
        return None
    part = max(2, len(found) // 5)
    first, last = statistics.median(found[:part]), statistics.median(found[-part:])
    steps = [abs(after - before) for before, after in pairwise(found)]
    return Sag(first, last, 1 - last / first, statistics.median(steps) / statistics.median(found))


def verdict(summary: Summary, before: Heat, after: Heat) -> str:
    """One or two sentences: whether it sagged, and what else changed."""
    found = summary.sag
    if found is None:
        return f"Fewer than {ENOUGH} requests have a speed: whether it sags cannot be told."
    ends = f"{found.first:.1f} tokens/s at first, {found.last:.1f} at the end"
    clear = abs(found.lost) > max(SAGS, 2 * found.noise)
    if clear and found.lost > 0:
        return f"It sags: {ends}, {100 * found.lost:.0f} % less. {cause(before, after)}"
    if clear:
        return f"It was slow at first: {ends}; something else had the host, or the engine was still warming up."
    if found.noise > SAGS:
        return f"Its speed jumps by {100 * found.noise:.0f} % from request to request ({ends}): the host is not quiet."
    return f"It holds: {ends}."


def cause(before: Heat, after: Heat) -> str:
    """What else changed during a run that sagged."""
    seen = [
        f"the hottest {what} went from {old:.0f} to {new:.0f} °C"
        for what, old, new in (("DIMM", before.dimm, after.dimm), ("processor", before.processor, after.processor))
        if old is not None and new is not None and new - old >= HOTTER
    ]
    if before.hertz and after.hertz and after.hertz < (1 - SLOWER) * before.hertz:
        seen.append(f"the processors went from {before.hertz / 1e9:.2f} to {after.hertz / 1e9:.2f} GHz")
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        seen.append(f"processors were throttled for heat {after.throttled - before.throttled:.0f} times")
    if seen:
        return f"Meanwhile {' and '.join(seen)}."
    told = {"DIMM": after.dimm, "processor": after.processor}
    unknown = [name for name, value in told.items() if value is None]
    if unknown:
        return f"No sensor tells the heat of {' or '.join(unknown)} here; `steadytok check` says what would."
    return "No sensor got hotter: look at memory placement (`steadytok collect numastat`) and at what else runs here."
