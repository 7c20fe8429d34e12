"""From the moment that a threshold is crossed to the moment that a remedy's request arrives, over a real agent."""

from __future__ import annotations

import http.server
import json
import queue
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from bench import processes
from bench.processes import Program
from bench.report import Figure, Row

ABOUT = (
    "an agent that samples each second, 100 rules with `for: 0s`, each with a remedy of its own; one crossed at a time"
)
RUNS = 100
INTERVAL_MS = 1000.0
SLACK_MS = 50.0
FIRST = 1000  # the value at which the first alert fires
PATIENCE = 30.0  # seconds for one remedy to begin


class Engine(http.server.ThreadingHTTPServer):
    """Shows a number as an engine's running requests, and takes the remedies' requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.running = 0
        self.begun: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()


class _Door(http.server.BaseHTTPRequestHandler):
    server: Engine

    def do_GET(self) -> None:
        self._send(
            f'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{a="b"}} {self.server.running}\n'
        )

    def do_POST(self) -> None:
        self.server.begun.put((self.path, time.monotonic()))
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send("")

    def _send(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def measure(_seconds: float) -> Row:
    """One hundred crossings at odd moments of the tick; the journal is synced twice before each request."""
    with ExitStack() as stack:
        # On a disk, since what is measured is synced to it.
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steadytok-bench-", dir="/var/tmp")))
        engine = Engine()
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        stack.callback(engine.shutdown)
        port = processes.free_port()
        _write(place, engine.server_port, port)
        arguments = (sys.executable, "-m", "agent", "run", "--plain", "--config", str(place / "config.yml"))
        agent = Program("agent", arguments, port)
        stack.callback(agent.end)
        agent.wait_until_it_listens()
        time.sleep(3.0)
        taken = sorted(_crossed(engine, number) for number in range(RUNS))
    figures = (
        Figure("crossed to begun, median", statistics.median(taken), "ms", INTERVAL_MS + SLACK_MS),
        Figure("crossed to begun, 95th percentile", taken[int(0.95 * RUNS)], "ms"),
        Figure("crossed to begun, longest", taken[-1], "ms"),
    )
    return Row("remedy_begun", ABOUT, figures, ("Budget: one sampling interval and 50 ms.",))


def _crossed(engine: Engine, number: int) -> float:
    time.sleep(0.6 + (number * 0.37) % 1.0)  # at odd moments of the tick
    engine.running, crossed = FIRST + number, time.monotonic()
    path, begun = engine.begun.get(timeout=PATIENCE)
    assert path == f"/{number}", path
    engine.running = 0
    return (begun - crossed) * 1000


def _write(place: Path, engine: int, port: int) -> None:
    running = 'steadytok_engine_requests_running{engine="e"}'
    rules = [{"alert": f"Crossed{n}", "expr": f"{running} == {FIRST + n}", "for": "0s"} for n in range(RUNS)]
    (place / "rules.yml").write_text(json.dumps({"groups": [{"name": "bench", "rules": rules}]}))
    remedies = [
        {
            "name": f"r{n}",
            "match": [f'alertname="Crossed{n}"'],
            "action": "webhook",
            "target": {"url": f"http://127.0.0.1:{engine}/{n}"},
            "verify": {"expr": "vector(1)"},
        }
        for n in range(RUNS)
    ]
    config = {
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(place / "state")},
        "engine": {"enabled": False},
        "engines": [{"name": "e", "kind": "vllm", "url": f"http://127.0.0.1:{engine}"}],
        "rules": {"builtin": False, "files": [str(place / "rules.yml")]},
        "remediation": {"mode": "enforce", "max_per_hour": 1000, "builtin": False, "pause_file": str(place / "pause")},
        "remedies": remedies,
    }
    (place / "config.yml").write_text(json.dumps(config))
