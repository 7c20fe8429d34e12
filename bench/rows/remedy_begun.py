"""The time from a crossed threshold to the arrival of the remedy's request, through a real agent."""

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
from bench.report import BenchmarkResult, Figure

ABOUT = (
    "an agent that samples each second, 100 rules with `for: 0s`, each with a remedy of its own; one crossed at a time"
)
RUNS = 100
INTERVAL_MS = 1000.0
SLACK_MS = 50.0
FIRST_THRESHOLD = 1000  # the value at which the first alert fires
TIMEOUT_SECONDS = 30.0  # seconds for one remedy to begin


class FakeEngine(http.server.ThreadingHTTPServer):
    """Exposes a number as an engine's running requests, and receives the requests of remedies."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.running = 0
        self.arrivals: queue.SimpleQueue[tuple[str, float]] = queue.SimpleQueue()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeEngine

    def do_GET(self) -> None:
        self._send(
            f'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{{a="b"}} {self.server.running}\n'
        )

    def do_POST(self) -> None:
        self.server.arrivals.put((self.path, time.monotonic()))
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send("")

    def _send(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing."""


def measure(_seconds: float) -> BenchmarkResult:
    """Measures one hundred crossings at varying moments of the tick; each request follows two syncs of the journal."""
    with ExitStack() as stack:
        # On a disk, because the measured path syncs to it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="steadytok-bench-", dir="/var/tmp")))
        engine = FakeEngine()
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        stack.callback(engine.shutdown)
        port = processes.find_free_port()
        _write_config(folder, engine.server_port, port)
        arguments = (sys.executable, "-m", "agent", "run", "--plain", "--config", str(folder / "config.yml"))
        agent = Program("agent", arguments, port)
        stack.callback(agent.close)
        agent.wait_until_it_listens()
        time.sleep(3.0)
        delays_ms = sorted(_cross_threshold(engine, number) for number in range(RUNS))
    figures = (
        Figure("crossed to begun, median", statistics.median(delays_ms), "ms", INTERVAL_MS + SLACK_MS),
        Figure("crossed to begun, 95th percentile", delays_ms[int(0.95 * RUNS)], "ms"),
        Figure("crossed to begun, longest", delays_ms[-1], "ms"),
    )
    return BenchmarkResult("remedy_begun", ABOUT, figures, ("Budget: one sampling interval and 50 ms.",))


def _cross_threshold(engine: FakeEngine, number: int) -> float:
    time.sleep(0.6 + (number * 0.37) % 1.0)  # at varying moments of the tick
    engine.running, crossed_at = FIRST_THRESHOLD + number, time.monotonic()
    path, arrived_at = engine.arrivals.get(timeout=TIMEOUT_SECONDS)
    assert path == f"/{number}", path
    engine.running = 0
    return (arrived_at - crossed_at) * 1000


def _write_config(folder: Path, engine_port: int, port: int) -> None:
    running_metric = 'steadytok_engine_requests_running{engine="e"}'
    rules = [
        {"alert": f"Crossed{n}", "expr": f"{running_metric} == {FIRST_THRESHOLD + n}", "for": "0s"} for n in range(RUNS)
    ]
    (folder / "rules.yml").write_text(json.dumps({"groups": [{"name": "bench", "rules": rules}]}))
    remedies = [
        {
            "name": f"r{n}",
            "match": [f'alertname="Crossed{n}"'],
            "action": "webhook",
            "target": {"url": f"http://127.0.0.1:{engine_port}/{n}"},
            "verify": {"expr": "vector(1)"},
        }
        for n in range(RUNS)
    ]
    config = {
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(folder / "state")},
        "engine": {"enabled": False},
        "engines": [{"name": "e", "kind": "vllm", "url": f"http://127.0.0.1:{engine_port}"}],
        "rules": {"builtin": False, "files": [str(folder / "rules.yml")]},
        "remediation": {"mode": "enforce", "max_per_hour": 1000, "builtin": False, "pause_file": str(folder / "pause")},
        "remedies": remedies,
    }
    (folder / "config.yml").write_text(json.dumps(config))
