"""
`python -m bench.hour`: fills a History with more than an hour of a host's series, and prints the cost as JSON.

It is a separate process, so that the growth of resident memory is that of the History alone.
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
from rules.history.history import History, estimate_bytes

SERIES, INTERVAL_MS, KEEP_MS = 2_500, 1_000, 3_600_000
EXTRA_PASSES = 600  # passes after the hour, during which History drops old samples
GROUPS = 5
FORGET_EVERY = 10  # passes, as the agent does
START_MS = 1_761_955_200_000

Values = npt.NDArray[np.float64]


def make_value_source(random: np.random.Generator, series: int) -> Callable[[], Values]:
    """Returns a source of values: half are constant, the others are counters, sizes in kB, temperatures or noise."""
    constant_count, counter_count, memory_count, temperature_count = (
        round(series * share) for share in (0.5, 0.3, 0.1, 0.08)
    )
    noise_count = series - constant_count - counter_count - memory_count - temperature_count
    constants = random.integers(0, 1 << 30, constant_count).astype(float)
    counters = random.integers(0, 1 << 40, counter_count).astype(float)
    memory = random.integers(1 << 20, 1 << 28, memory_count).astype(float)

    def next_values() -> Values:
        counters[:] += random.integers(0, 1 << 12, counter_count)
        memory[:] += random.integers(-(1 << 10), 1 << 10, memory_count)
        temperatures = random.integers(200, 340, temperature_count) / 4
        return np.concatenate([constants, counters, memory * 1024, temperatures, random.random(noise_count)])

    return next_values


def make_series(group: int, count: int) -> list[tuple[Metric, Labels]]:
    """Returns series with names like those of collectors, fifty per metric."""
    metrics = [
        counter(f"steadytok_bench_{group}_{number}_total", "A counter.")
        if number % 2
        else gauge(f"steadytok_bench_{group}_{number}_bytes", "A gauge.")
        for number in range(count // 50)
    ]
    return [
        (metric, (("node", str(number % 8)), ("policy", str(number)))) for metric in metrics for number in range(50)
    ]


def main() -> None:
    """Fills the History and prints its cost."""
    random = np.random.default_rng(2024)
    series_by_group = [make_series(group, SERIES // GROUPS) for group in range(GROUPS)]
    value_sources = [make_value_source(random, SERIES // GROUPS) for _ in range(GROUPS)]
    history = History(KEEP_MS)
    gc.collect()
    resident_before = read_resident_bytes()
    times = []
    for tick in range(KEEP_MS // INTERVAL_MS + EXTRA_PASSES):
        at_ms = START_MS + tick * INTERVAL_MS
        samples_by_group = [
            [
                Sample(metric, labels, value)
                for (metric, labels), value in zip(group_series, next_values().tolist(), strict=True)
            ]
            for group_series, next_values in zip(series_by_group, value_sources, strict=True)
        ]
        times.append(record(history, at_ms, samples_by_group, tick))
    del samples_by_group
    gc.collect()
    print_result(history, read_resident_bytes() - resident_before, times)


def record(history: History, at_ms: int, samples_by_group: list[list[Sample]], tick: int) -> float:
    """Records one pass of all groups; returns its processor seconds, housekeeping included."""
    started = time.thread_time()
    for group, samples in enumerate(samples_by_group):
        history.record(f"group {group}", at_ms, samples)
    if tick % FORGET_EVERY == 0:
        history.forget(at_ms)
    return time.thread_time() - started


def read_resident_bytes() -> int:
    """Returns the resident bytes of this process."""
    return int(psutil.Process(os.getpid()).memory_info().rss)


def print_result(history: History, resident_growth: int, times: list[float]) -> None:
    """Prints one JSON object to standard output: bytes and milliseconds."""
    result = {
        "resident": resident_growth,
        "own_count": history.count_bytes(),
        "estimate": estimate_bytes(SERIES, INTERVAL_MS, KEEP_MS),
        "median_ms": statistics.median(times) * 1000,
        "mean_ms": statistics.fmean(times) * 1000,
        "largest_ms": max(times) * 1000,
    }
    os.write(1, json.dumps(result).encode())


if __name__ == "__main__":
    main()
