"""What an hour of readings takes in memory, against its estimate, and what recording one pass costs."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.hour import BEYOND, SERIES
from bench.processes import HOUSE, MIB
from bench.report import Figure, Row

ABOUT = f"{SERIES:,} series, each second, one hour kept"


def measure(_seconds: float) -> Row:
    """Fills a History in a process of its own."""
    answer = subprocess.run([sys.executable, "-m", "bench.hour"], cwd=HOUSE, check=True, capture_output=True).stdout
    found = json.loads(answer)
    figures = (
        Figure("resident memory that it took", found["resident"] / MIB, "MiB"),
        Figure("what History.bytes() says", found["own_count"] / MIB, "MiB"),
        Figure("what bytes_needed() estimates", found["estimate"] / MIB, "MiB"),
        Figure("resident / estimate", found["resident"] / found["estimate"], "ratio"),
        Figure("one pass of all series, median", found["median_ms"], "ms"),
        Figure("one pass of all series, mean (sealing and forgetting included)", found["mean_ms"], "ms"),
        Figure("the slowest pass", found["largest_ms"], "ms"),
    )
    note = (
        f"{BEYOND // 60} minutes more than the hour are recorded. Half of the series stand still, 30 % are counters, "
        "10 % sizes in kB, 8 % temperatures, 2 % noise; times are processor time."
    )
    return Row("history", ABOUT, figures, (note,))
