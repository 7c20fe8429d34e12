"""The cost of evaluating the built-in rules on the series of a large host, with an hour of History."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from agent.config.schema import AgentConfig
from agent.configuration import load_rule_set
from bench import processes
from bench.replay import SamplingGroup, build_groups, record
from bench.report import BenchmarkResult, Figure
from rules.evaluator import RuleEvaluator
from rules.history.history import History

ABOUT = "all built-in rules on a tree of 256 CPUs, 8 nodes and 32 DIMMs with one engine, with an hour of History"
KEEP_MS, START_MS = 3_600_000, 1_761_955_200_000
TICKS = 60
IDENTITY = {"instance": "bench", "job": "steadytok"}
SLOWEST_COUNT = 6


def measure(_seconds: float) -> BenchmarkResult:
    """Records an hour without rules, then measures TICKS ticks with rules."""
    with processes.make_temporary_folder() as folder:
        groups = build_groups(folder)
    history = History(KEEP_MS, identity=IDENTITY)
    hour = KEEP_MS // 1000
    for second in range(hour):
        record(history, groups, START_MS, second)
    rules = RuleEvaluator(
        load_rule_set(AgentConfig(), "bench"),
        interval_ms=1000,
        external_labels=IDENTITY,
        external_url="http://127.0.0.1:9817",
        clock=time.thread_time,
    )
    ticks = [_time_tick(rules, history, groups, hour + number, all_groups=False) for number in range(TICKS)]
    full_ticks = [_time_tick(rules, history, groups, hour + TICKS + number, all_groups=True) for number in range(TICKS)]
    return _build_result(ticks, full_ticks, rules, history.count_series())


def _time_tick(
    rules: RuleEvaluator, history: History, groups: list[SamplingGroup], second: int, *, all_groups: bool
) -> float:
    record(history, groups, START_MS, second)
    started = time.thread_time()
    rules.evaluate(history, START_MS + second * 1000, force=all_groups)
    return (time.thread_time() - started) * 1000


def _build_result(
    ticks: Sequence[float], full_ticks: Sequence[float], rules: RuleEvaluator, series: int
) -> BenchmarkResult:
    health, names = rules.health, sorted({alert.name for alert in rules.list_alerts()})
    figures = [
        Figure("rules", len(health), ""),
        Figure("series", series, ""),
        Figure("rules that gave an error", sum(1 for rule in health if rule.error), "", budget=0),
        Figure(f"alerts, pending or firing ({', '.join(names) or 'none'})", len(rules.list_alerts()), ""),
        Figure("the first evaluation, planning included", ticks[0], "ms"),
        Figure("a tick, mean (the groups that are due)", statistics.fmean(ticks[1:]), "ms"),
        Figure("a tick, slowest", max(ticks[1:]), "ms"),
        Figure("every group, median", statistics.median(full_ticks), "ms"),
    ]
    slowest_rules = sorted(health, key=lambda rule: rule.duration_seconds, reverse=True)[:SLOWEST_COUNT]
    figures += [Figure(f"of it {rule.name}", rule.duration_seconds * 1000, "ms") for rule in slowest_rules]
    return BenchmarkResult("rules", ABOUT, tuple(figures), ("Times are processor time.",))
