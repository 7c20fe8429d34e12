"""What evaluating the built-in rules costs on the series of a large host, an hour of them remembered."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from agent.config.schema import Config
from agent.rulebook import rule_set
from bench import processes
from bench.replay import Course, courses, record
from bench.report import Figure, Row
from rules.evaluator import Rules
from rules.history.history import History

ABOUT = "all built-in rules on a tree of 256 CPUs, 8 nodes and 32 DIMMs with one engine, an hour remembered"
KEEP_MS, START_MS = 3_600_000, 1_761_955_200_000
TICKS = 60
IDENTITY = {"instance": "bench", "job": "steadytok"}
DEAREST = 6


def measure(_seconds: float) -> Row:
    """An hour is recorded without rules; then so many ticks with them."""
    with processes.folder() as place:
        sources = courses(place)
    history = History(KEEP_MS, identity=IDENTITY)
    hour = KEEP_MS // 1000
    for second in range(hour):
        record(history, sources, START_MS, second)
    rules = Rules(
        rule_set(Config(), "bench"),
        interval_ms=1000,
        external_labels=IDENTITY,
        external_url="http://127.0.0.1:9817",
        clock=time.thread_time,
    )
    ticks = [_tick(rules, history, sources, hour + number, every=False) for number in range(TICKS)]
    whole = [_tick(rules, history, sources, hour + TICKS + number, every=True) for number in range(TICKS)]
    return _row(ticks, whole, rules, history.series_count())


def _tick(rules: Rules, history: History, sources: list[Course], second: int, *, every: bool) -> float:
    record(history, sources, START_MS, second)
    began = time.thread_time()
    rules.evaluate(history, START_MS + second * 1000, every=every)
    return (time.thread_time() - began) * 1000


def _row(ticks: Sequence[float], whole: Sequence[float], rules: Rules, series: int) -> Row:
    health, names = rules.health, sorted({alert.name for alert in rules.alerts()})
    figures = [
        Figure("rules", len(health), ""),
        Figure("series", series, ""),
        Figure("rules that gave an error", sum(1 for rule in health if rule.error), "", budget=0),
        Figure(f"alerts, pending or firing ({', '.join(names) or 'none'})", len(rules.alerts()), ""),
        Figure("the first evaluation, planning included", ticks[0], "ms"),
        Figure("a tick, mean (the groups that are due)", statistics.fmean(ticks[1:]), "ms"),
        Figure("a tick, slowest", max(ticks[1:]), "ms"),
        Figure("every group, median", statistics.median(whole), "ms"),
    ]
    dearest = sorted(health, key=lambda rule: rule.duration_seconds, reverse=True)[:DEAREST]
    figures += [Figure(f"of it {rule.name}", rule.duration_seconds * 1000, "ms") for rule in dearest]
    return Row("rules", ABOUT, tuple(figures), ("Times are processor time.",))
