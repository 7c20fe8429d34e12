"""The query API under load: how long a dashboard's query takes, and how late ticks are while hostile ones run."""

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
from bench.report import Figure, Row
from bench.rows.sample_and_scrape import agent_on
from bench.tree import Shape, build

ABOUT = "an agent with its built-in rules on a tree of 256 CPUs, 8 nodes and 32 DIMMs, asked by dashboards and worse"
WARM_UP = 20.0  # seconds
STEPS, ASKED = 300, 50
PANEL = "steadytok_dimm_temperature_celsius"
PANEL_BUDGET_MS, LATE_BUDGET_MS = 50.0, 100.0
CLIENTS = 4
STEPS_OF_HOSTILE = (1, 15, 60)  # seconds: beyond what is allowed, and just within it
HOSTILE = (
    'quantile_over_time(0.9, rate({__name__=~"steadytok.+"}[5m])[15m:1s])',
    'sum(deriv({__name__=~"steadytok.+"}[15m])) + sum(stddev_over_time({__name__=~"steadytok.+"}[10m]))',
    'count_values("v", {__name__=~"steadytok.+"})',
    'label_replace({__name__=~"steadytok.+"}, "x", "$1$1$1", "__name__", "(.*)")',
    'topk(5, {__name__=~"steadytok.+"}) or bottomk(5, {__name__=~"steadytok.+"})',
)


def measure(seconds: float) -> Row:
    """The same agent calm, asked by a dashboard, and then by hostile clients, so many seconds each."""
    with ExitStack() as stack:
        place = stack.enter_context(processes.folder())
        root = place / "root"
        build(root, Shape())
        stack.enter_context(processes.python("-m", "bench.mover", str(root)))
        agent = agent_on(place, root, "asked", builtin=True)
        stack.callback(agent.end)
        agent.wait_until_it_listens()
        time.sleep(WARM_UP + seconds)
        calm = _latest(agent, seconds)
        panel, series = _panel(agent)
        before = agent.memory_mib()[1]
        answers = _hostile(agent, seconds)
        figures = [
            Figure(f"query_range of {STEPS} steps x {series} series, median", panel, "ms", PANEL_BUDGET_MS),
            Figure("latest tick while nobody asks", calm, "ms"),
            Figure(
                f"latest tick while {CLIENTS} clients ask hostile queries",
                _latest(agent, seconds),
                "ms",
                LATE_BUDGET_MS,
            ),
            Figure("RSS of agent and eye before", before, "MiB"),
            Figure("RSS of agent and eye after", agent.memory_mib()[1], "MiB"),
        ]
    told = ", ".join(f"{count} x {status}" for status, count in sorted(answers.items()))
    return Row("queries", ABOUT, tuple(figures), (f"Hostile queries were answered with {told}.",))


def _panel(agent: Program) -> tuple[float, int]:
    """Milliseconds of the median answer, and how many series it has."""
    times, series = [], 0
    for _ in range(ASKED):
        now = time.time()
        began = time.perf_counter()
        status, body = _get(agent, "query_range", query=PANEL, start=now - 30, end=now, step=30 / (STEPS - 1))
        times.append((time.perf_counter() - began) * 1000)
        if status != 200:
            raise processes.NotListeningError(f"the agent refused a panel's query: {body}")
        series = len(body["data"]["result"])
    return statistics.median(times), series


def _latest(agent: Program, seconds: float) -> float:
    """Milliseconds by which the latest tick of the last seconds was late."""
    _, body = _get(agent, "query", query=f"max_over_time(steadytok_tick_late_seconds[{seconds:.0f}s])")
    return float(body["data"]["result"][0]["value"][1]) * 1000


def _hostile(agent: Program, seconds: float) -> collections.Counter[int]:
    answers: collections.Counter[int] = collections.Counter()
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        while time.monotonic() < until:
            number += 1
            now = time.time()
            text, step = HOSTILE[number % len(HOSTILE)], STEPS_OF_HOSTILE[number % len(STEPS_OF_HOSTILE)]
            status, _ = _get(agent, "query_range", query=text, start=now - 3600, end=now, step=step)
            answers[status] += 1

    clients = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    return answers


def _get(agent: Program, what: str, **fields: Any) -> tuple[int, Any]:
    url = f"http://127.0.0.1:{agent.port}/api/v1/{what}?{urllib.parse.urlencode(fields)}"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.load(refusal)
