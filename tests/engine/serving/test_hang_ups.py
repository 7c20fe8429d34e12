"""Clients that hang up on the reference engine leave no line on its standard error."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.hang_ups import build_request, flood, hang_up_at_every_stage

ROOT = Path(__file__).parents[3]
STREAM = json.dumps({"prompt": "hello", "max_tokens": 30, "stream": True}).encode()
WHOLE = json.dumps({"prompt": "hello", "max_tokens": 30}).encode()
REQUESTS = [
    *(build_request("GET", path) for path in ("/metrics", "/healthz", "/v1/models", "/nothing")),
    *(build_request("POST", "/v1/completions", body) for body in (STREAM, WHOLE, b"{" * 5000)),
    build_request("POST", "/v1/chat/completions", b"x" * 5000),
    build_request("PUT", "/pace", b'{"duty": 0.5}'),
]


@contextlib.contextmanager
def run_engine(log: Path) -> Iterator[int]:
    """Runs the engine until the block ends; yields its port."""
    command = [sys.executable, "-m", "engine", "--size", "1MiB", "--context", "64"]
    with log.open("wb") as errors:
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors)
        try:
            assert child.stdout is not None
            yield int(json.loads(child.stdout.readline())["url"].rpartition(":")[2])
            assert child.poll() is None
        finally:
            child.terminate()
            child.communicate(timeout=60)


def test_clients_that_hang_up_leave_no_line(tmp_path: Path) -> None:
    """At every stage of every request, with FIN and with RST, also with more connections than are allowed."""
    log = tmp_path / "log"
    with run_engine(log) as port:
        before = len(log.read_bytes())
        hang_up_at_every_stage(port, REQUESTS)
        flood(port, REQUESTS[-1], 400)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=60) as answer:
            assert answer.status == 200

    assert log.read_bytes()[before:] == b""
