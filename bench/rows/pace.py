"""Whether tokens per second follow duty, inside long streams of the real engine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.processes import HOUSE
from bench.report import Figure, Row

ABOUT = "tokens per second over those at duty 1, inside running streams: how far from the duty"
DUTIES = (0.8, 0.5, 0.2)
STREAMS = (1, 4)
ROUNDS = 3  # at full speed and held, in turn, because a shared host changes its mind
NOTES = (
    "Duty counts all work; the first pass after a rest finds cold caches and is a little slower.",
    "Where others take the processors the full speed is not one number: then only the share worked tells.",
)
SETTLE = 0.3  # seconds after a change of duty that are not counted
_TOKEN = "bench"
_ARGUMENTS = ("--size", "32MiB", "--context", "65536", "--slots", str(max(STREAMS)), "--nice", "0", "--drain", "0")


def measure(seconds: float) -> Row:
    """Medians of three; windows are longer at a low duty, so that each has as many bursts of work."""
    figures = []
    for streams in STREAMS:
        with _engine() as engine, _streaming(engine, streams):
            for duty in DUTIES:
                rounds = [_off(engine, duty, seconds / 20) for _ in range(ROUNDS)]
                what = f"{streams} streams, duty {duty:g}"
                figures.append(Figure(f"{what}: share worked, off by", _percent(o.worked for o in rounds), "%", 5.0))
                figures.append(Figure(f"{what}: tokens/s, off by", _percent(o.speed for o in rounds), "%", 5.0))
    return Row("pace", ABOUT, tuple(figures), NOTES)


def _percent(offs: Iterable[float]) -> float:
    return 100 * statistics.median(offs)


class Window(NamedTuple):
    """Tokens per second in a window, and the share of it that the engine worked; or how far these are off."""

    speed: float
    worked: float


class _Engine:
    """A running engine, asked over its socket."""

    def __init__(self, url: str) -> None:
        self._netloc = urlsplit(url).netloc

    def ask(self, method: str, path: str, body: str | None = None) -> str:
        connection = http.client.HTTPConnection(self._netloc, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Authorization": f"Bearer {_TOKEN}"})
            return connection.getresponse().read().decode()

    def counted(self) -> tuple[float, float]:
        """Tokens generated, and seconds worked."""
        lines = [line.split() for line in self.ask("GET", "/metrics").splitlines() if not line.startswith("#")]
        values = {name.removeprefix("steadytok_reference_"): float(value) for name, value in lines}
        phases = [values[f'phase_seconds_total{{phase="{phase}"}}'] for phase in ("prefill", "decode", "sampling")]
        return values["generated_tokens_total"], sum(phases)

    def stream(self, ready: threading.Event, done: threading.Event) -> None:
        """Reads one long stream."""
        body = {"prompt": "a", "max_tokens": 60_000, "temperature": 0, "stream": True}
        connection = http.client.HTTPConnection(self._netloc, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body))
            answer = connection.getresponse()
            while not done.is_set() and answer.readline():
                ready.set()


@contextlib.contextmanager
def _engine() -> Iterator[_Engine]:
    environment = {**os.environ, "STEADYTOK_ENGINE_TOKEN": _TOKEN}
    quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": environment, "cwd": HOUSE}
    process = subprocess.Popen([sys.executable, "-m", "engine", *_ARGUMENTS], **quiet)  # type: ignore[call-overload]  # a dict of options is beyond its overloads
    try:
        yield _Engine(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def _streaming(engine: _Engine, streams: int) -> Iterator[None]:
    done, ready = threading.Event(), [threading.Event() for _ in range(streams)]
    threads = [threading.Thread(target=engine.stream, args=(event, done)) for event in ready]
    for thread in threads:
        thread.start()
    try:
        for event in ready:
            event.wait(30)
        yield
    finally:
        engine.ask("PUT", "/pace", '{"duty": 1.0}')
        done.set()
        for thread in threads:
            thread.join()


def _off(engine: _Engine, duty: float, window: float) -> Window:
    full = _window(engine, 1.0, window)
    held = _window(engine, duty, window / duty)
    return Window(abs(held.speed / full.speed / duty - 1), abs(held.worked / full.worked / duty - 1))


def _window(engine: _Engine, duty: float, seconds: float) -> Window:
    engine.ask("PUT", "/pace", json.dumps({"duty": duty, "ttl": seconds + 10}))
    time.sleep(SETTLE)
    began, before = time.monotonic(), engine.counted()
    time.sleep(seconds)
    tokens, worked = engine.counted()
    elapsed = time.monotonic() - began
    return Window((tokens - before[0]) / elapsed, (worked - before[1]) / elapsed)
