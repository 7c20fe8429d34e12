"""What a rule costs here and in Prometheus: the same series, the same rules, the same minutes."""

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
from bench.report import Figure, Row
from rules.evaluator import Rules
from rules.history.history import History
from rules.rulefile import load_rules

NAME = "rules_against_prometheus"
ABOUT = "cost of a rule over 400 and 4,000 series, against Prometheus that scrapes them each second"
PEER = "prometheus"
WIDE_BUDGET, NARROW_BUDGET = 1 / 5, 1.0
WINDOW = 300  # seconds: the range that the rules look at
START_MS = 1_761_955_200_000
TICKS = 30  # of ours per figure


class Costs(NamedTuple):
    """Seconds per evaluation by rule group, and the processor's share for a thousand rules each second."""

    by_group: dict[str, float]
    thousand: float


def measure(seconds: float) -> Row:
    """Five minutes until the windows are full, then so many seconds for each figure of Prometheus."""
    if shutil.which(PEER) is None:
        return Row(NAME, ABOUT, skipped=f"{PEER} is not installed (apt install {PEER}).")
    series = wide.Wide()
    with ExitStack() as stack:
        place = stack.enter_context(processes.folder())
        address = stack.enter_context(wide.served(series))
        ours = _ours(place, series)
        prometheus = _started(place, address)
        stack.callback(prometheus.end)
        theirs = _theirs(place, prometheus, seconds)
    return _row(ours, theirs)


def _ours(place: Path, series: wide.Wide) -> Costs:
    history = History(WINDOW * 2_000, identity=wide.IDENTITY)
    for second in range(WINDOW + 1):
        history.record("wide", START_MS + second * 1000, series.samples(second))
    shapes = _timed(place, [*wide.groups(400), *wide.groups(4_000)], history, series, WINDOW)
    durations: dict[str, list[float]] = defaultdict(list)
    for rules, _ in shapes:
        for health in rules.health:
            durations[health.group].append(health.duration_seconds)
    many = [cpu for _, cpu in _timed(place, wide.thousand(), history, series, WINDOW + TICKS + 1)]
    return Costs(
        {group: statistics.median(found[1:]) for group, found in durations.items()}, statistics.fmean(many[1:])
    )


def _timed(
    place: Path, groups: list[dict[str, Any]], history: History, series: wide.Wide, from_second: int
) -> Iterator[tuple[Rules, float]]:
    """The rules after each tick, with the processor seconds that it took; the first one makes the plans."""
    path = place / "ours.yml"
    path.write_text(wide.rule_file(groups))
    rules = Rules(
        load_rules([path], subquery_step_ms=1000),
        interval_ms=1000,
        external_labels=wide.IDENTITY,
        external_url="http://127.0.0.1",
        clock=time.thread_time,
    )
    for second in range(from_second + 1, from_second + TICKS + 1):
        history.record("wide", START_MS + second * 1000, series.samples(second))
        began = time.thread_time()
        rules.evaluate(history, START_MS + second * 1000)
        yield rules, time.thread_time() - began


def _started(place: Path, address: str) -> Program:
    port = processes.free_port()
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(place / "theirs.yml")],
        "scrape_configs": [{"job_name": "bench", "static_configs": [{"targets": [address]}]}],
    }
    (place / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    _write_rules(place, [])
    options = [
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={place / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    program = Program(PEER, [PEER, *options], port)
    program.wait_until_it_listens()
    return program


def _theirs(place: Path, prometheus: Program, seconds: float) -> Costs:
    _wait("the windows of Prometheus fill", WINDOW + 10)
    idle = _cpu(prometheus, seconds, "Prometheus scrapes alone")
    _write_rules(place, wide.thousand())
    _reload(prometheus, wide.MANY)
    many = _cpu(prometheus, seconds, "Prometheus evaluates a thousand rules")
    shapes = [*wide.groups(400), *wide.groups(4_000)]
    _write_rules(place, shapes)
    _reload(prometheus, len(shapes))
    found: dict[str, list[float]] = defaultdict(list)
    _wait("Prometheus evaluates each shape", seconds, lambda: _evaluations(prometheus, found))
    return Costs({group: statistics.median(times) for group, times in found.items()}, many - idle)


def _write_rules(place: Path, groups: list[dict[str, Any]]) -> None:
    (place / "theirs.yml").write_text(wide.rule_file(groups))


def _reload(prometheus: Program, rules: int) -> None:
    """Returns when every one of so many rules has been evaluated."""
    os.kill(prometheus.family()[0].pid, signal.SIGHUP)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        evaluated = [rule for rule in _rules(prometheus) if not rule["lastEvaluation"].startswith("0001")]
        if len(evaluated) == rules:
            return
        time.sleep(0.5)
    raise processes.NotListeningError("Prometheus did not take the rules within a minute")


def _cpu(program: Program, seconds: float, what: str) -> float:
    """Processor seconds per second."""
    began, used = time.monotonic(), program.cpu_seconds()
    _wait(what, seconds)
    return (program.cpu_seconds() - used) / (time.monotonic() - began)


def _evaluations(prometheus: Program, found: Mapping[str, list[float]]) -> None:
    for rule in _rules(prometheus):
        if rule["health"] != "ok":
            raise processes.NotListeningError(f"Prometheus could not evaluate {rule['name']}: {rule.get('lastError')}")
        found[rule["group"]].append(rule["evaluationTime"])


def _rules(prometheus: Program) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{prometheus.port}/api/v1/rules", timeout=10) as answer:
        groups = json.load(answer)["data"]["groups"]
    return [{**rule, "group": group["name"]} for group in groups for rule in group["rules"]]


def _wait(what: str, seconds: float, each: Callable[[], None] = lambda: None) -> None:
    """So many seconds, counted on the terminal; `each` is done in every one."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if sys.stderr.isatty():
            print(f"\r{what}: {left:.0f} s left ", end="", file=sys.stderr, flush=True)  # noqa: T201  progress is for people
        each()
        time.sleep(min(1.0, left))
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)  # noqa: T201  progress is for people


def _row(ours: Costs, theirs: Costs) -> Row:
    figures = []
    for size in wide.SIZES:
        for shape in wide.SHAPES:
            group = f"{shape.name}, {size} series"
            budget = WIDE_BUDGET if shape.wide else NARROW_BUDGET
            figures += [
                Figure(f"{group}: ours / Prometheus", ours.by_group[group] / theirs.by_group[group], "ratio", budget),
                Figure(f"{group}: ours", ours.by_group[group] * 1e6, "µs"),
                Figure(f"{group}: Prometheus", theirs.by_group[group] * 1e6, "µs"),
            ]
    figures += [
        Figure("1,000 rules each second: ours / Prometheus", ours.thousand / theirs.thousand, "ratio", NARROW_BUDGET),
        Figure("1,000 rules each second: ours", ours.thousand * 100, "% of a core"),
        Figure("1,000 rules each second: Prometheus, without its scrapes", theirs.thousand * 100, "% of a core"),
    ]
    return Row(NAME, ABOUT, tuple(figures), tuple(_notes()))


def _notes() -> Iterator[str]:
    yield (
        "The time of Prometheus is its own evaluationTime, which is wall time: on a busy host it grows, and ours, "
        "processor time, does not."
    )
    yield "A rule is true of no series, so that neither makes alerts; every value moves each second; medians."
