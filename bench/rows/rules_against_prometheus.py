"""The cost of a rule here and in Prometheus: the same series, the same rules, the same minutes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench import processes, wide
from bench.processes import Program
from bench.report import BenchmarkResult, Figure
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

NAME = "rules_against_prometheus"
ABOUT = "cost of a rule over 400 and 4,000 series, against Prometheus that scrapes them each second"
PEER = "prometheus"
WIDE_BUDGET, NARROW_BUDGET = 1 / 5, 1.0
WINDOW = 300  # seconds: the longest range in the rules
START_MS = 1_761_955_200_000
TICKS_PER_FIGURE = 30  # our ticks per figure


class RuleCosts(NamedTuple):
    """Seconds per evaluation by rule group, and the processor share of a thousand rules each second."""

    by_group: dict[str, float]
    thousand_rules: float


def measure(seconds: float) -> BenchmarkResult:
    """Waits five minutes until the windows are full, then measures each figure of Prometheus for `seconds`."""
    if shutil.which(PEER) is None:
        return BenchmarkResult(NAME, ABOUT, skipped=f"{PEER} is not installed (apt install {PEER}).")
    series = wide.MovingSeries()
    with ExitStack() as stack:
        folder = stack.enter_context(processes.make_temporary_folder())
        address = stack.enter_context(wide.serve_page(series))
        our_costs = _measure_ours(folder, series)
        prometheus = _start_prometheus(folder, address)
        stack.callback(prometheus.close)
        peer_costs = _measure_prometheus(folder, prometheus, seconds)
    return _build_result(our_costs, peer_costs)


def _measure_ours(folder: Path, series: wide.MovingSeries) -> RuleCosts:
    history = History(WINDOW * 2_000, identity=wide.IDENTITY)
    for second in range(WINDOW + 1):
        history.record("wide", START_MS + second * 1000, series.make_samples(second))
    evaluations = _time_ticks(
        folder, [*wide.build_rule_groups(400), *wide.build_rule_groups(4_000)], history, series, WINDOW
    )
    durations: dict[str, list[float]] = defaultdict(list)
    for rules, _ in evaluations:
        for health in rules.health:
            durations[health.group].append(health.duration_seconds)
    cpu_times = [
        cpu
        for _, cpu in _time_ticks(folder, wide.build_thousand_rules(), history, series, WINDOW + TICKS_PER_FIGURE + 1)
    ]
    return RuleCosts(
        {group: statistics.median(times[1:]) for group, times in durations.items()}, statistics.fmean(cpu_times[1:])
    )


def _time_ticks(
    folder: Path, groups: list[dict[str, Any]], history: History, series: wide.MovingSeries, from_second: int
) -> Iterator[tuple[RuleEvaluator, float]]:
    """Yields the rules and the processor seconds after each tick; the first tick includes planning."""
    path = folder / "ours.yml"
    path.write_text(wide.render_rule_file(groups))
    rules = RuleEvaluator(
        load_rules([path], subquery_step_ms=1000),
        interval_ms=1000,
        external_labels=wide.IDENTITY,
        external_url="http://127.0.0.1",
        clock=time.thread_time,
    )
    for second in range(from_second + 1, from_second + TICKS_PER_FIGURE + 1):
        history.record("wide", START_MS + second * 1000, series.make_samples(second))
        started = time.thread_time()
        rules.evaluate(history, START_MS + second * 1000)
        yield rules, time.thread_time() - started


def _start_prometheus(folder: Path, address: str) -> Program:
    port = processes.find_free_port()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "theirs.yml")],
        "scrape_configs": [{"job_name": "bench", "static_configs": [{"targets": [address]}]}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    _write_rules(folder, [])
    options = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    program = Program(PEER, [PEER, *options], port)
    program.wait_until_it_listens()
    return program


def _measure_prometheus(folder: Path, prometheus: Program, seconds: float) -> RuleCosts:
    _wait("the windows of Prometheus fill", WINDOW + 10)
    idle = _measure_cpu(prometheus, seconds, "Prometheus scrapes alone")
    _write_rules(folder, wide.build_thousand_rules())
    _reload(prometheus, wide.RULE_COUNT)
    busy = _measure_cpu(prometheus, seconds, "Prometheus evaluates a thousand rules")
    shapes = [*wide.build_rule_groups(400), *wide.build_rule_groups(4_000)]
    _write_rules(folder, shapes)
    _reload(prometheus, len(shapes))
    times_by_group: dict[str, list[float]] = defaultdict(list)
    _wait("Prometheus evaluates each shape", seconds, lambda: _collect_evaluation_times(prometheus, times_by_group))
    return RuleCosts({group: statistics.median(times) for group, times in times_by_group.items()}, busy - idle)


def _write_rules(folder: Path, groups: list[dict[str, Any]]) -> None:
    (folder / "theirs.yml").write_text(wide.render_rule_file(groups))


def _reload(prometheus: Program, rule_count: int) -> None:
    """Reloads Prometheus; returns once it has evaluated all `rule_count` rules."""
    os.kill(prometheus.list_processes()[0].pid, signal.SIGHUP)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        evaluated = [rule for rule in _fetch_rules(prometheus) if not rule["lastEvaluation"].startswith("0001")]
        if len(evaluated) == rule_count:
            return
        time.sleep(0.5)
    raise processes.NotListeningError("Prometheus did not evaluate the rules within a minute")


def _measure_cpu(program: Program, seconds: float, activity: str) -> float:
    """Returns processor seconds per second."""
    started, cpu_before = time.monotonic(), program.read_cpu_seconds()
    _wait(activity, seconds)
    return (program.read_cpu_seconds() - cpu_before) / (time.monotonic() - started)


def _collect_evaluation_times(prometheus: Program, times_by_group: Mapping[str, list[float]]) -> None:
    for rule in _fetch_rules(prometheus):
        if rule["health"] != "ok":
            raise processes.NotListeningError(f"Prometheus could not evaluate {rule['name']}: {rule.get('lastError')}")
        times_by_group[rule["group"]].append(rule["evaluationTime"])


def _fetch_rules(prometheus: Program) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{prometheus.port}/api/v1/rules", timeout=10) as response:
        groups = json.load(response)["data"]["groups"]
    return [{**rule, "group": group["name"]} for group in groups for rule in group["rules"]]


def _wait(activity: str, seconds: float, on_second: Callable[[], None] = lambda: None) -> None:
    """Waits for `seconds`, with a countdown on the terminal; calls `on_second` each second."""
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        if sys.stderr.isatty():
            print(f"\r{activity}: {remaining:.0f} s left ", end="", file=sys.stderr, flush=True)  # noqa: T201  progress is for people
        on_second()
        time.sleep(min(1.0, remaining))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201  progress is for people


def _build_result(our_costs: RuleCosts, peer_costs: RuleCosts) -> BenchmarkResult:
    figures = []
    for size in wide.SIZES:
        for shape in wide.SHAPES:
            group = f"{shape.name}, {size} series"
            budget = WIDE_BUDGET if shape.is_wide else NARROW_BUDGET
            figures += [
                Figure(
                    f"{group}: ours / Prometheus",
                    our_costs.by_group[group] / peer_costs.by_group[group],
                    "ratio",
                    budget,
                ),
                Figure(f"{group}: ours", our_costs.by_group[group] * 1e6, "µs"),
                Figure(f"{group}: Prometheus", peer_costs.by_group[group] * 1e6, "µs"),
            ]
    figures += [
        Figure(
            "1,000 rules each second: ours / Prometheus",
            our_costs.thousand_rules / peer_costs.thousand_rules,
            "ratio",
            NARROW_BUDGET,
        ),
        Figure("1,000 rules each second: ours", our_costs.thousand_rules * 100, "% of a core"),
        Figure(
            "1,000 rules each second: Prometheus, without its scrapes", peer_costs.thousand_rules * 100, "% of a core"
        ),
    ]
    return BenchmarkResult(NAME, ABOUT, tuple(figures), tuple(_build_notes()))


def _build_notes() -> Iterator[str]:
    yield (
        "The time of Prometheus is its evaluationTime, a wall time that grows on a busy host; ours is processor time."
    )
    yield "No rule is true, so neither creates alerts; every value moves each second; times are medians."
