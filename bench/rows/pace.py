"""Tokens per second against the duty, inside long streams of the real engine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import urlsplit

from bench.processes import PROJECT_ROOT
from bench.report import BenchmarkResult, Figure
from engine.serving.pace import BURST

ABOUT = "tokens per second relative to duty 1, inside running streams: deviation from the duty"
DUTIES = (0.8, 0.5, 0.2)
STREAMS = (1, 4)
ROUNDS = 9  # paced windows, each between two at full speed, because the speed of a shared host varies
NOTES = (
    "Duty counts all work; the first pass after a rest finds cold caches (6 to 14 % slower, a whole burst 1 to 2 %).",
    "As root the engine runs in the real-time class. Otherwise a woken engine may wait for a processor, and the wait "
    "counts as work; then read the share worked and the tokens of a processor second.",
)
SETTLE_SECONDS = 0.3  # seconds after a change of the duty that do not count
_TOKEN = "bench"
# One thread: a second one would measure waiting for busy processors.
_ARGUMENTS = ("--size", "32MiB", "--context", "65536", "--slots", str(max(STREAMS)), "--nice", "0", "--drain", "0")
_THREADS = ("--threads", "1")


def measure(seconds: float) -> BenchmarkResult:
    """Measures medians of nine; windows are longer at a low duty, so that each has the same number of bursts."""
    figures: list[Figure] = []
    for streams in STREAMS:
        with _run_engine() as engine, _run_streams(engine, streams):
            for duty in DUTIES:
                figures += _build_figures(engine, f"{streams} streams, duty {duty:g}", duty, seconds / 60)
    return BenchmarkResult("pace", ABOUT, tuple(figures), NOTES)


def _build_figures(engine: _Engine, label: str, duty: float, seconds: float) -> Iterator[Figure]:
    full_windows, paced_windows = [_measure_window(engine, 1.0, seconds)], []
    for _ in range(ROUNDS):
        paced_windows.append(_measure_window(engine, duty, seconds / duty))
        full_windows.append(_measure_window(engine, 1.0, seconds))
    reference_windows = [Window(*map(statistics.mean, zip(*pair, strict=True))) for pair in pairwise(full_windows)]
    ratios = [
        Window(*(h / f for h, f in zip(*pair, strict=True)))
        for pair in zip(paced_windows, reference_windows, strict=True)
    ]
    yield _build_deviation(f"{label}: share worked, off by", [ratio.worked_share / duty for ratio in ratios])
    yield _build_deviation(f"{label}: tokens/s, off by", [ratio.tokens_per_second / duty for ratio in ratios])
    yield _build_deviation(
        f"{label}: tokens of a processor second, off by", [ratio.tokens_per_cpu_second for ratio in ratios]
    )
    yield Figure(
        f"{label}: 99 % of tokens come within", 1000 * statistics.median(w.token_gap for w in paced_windows), "ms"
    )


def _build_deviation(label: str, ratios: Sequence[float]) -> Figure:
    """Returns the deviation of the median ratio from 1."""
    return Figure(label, 100 * abs(statistics.median(ratios) - 1), "%", 5.0)


class Window(NamedTuple):
    """
    The figures of a window; ratios of two windows have the same fields.

    Tokens per second, the share of time that the engine worked, tokens per processor second, and the 99th percentile of
    the seconds between two tokens of a stream.
    """

    tokens_per_second: float
    worked_share: float
    tokens_per_cpu_second: float
    token_gap: float


class PaceCounters(NamedTuple):
    """Generated tokens, worked seconds, processor seconds, and tokens by upper bound of their latency."""

    tokens: float
    worked_seconds: float
    cpu_seconds: float
    latency_buckets: dict[float, float]


class _Engine:
    """A client of a running engine."""

    def __init__(self, url: str) -> None:
        self._netloc = urlsplit(url).netloc

    def request(self, method: str, path: str, body: str | None = None) -> str:
        connection = http.client.HTTPConnection(self._netloc, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, {"Authorization": f"Bearer {_TOKEN}"})
            return connection.getresponse().read().decode()

    def read_counters(self) -> PaceCounters:
        """Reads the engine's counters."""
        lines = [line.split() for line in self.request("GET", "/metrics").splitlines() if not line.startswith("#")]
        values = {name.removeprefix("steadytok_reference_"): float(value) for name, value in lines}
        phases = [values[f'phase_seconds_total{{phase="{phase}"}}'] for phase in ("prefill", "decode", "sampling")]
        latency_buckets = {
            float(name.split('"')[1]): value
            for name, value in values.items()
            if name.startswith("inter_token_latency_seconds_bucket")
        }
        return PaceCounters(values["generated_tokens_total"], sum(phases), values["cpu_seconds_total"], latency_buckets)

    def stream(self, ready_event: threading.Event, stop_event: threading.Event) -> None:
        """Reads one long stream."""
        body = {"prompt": "a", "max_tokens": 60_000, "temperature": 0, "stream": True}
        connection = http.client.HTTPConnection(self._netloc, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", "/v1/completions", json.dumps(body))
            response = connection.getresponse()
            while not stop_event.is_set() and response.readline():
                ready_event.set()


@contextlib.contextmanager
def _run_engine() -> Iterator[_Engine]:
    environment = {**os.environ, "STEADYTOK_ENGINE_TOKEN": _TOKEN}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "env": environment, "cwd": PROJECT_ROOT}
    with _raise_priority():
        process = subprocess.Popen([sys.executable, "-m", "engine", *_ARGUMENTS, *_THREADS], **options)  # type: ignore[call-overload]  # a dict of options is beyond its overloads
    try:
        yield _Engine(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.communicate()


@contextlib.contextmanager
def _raise_priority() -> Iterator[None]:
    """Starts processes in the real-time class, if this is root and a processor remains for the others."""
    if os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2:
        yield
        return
    previous = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:  # a container without CAP_SYS_NICE: normal priority
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *previous)


@contextlib.contextmanager
def _run_streams(engine: _Engine, streams: int) -> Iterator[None]:
    stop_event, ready_events = threading.Event(), [threading.Event() for _ in range(streams)]
    threads = [threading.Thread(target=engine.stream, args=(event, stop_event)) for event in ready_events]
    for thread in threads:
        thread.start()
    try:
        for event in ready_events:
            event.wait(30)
        yield
    finally:
        engine.request("PUT", "/pace", '{"duty": 1.0}')
        stop_event.set()
        for thread in threads:
            thread.join()


def _measure_window(engine: _Engine, duty: float, seconds: float) -> Window:
    engine.request("PUT", "/pace", json.dumps({"duty": duty, "ttl": seconds + 10}))
    # A new duty opens a new account: without the random delay each window would begin at the same point of a burst.
    time.sleep(SETTLE_SECONDS + random.uniform(0, BURST / duty))
    started, before = time.monotonic(), engine.read_counters()
    time.sleep(seconds)
    after = engine.read_counters()
    elapsed = time.monotonic() - started
    tokens, cpu = after.tokens - before.tokens, after.cpu_seconds - before.cpu_seconds
    bucket_growth = {
        bound: after.latency_buckets[bound] - before.latency_buckets[bound] for bound in after.latency_buckets
    }
    gap = min(bound for bound, count in bucket_growth.items() if count >= 0.99 * max(bucket_growth.values()))
    return Window(tokens / elapsed, (after.worked_seconds - before.worked_seconds) / elapsed, tokens / cpu, gap)
