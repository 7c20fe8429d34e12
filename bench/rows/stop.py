"""The time from SIGTERM to the exit of the agent."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import processes
from bench.processes import Program
from bench.report import BenchmarkResult, Figure

ABOUT = "an agent with its canary, its eye and all rules, stopped while it works; TimeoutStopSec= is never reached"
RUNS = 10
BUDGET_MS = 2000.0


def measure(_seconds: float) -> BenchmarkResult:
    """Measures ten runs, each stopped two seconds after its start; a run that does not end is killed after five."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steadytok-bench-", dir="/var/tmp")))
        durations_ms = [_time_stop(folder) for _ in range(RUNS)]
    figures = (
        Figure("SIGTERM to its end, median", statistics.median(durations_ms), "ms", BUDGET_MS),
        Figure("SIGTERM to its end, longest", max(durations_ms), "ms", BUDGET_MS),
    )
    return BenchmarkResult("stop", ABOUT, figures)


def _time_stop(folder: Path) -> float:
    port = processes.find_free_port()
    config = {"web": {"listen": f"127.0.0.1:{port}"}, "state": {"dir": str(folder / "state")}}
    (folder / "config.yml").write_text(json.dumps(config))
    command = (sys.executable, "-m", "agent", "run", "--plain", "--config", str(folder / "config.yml"))
    agent = Program("agent", command, port)
    agent.wait_until_it_listens()
    time.sleep(2.0)
    started = time.monotonic()
    agent.close()
    return (time.monotonic() - started) * 1000
