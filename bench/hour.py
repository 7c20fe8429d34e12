"""
`python -m bench.hour`: fills a History as a host does for more than an hour, and prints what it took as JSON.

A process of its own, so that the resident memory before and after is that of the History alone.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import psutil

from collectors import Labels, Metric, Sample, counter, gauge
from rules.history.history import History, bytes_needed

SERIES, INTERVAL_MS, KEEP_MS = 2_500, 1_000, 3_600_000
BEYOND = 600  # passes after the hour, so that what is old is being dropped meanwhile
GROUPS = 5
FORGET_EVERY = 10  # passes, as the agent does
START_MS = 1_761_955_200_000

Row = npt.NDArray[np.float64]


def kinds(random: np.random.Generator, series: int) -> Callable[[], Row]:
    """The next values of so many series: half stand still, the others count, move in kB, in m°C, or are noise."""
    still, counting, kilobytes, degrees = (round(series * share) for share in (0.5, 0.3, 0.1, 0.08))
    noise = series - still - counting - kilobytes - degrees
    fixed = random.integers(0, 1 << 30, still).astype(float)
    counts = random.integers(0, 1 << 40, counting).astype(float)
    memory = random.integers(1 << 20, 1 << 28, kilobytes).astype(float)

    def following() -> Row:
        counts[:] += random.integers(0, 1 << 12, counting)
        memory[:] += random.integers(-(1 << 10), 1 << 10, kilobytes)
        warmth = random.integers(200, 340, degrees) / 4
        return np.concatenate([fixed, counts, memory * 1024, warmth, random.random(noise)])

    return following


def series_of(group: int, count: int) -> list[tuple[Metric, Labels]]:
    """Series as collectors name them: fifty to a metric."""
    makers = [
        counter(f"steadytok_bench_{group}_{number}_total", "A counter.")
        if number % 2
        else gauge(f"steadytok_bench_{group}_{number}_bytes", "A gauge.")
        for number in range(count // 50)
    ]
    return [(metric, (("node", str(number % 8)), ("policy", str(number)))) for metric in makers for number in range(50)]


def main() -> None:
    """Fills the History and prints what it took."""
    random = np.random.default_rng(2024)
    names = [series_of(group, SERIES // GROUPS) for group in range(GROUPS)]
    sources = [kinds(random, SERIES // GROUPS) for _ in range(GROUPS)]
    history = History(KEEP_MS)
    gc.collect()
    before = resident()
    times = []
    for turn in range(KEEP_MS // INTERVAL_MS + BEYOND):
        at_ms = START_MS + turn * INTERVAL_MS
        passes = [
            [Sample(metric, labels, value) for (metric, labels), value in zip(known, following().tolist(), strict=True)]
            for known, following in zip(names, sources, strict=True)
        ]
        times.append(record(history, at_ms, passes, turn))
    del passes
    gc.collect()
    print_result(history, resident() - before, times)


def record(history: History, at_ms: int, passes: list[list[Sample]], turn: int) -> float:
    """Seconds of processor time that one pass of all groups takes; the housekeeping counts too."""
    began = time.thread_time()
    for group, samples in enumerate(passes):
        history.record(f"group {group}", at_ms, samples)
    if turn % FORGET_EVERY == 0:
        history.forget(at_ms)
    return time.thread_time() - began


def resident() -> int:
    """Resident memory of this process, bytes."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


def print_result(history: History, grown: int, times: list[float]) -> None:
    """One JSON object on standard output: bytes and milliseconds."""
    result = {
        "resident": grown,
        "own_count": history.bytes(),
        "estimate": bytes_needed(SERIES, INTERVAL_MS, KEEP_MS),
        "median_ms": statistics.median(times) * 1000,
        "mean_ms": statistics.fmean(times) * 1000,
        "largest_ms": max(times) * 1000,
    }
    os.write(1, json.dumps(result).encode())


if __name__ == "__main__":
    main()
