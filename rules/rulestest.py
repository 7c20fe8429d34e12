"""
Runs the unit tests of rule files, in the format and with the verdicts of `promtool test rules`.

Every group is evaluated each `evaluation_interval`, whatever its own interval; only firing alerts are compared, with
exact labels and annotations; an expression is asked at its `eval_time`; a rule that fails to evaluate fails its test.
https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from collectors import Labels, Metric, Sample, gauge
from rules._duration import format_duration
from rules._rulestest_file import (
    STALE,
    AlertTest,
    Case,
    ExprTest,
    InputSeries,
    TestFile,
    TestFileError,
    parse_metric,
    parse_values,
    read_test_file,
    same_number,
)
from rules._template_values import go_float, quoted
from rules.alerts import AlertState
from rules.groups import Rules
from rules.history import History
from rules.promql import PromqlError
from rules.promql import compile as compile_query
from rules.rulefile import RuleFileError, RuleSet, load_rules

__all__ = ["TestFileError", "Verdict", "parse_metric", "parse_values", "run_test_file"]

DAY_MS = 86_400_000
MOST_SERIES = 1_000_000


@dataclass(frozen=True)
class Verdict:
    """How the tests of one file went; no failures is success."""

    path: Path
    failures: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        lines = [f"Unit Testing:  {self.path}", *(f"  WARNING: {warning}" for warning in self.warnings)]
        if self.passed:
            return "\n".join((*lines, "  SUCCESS"))
        return "\n".join((*lines, "  FAILED:", *(f"    {failure}" for failure in self.failures)))


def run_test_file(path: Path) -> Verdict:
    """Runs every test of a file; never raises, a file that cannot be read or run is a failure."""
    try:
        tests = read_test_file(path)
        paths, warnings = _rule_files(tests)
        rule_set = load_rules(paths, subquery_step_ms=tests.interval_ms)
    except TestFileError as error:
        return Verdict(path, (str(error),))
    except RuleFileError as error:
        return Verdict(path, tuple(error.messages))
    rule_set = _ordered(rule_set, tests.group_order)
    failures = (failure for case in tests.cases for failure in _run(case, tests, rule_set))
    return Verdict(path, tuple(failures), tuple(warnings))


def _rule_files(tests: TestFile) -> tuple[list[Path], list[str]]:
    paths: list[Path] = []
    warnings: list[str] = []
    for pattern in tests.rule_files:
        where = Path(pattern)
        found = sorted(where.parent.glob(where.name) if where.is_absolute() else tests.path.parent.glob(pattern))
        paths += found
        if not found:
            warnings.append(f"no file match pattern {tests.path.parent / pattern}")
    return paths, warnings


def _ordered(rule_set: RuleSet, order: Sequence[str]) -> RuleSet:
    places = {name: place for place, name in enumerate(order)}
    return RuleSet(tuple(sorted(rule_set.groups, key=lambda group: places.get(group.name, 0))))


def _run(case: Case, tests: TestFile, rule_set: RuleSet) -> Iterator[str]:
    history = History(case.end_ms + DAY_MS + rule_set.reach_ms, series_cap=MOST_SERIES)
    rules = Rules(
        rule_set,
        interval_ms=case.interval_ms,
        external_labels=dict(case.external_labels),
        external_url=case.external_url,
        clock=lambda: 0.0,
    )
    feed = _Feed(case, history)
    prefix = f"name: {case.name}, " if case.name else ""
    waiting = sorted(case.alert_tests, key=lambda test: test.eval_ms)
    for elapsed in range(0, case.end_ms + 1, tests.interval_ms):
        feed.until(elapsed)
        rules.evaluate(history, case.start_ms + elapsed, every=True)
        errors = list(_rule_errors(rules, elapsed))
        if errors:
            yield from (prefix + error for error in errors)
            return
        while waiting and waiting[0].eval_ms < elapsed + tests.interval_ms:
            yield from (prefix + failure for failure in _check_alerts(waiting.pop(0), rules))
    for test in case.expr_tests:
        yield from (prefix + failure for failure in _check_expr(test, history, case, tests))


class _Feed:
    """Lets History see the input series up to a time, each in a sampling group of its own: `_` is no stale marker."""

    def __init__(self, case: Case, history: History) -> None:
        self.case = case
        self.history = history
        self.next_index = 0
        self.series = [_metric_of(series) for series in case.inputs]
        self.length = max((len(series.values) for series in case.inputs), default=0)

    def until(self, elapsed_ms: int) -> None:
        interval_ms = self.case.interval_ms
        while self.next_index < self.length and self.next_index * interval_ms <= elapsed_ms:
            self.record(self.next_index, self.case.start_ms + self.next_index * interval_ms)
            self.next_index += 1

    def record(self, index: int, at_ms: int) -> None:
        for number, (series, (metric, labels)) in enumerate(zip(self.case.inputs, self.series, strict=True)):
            value = series.values[index] if index < len(series.values) else None
            if value == STALE:
                self.history.record(f"input:{number}", at_ms, ())
            elif isinstance(value, float):
                self.history.record(f"input:{number}", at_ms, (Sample(metric, labels, value),))


def _metric_of(series: InputSeries) -> tuple[Metric, Labels]:
    name = dict(series.labels).get("__name__", "")
    return gauge(name, "An input series of a test."), tuple(pair for pair in series.labels if pair[0] != "__name__")


def _rule_errors(rules: Rules, elapsed_ms: int) -> Iterator[str]:
    for health in rules.health:
        if health.error:
            yield f"rule: {health.name}, time: {format_duration(elapsed_ms)}, err: {health.error}"


def _check_alerts(test: AlertTest, rules: Rules) -> Iterator[str]:
    got = sorted(
        (alert.labels, tuple(sorted(alert.annotations)))
        for alert in rules.alerts()
        if alert.name == test.alertname and alert.state is AlertState.FIRING
    )
    expected = sorted((alert.labels, alert.annotations) for alert in test.alerts)
    if got != expected:
        yield (
            f"alertname: {test.alertname}, time: {format_duration(test.eval_ms)}, \n"
            f"        exp:{_shown_alerts(expected)}, \n        got:{_shown_alerts(got)}\n"
        )


def _shown_alerts(alerts: Sequence[tuple[Labels, Labels]]) -> str:
    if not alerts:
        return "[]"
    shown = (
        f"\n            {number}:"
        f"\n              Labels:{_shown(labels)}"
        f"\n              Annotations:{_shown(annotations)}"
        for number, (labels, annotations) in enumerate(alerts)
    )
    return "[" + "".join(shown) + "\n            ]"


def _check_expr(test: ExprTest, history: History, case: Case, tests: TestFile) -> Iterator[str]:
    where = f"expr: {quoted(test.expr)}, time: {format_duration(test.eval_ms)}"
    try:
        got = sorted(
            compile_query(test.expr, subquery_step_ms=tests.interval_ms).at(history, case.start_ms + test.eval_ms)
        )
    except PromqlError as error:
        yield f"{where}, err: {error}"
        return
    expected = sorted(test.samples)
    equal = partial(same_number, fuzzy=tests.fuzzy)
    pairs = zip(expected, got, strict=False)
    if len(got) != len(expected) or not all(a[0] == b[0] and equal(a[1], b[1]) for a, b in pairs):
        yield f"{where},\n        exp: {_shown_samples(expected)}\n        got: {_shown_samples(got)}"


def _shown_samples(samples: Sequence[tuple[Labels, float]]) -> str:
    return ", ".join(f"{_shown(labels)} {go_float(value)}" for labels, value in samples) or "nil"


def _shown(labels: Labels) -> str:
    return "{" + ", ".join(f"{name}={quoted(value)}" for name, value in labels) + "}"
