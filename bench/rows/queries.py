"""The query API under load: the time of a dashboard's query, and the lateness of ticks under hostile queries."""

from __future__ import annotations

import collections
import json
import statistics
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import ExitStack
from typing import Any

from bench import processes
from bench.processes import Program
from bench.report import BenchmarkResult, Figure
from bench.rows.sample_and_scrape import start_agent
from bench.tree import HostShape, build_tree

ABOUT = "an agent with its built-in rules on a tree of 256 CPUs, 8 nodes and 32 DIMMs, queried by good and bad clients"
WARM_UP = 20.0  # seconds
STEPS, PANEL_QUERIES = 300, 50
PANEL = "steadytok_dimm_temperature_celsius"
PANEL_BUDGET_MS, LATE_BUDGET_MS = 50.0, 100.0
CLIENTS = 4
HOSTILE_STEPS = (1, 15, 60)  # seconds: beyond the limit, and just within it
HOSTILE = (
    'quantile_over_time(0.9, rate({__name__=~"steadytok.+"}[5m])[15m:1s])',
    'sum(deriv({__name__=~"steadytok.+"}[15m])) + sum(stddev_over_time({__name__=~"steadytok.+"}[10m]))',
    'count_values("v", {__name__=~"steadytok.+"})',
    'label_replace({__name__=~"steadytok.+"}, "x", "$1$1$1", "__name__", "(.*)")',
    'topk(5, {__name__=~"steadytok.+"}) or bottomk(5, {__name__=~"steadytok.+"})',
)


def measure(seconds: float) -> BenchmarkResult:
    """Measures one agent when idle, with a dashboard, and with hostile clients, for `seconds` each."""
    with ExitStack() as stack:
        folder = stack.enter_context(processes.make_temporary_folder())
        root = folder / "root"
        build_tree(root, HostShape())
        stack.enter_context(processes.run_python("-m", "bench.mover", str(root)))
        agent = start_agent(folder, root, "asked", builtin=True)
        stack.callback(agent.close)
        agent.wait_until_it_listens()
        time.sleep(WARM_UP + seconds)
        idle_lateness = _query_lateness(agent, seconds)
        panel_ms, series = _query_panel(agent)
        rss_before = agent.read_memory_mib()[1]
        status_counts = _run_hostile_clients(agent, seconds)
        figures = [
            Figure(f"query_range of {STEPS} steps x {series} series, median", panel_ms, "ms", PANEL_BUDGET_MS),
            Figure("latest tick without queries", idle_lateness, "ms"),
            Figure(
                f"latest tick with hostile queries of {CLIENTS} clients",
                _query_lateness(agent, seconds),
                "ms",
                LATE_BUDGET_MS,
            ),
            Figure("RSS of agent and eye before", rss_before, "MiB"),
            Figure("RSS of agent and eye after", agent.read_memory_mib()[1], "MiB"),
        ]
    summary = ", ".join(f"{count} x {status}" for status, count in sorted(status_counts.items()))
    return BenchmarkResult("queries", ABOUT, tuple(figures), (f"Responses to hostile queries: {summary}.",))


def _query_panel(agent: Program) -> tuple[float, int]:
    """Returns the milliseconds of the median response, and its number of series."""
    times, series = [], 0
    for _ in range(PANEL_QUERIES):
        now = time.time()
        started = time.perf_counter()
        status, body = _get(agent, "query_range", query=PANEL, start=now - 30, end=now, step=30 / (STEPS - 1))
        times.append((time.perf_counter() - started) * 1000)
        if status != 200:
            raise processes.NotListeningError(f"the agent refused a panel's query: {body}")
        series = len(body["data"]["result"])
    return statistics.median(times), series


def _query_lateness(agent: Program, seconds: float) -> float:
    """Returns the lateness in milliseconds of the latest tick in the last `seconds`."""
    _, body = _get(agent, "query", query=f"max_over_time(steadytok_tick_late_seconds[{seconds:.0f}s])")
    return float(body["data"]["result"][0]["value"][1]) * 1000


def _run_hostile_clients(agent: Program, seconds: float) -> collections.Counter[int]:
    status_counts: collections.Counter[int] = collections.Counter()
    deadline = time.monotonic() + seconds

    def run_client(number: int) -> None:
        while time.monotonic() < deadline:
            number += 1
            now = time.time()
            expression, step = HOSTILE[number % len(HOSTILE)], HOSTILE_STEPS[number % len(HOSTILE_STEPS)]
            status, _ = _get(agent, "query_range", query=expression, start=now - 3600, end=now, step=step)
            status_counts[status] += 1

    threads = [threading.Thread(target=run_client, args=(number,), daemon=True) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return status_counts


def _get(agent: Program, endpoint: str, **parameters: Any) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{agent.port}/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)
