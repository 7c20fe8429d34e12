"""The memory of an hour of samples, against its estimate, and the cost of recording one pass."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.hour import EXTRA_PASSES, SERIES
from bench.processes import MIB, PROJECT_ROOT
from bench.report import BenchmarkResult, Figure

ABOUT = f"{SERIES:,} series, sampled each second, one hour in memory"


def measure(_seconds: float) -> BenchmarkResult:
    """Fills a History in a new process."""
    output = subprocess.run(
        [sys.executable, "-m", "bench.hour"], cwd=PROJECT_ROOT, check=True, capture_output=True
    ).stdout
    result = json.loads(output)
    figures = (
        Figure("growth of resident memory", result["resident"] / MIB, "MiB"),
        Figure("result of History.count_bytes()", result["own_count"] / MIB, "MiB"),
        Figure("result of estimate_bytes()", result["estimate"] / MIB, "MiB"),
        Figure("resident / estimate", result["resident"] / result["estimate"], "ratio"),
        Figure("one pass of all series, median", result["median_ms"], "ms"),
        Figure("one pass of all series, mean (sealing and forgetting included)", result["mean_ms"], "ms"),
        Figure("the slowest pass", result["largest_ms"], "ms"),
    )
    note = (
        f"{EXTRA_PASSES // 60} minutes more than the hour are recorded. Half of the series are constant, 30 % "
        "are counters, "
        "10 % sizes in kB, 8 % temperatures, 2 % noise; times are processor time."
    )
    return BenchmarkResult("history", ABOUT, figures, (note,))
