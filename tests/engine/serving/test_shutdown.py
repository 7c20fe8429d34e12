"""The shutdown: running requests finish within bounds, and new ones are refused."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[3]


class Engine(NamedTuple):
    """A running engine."""

    child: subprocess.Popen[bytes]
    port: int
    cleanup: contextlib.ExitStack

    def connect(self) -> http.client.HTTPConnection:
        """Returns a new connection."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def start_stream(self, tokens: int) -> http.client.HTTPResponse:
        """Returns a stream that has begun."""
        body = {"prompt": "a", "max_tokens": tokens, "stream": True, "stream_options": {"include_usage": True}}
        connection = self.connect()
        self.cleanup.callback(connection.close)
        connection.request("POST", "/v1/completions", json.dumps(body))
        answer = self.cleanup.enter_context(connection.getresponse())
        answer.readline()
        return answer

    def request_status(self, method: str, path: str, body: str | None = None) -> tuple[int, dict[str, str]]:
        """Sends one request; returns status and headers."""
        connection = self.connect()
        connection.request(method, path, body)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders())

    def slow_down(self) -> None:
        """Sets duty 0.1, so that a stream lasts."""
        connection = self.connect()
        connection.request("PUT", "/pace", '{"duty": 0.1}', {"Authorization": "Bearer t"})
        assert connection.getresponse().status == 200
        connection.close()


@contextlib.contextmanager
def run_engine(*arguments: str) -> Iterator[Engine]:
    """Runs a small engine as a process, with open standard input."""
    child = subprocess.Popen(
        [sys.executable, "-m", "engine", "--size", "1MiB", "--context", "4096", *arguments],
        cwd=ROOT,
        env={**os.environ, "STEADYTOK_ENGINE_TOKEN": "t"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    with child, contextlib.ExitStack() as closes:
        closes.callback(child.kill)
        yield Engine(child, int(urlsplit(json.loads(child.stdout.readline())["url"]).port or 0), closes)


def wait_for_exit(running: Engine) -> int:
    """Returns the exit status; fails after 20 seconds."""
    return running.child.wait(20)


def wait_for_closing(running: Engine, wait_until: Callable[[Callable[[], bool]], None]) -> None:
    """Waits until the engine reports that it is closing."""
    wait_until(lambda: running.request_status("GET", "/healthz")[0] == 503)


def test_what_runs_is_finished(wait_until: Any) -> None:
    """After SIGTERM a stream continues to its end, new requests get a 503, and the engine exits with 0."""
    with run_engine("--drain", "600") as running:  # far more than the stream takes, however busy the host is
        running.slow_down()
        stream = running.start_stream(400)
        running.child.send_signal(signal.SIGTERM)
        wait_for_closing(running, wait_until)
        status, headers = running.request_status("POST", "/v1/completions", '{"prompt": "a"}')
        rest = stream.read()

        assert (status, headers["Retry-After"], headers["Connection"]) == (503, "5", "close")
        assert rest.endswith(b"data: [DONE]\n\n")
        assert b'"completion_tokens": 400' in rest
        assert wait_for_exit(running) == 0


def test_patience_has_an_end() -> None:
    """A stream that exceeds the drain is cut, and its client can detect the cut."""
    with run_engine("--drain", "0.3") as running:
        running.slow_down()
        stream = running.start_stream(4000)
        running.child.send_signal(signal.SIGTERM)
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            stream.read()
            raise AssertionError("the stream looked whole")
        assert wait_for_exit(running) == 0


def test_a_second_signal_hurries(wait_until: Any) -> None:
    """A second signal ends the drain."""
    with run_engine("--drain", "3600") as running:
        running.slow_down()
        running.start_stream(4000)
        running.child.send_signal(signal.SIGTERM)
        wait_for_closing(running, wait_until)
        running.child.send_signal(signal.SIGTERM)

        assert wait_for_exit(running) == 0


def test_interrupt_does_not_drain() -> None:
    """Ctrl-C ends the engine at once, without a traceback."""
    with run_engine("--drain", "3600") as running:
        running.slow_down()
        running.start_stream(4000)
        running.child.send_signal(signal.SIGINT)

        assert wait_for_exit(running) == 0
        assert running.child.stderr is not None
        assert b"Traceback" not in running.child.stderr.read()


def test_a_dead_caller_is_not_waited_for() -> None:
    """The end of standard input ends the engine without a drain."""
    with run_engine("--drain", "3600", "--until-stdin-closes") as running:
        running.slow_down()
        running.start_stream(4000)
        assert running.child.stdin is not None
        running.child.stdin.close()

        assert wait_for_exit(running) == 0


def test_an_idle_engine_ends_at_once() -> None:
    """An idle engine exits at once: the drain is a bound, not a delay."""
    with run_engine("--drain", "3600") as running:
        began = time.monotonic()
        running.child.send_signal(signal.SIGTERM)

        assert wait_for_exit(running) == 0
        assert time.monotonic() - began < 20
