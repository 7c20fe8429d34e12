"""How long the agent takes from SIGTERM to its end."""

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
from bench.report import Figure, Row

ABOUT = "an agent with its canary, its eye and all rules, told to end while it works; TimeoutStopSec= is never needed"
RUNS = 10
MOST_MS = 2000.0


def measure(_seconds: float) -> Row:
    """Ten lives, each two seconds longer than its start; one that does not end in five is killed, and told as five."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steadytok-bench-", dir="/var/tmp")))
        taken = [_life(place) for _ in range(RUNS)]
    figures = (
        Figure("SIGTERM to its end, median", statistics.median(taken), "ms", MOST_MS),
        Figure("SIGTERM to its end, longest", max(taken), "ms", MOST_MS),
    )
    return Row("stop", ABOUT, figures)


def _life(place: Path) -> float:
    port = processes.free_port()
    document = {"web": {"listen": f"127.0.0.1:{port}"}, "state": {"dir": str(place / "state")}}
    (place / "config.yml").write_text(json.dumps(document))
    command = (sys.executable, "-m", "agent", "run", "--plain", "--config", str(place / "config.yml"))
    agent = Program("agent", command, port)
    agent.wait_until_it_listens()
    time.sleep(2.0)
    began = time.monotonic()
    agent.end()
    return (time.monotonic() - began) * 1000
