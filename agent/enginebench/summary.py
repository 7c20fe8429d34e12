"""
Summarises a run: percentiles, and whether its speed held from the first requests to the last.

The known curve: 30 % slower after five requests in a row, 65 % of the first speed after ten, and the same again after a
restart (kvcache-ai/ktransformers#805). A run shows its cause only by what else changed meanwhile.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from agent.enginebench.heat import Heat
from agent.enginebench.load import LoadRun

MIN_REQUESTS = 5  # fewer have no meaningful first and last part
SAG_THRESHOLD = 0.1  # of the first speed; a smaller loss does not matter
HEAT_THRESHOLD = 5.0  # degrees
FREQUENCY_THRESHOLD = 0.05  # of the processors' frequency


class Percentiles(NamedTuple):
    """Percentiles of seconds or speeds."""

    p50: float
    p90: float
    p99: float
    maximum: float


class Sag(NamedTuple):
    """Median speeds of the first and the last fifth of the requests, the lost part (0 to 1), and the noise (0 to 1)."""

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


def summarise_run(run: LoadRun) -> Summary:
    """Computes the numbers of a run."""
    answers = run.answers
    seconds = max((a.ended_at for a in answers), default=0.0) - min((a.sent_at for a in answers), default=0.0)
    tokens = sum(answer.tokens for answer in answers)
    return Summary(
        requests=len(answers),
        failed=len(run.failures),
        tokens=tokens,
        seconds=seconds,
        throughput=tokens / seconds if seconds > 0 else 0.0,
        speed=compute_percentiles(list_speeds(run)),
        first_token=compute_percentiles(a.first_token for a in answers if a.first_token is not None),
        between_tokens=compute_percentiles(gap for answer in answers for gap in answer.token_gaps),
        sag=compute_sag(list_speeds(run)),
    )


def list_speeds(run: LoadRun) -> list[float]:
    """Returns the tokens per second of each request with a speed, in the order in which they ended."""
    return [answer.speed for answer in run.answers if answer.speed is not None]


def compute_percentiles(values: Iterable[float]) -> Percentiles | None:
    """Computes nearest-rank percentiles: each is a measured value. None without values."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p90, p99 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.9, 0.99))
    return Percentiles(p50, p90, p99, ordered[-1])


def compute_sag(values: Sequence[float]) -> Sag | None:
    """Compares the first fifth with the last. Noise is the difference of neighbours, so a slow fall is not noise."""
    if len(values) < MIN_REQUESTS:
        return None
    part = max(2, len(values) // 5)
    first, last = statistics.median(values[:part]), statistics.median(values[-part:])
    differences = [abs(after - before) for before, after in pairwise(values)]
    return Sag(first, last, 1 - last / first, statistics.median(differences) / statistics.median(values))


def format_verdict(summary: Summary, before: Heat, after: Heat) -> str:
    """Returns one or two sentences: whether the speed sagged, and what else changed."""
    run_sag = summary.sag
    if run_sag is None:
        return f"Fewer than {MIN_REQUESTS} requests have a speed: too few to see whether it sags."
    ends = f"{run_sag.first:.1f} tokens/s at first, {run_sag.last:.1f} at the end"
    is_clear = abs(run_sag.lost) > max(SAG_THRESHOLD, 2 * run_sag.noise)
    if is_clear and run_sag.lost > 0:
        return f"It sags: {ends}, {100 * run_sag.lost:.0f} % less. {describe_cause(before, after)}"
    if is_clear:
        return f"It was slow at first: {ends}; something else had the host, or the engine was still warming up."
    if run_sag.noise > SAG_THRESHOLD:
        return (
            f"Its speed jumps by {100 * run_sag.noise:.0f} % from request to request ({ends}): the host is not quiet."
        )
    return f"It holds: {ends}."


def describe_cause(before: Heat, after: Heat) -> str:
    """Describes what else changed during a run that sagged."""
    changes = [
        f"the hottest {sensor} went from {earlier:.0f} to {later:.0f} °C"
        for sensor, earlier, later in (
            ("DIMM", before.dimm, after.dimm),
            ("processor", before.processor, after.processor),
        )
        if earlier is not None and later is not None and later - earlier >= HEAT_THRESHOLD
    ]
    if before.hertz and after.hertz and after.hertz < (1 - FREQUENCY_THRESHOLD) * before.hertz:
        changes.append(f"the processors went from {before.hertz / 1e9:.2f} to {after.hertz / 1e9:.2f} GHz")
    if before.throttled is not None and after.throttled is not None and after.throttled > before.throttled:
        changes.append(f"processors were throttled for heat {after.throttled - before.throttled:.0f} times")
    if changes:
        return f"Meanwhile {' and '.join(changes)}."
    sensors = {"DIMM": after.dimm, "processor": after.processor}
    unknown = [name for name, value in sensors.items() if value is None]
    if unknown:
        return f"No sensor reports the heat of {' or '.join(unknown)} here; `steadytok check` says what is missing."
    return "No sensor got hotter: look at memory placement (`steadytok collect numastat`) and at what else runs here."
