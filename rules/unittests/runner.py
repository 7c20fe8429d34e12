"""
Runs the unit tests of rule files, in the format and with the verdicts of `promtool test rules`.

Every group is evaluated each `evaluation_interval`, and its own interval is ignored. Only firing alerts are compared,
with exact labels and annotations. An expression is evaluated at its `eval_time`. A rule that fails to evaluate fails
its test.
https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from collectors import Labels, Metric, Sample, gauge
from rules.alerts import AlertState
from rules.durations import format_duration
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.model import RuleSet
from rules.promql import PromqlError
from rules.promql import compile as compile_query
from rules.rulefile import RuleFileError, load_rules
from rules.unittests.report import Result, Verdict, compare_result, format_test_name
from rules.unittests.test_file import (
    STALE,
    AlertTest,
    Case,
    ExprTest,
    InputSeries,
    TestFile,
    TestFileError,
    is_same_number,
    parse_metric,
    parse_values,
    read_test_file,
)

__all__ = ["Result", "TestFileError", "Verdict", "parse_metric", "parse_values", "run_test_file"]

DAY_MS = 86_400_000
MAX_SERIES = 1_000_000


def run_test_file(path: Path) -> Verdict:
    """Runs every test of a file; never raises: a file that cannot be read or run is a failure."""
    try:
        tests = read_test_file(path)
        paths, warnings = _find_rule_files(tests)
        rule_set = load_rules(paths, subquery_step_ms=tests.interval_ms)
    except TestFileError as error:
        return Verdict(path, errors=(str(error),))
    except RuleFileError as error:
        return Verdict(path, errors=tuple(error.messages))
    rule_set = _order_groups(rule_set, tests.group_order)
    runs = [_CaseRun(case, tests, rule_set) for case in tests.cases]
    results = tuple(result for case_run in runs for result in case_run.run())
    return Verdict(path, results, tuple(error for case_run in runs for error in case_run.errors), tuple(warnings))


def _find_rule_files(tests: TestFile) -> tuple[list[Path], list[str]]:
    paths: list[Path] = []
    warnings: list[str] = []
    for pattern in tests.rule_files:
        pattern_path = Path(pattern)
        matches = sorted(
            pattern_path.parent.glob(pattern_path.name)
            if pattern_path.is_absolute()
            else tests.path.parent.glob(pattern)
        )
        paths += matches
        if not matches:
            warnings.append(f"no file match pattern {tests.path.parent / pattern}")
    return paths, warnings


def _order_groups(rule_set: RuleSet, order: Sequence[str]) -> RuleSet:
    positions = {name: position for position, name in enumerate(order)}
    return RuleSet(tuple(sorted(rule_set.groups, key=lambda group: positions.get(group.name, 0))))


class _CaseRun:
    """One item of `tests`, evaluated from its start to its end."""

    def __init__(self, case: Case, tests: TestFile, rule_set: RuleSet) -> None:
        self.case = case
        self.tests = tests
        self.errors: list[str] = []
        """Errors of rules; the run ends after the first evaluation with an error."""
        self.history = History(case.end_ms + DAY_MS + rule_set.reach_ms, series_cap=MAX_SERIES)
        self.evaluator = RuleEvaluator(
            rule_set,
            interval_ms=case.interval_ms,
            external_labels=dict(case.external_labels),
            external_url=case.external_url,
            clock=lambda: 0.0,
        )

    def run(self) -> list[Result]:
        case, step_ms = self.case, self.tests.interval_ms
        feed = _SeriesFeed(case, self.history)
        results: list[Result] = []
        pending = sorted(case.alert_tests, key=lambda test: test.eval_ms)
        for elapsed_ms in range(0, case.end_ms + 1, step_ms):
            feed.feed_until(elapsed_ms)
            self.evaluator.evaluate(self.history, case.start_ms + elapsed_ms, force=True)
            self.errors += _format_rule_errors(self.evaluator, elapsed_ms, format_test_name(case.name))
            if self.errors:
                break
            while pending and pending[0].eval_ms < elapsed_ms + step_ms:
                results.append(self.check_alert(pending.pop(0)))
        unevaluated = [_make_alert_result(test, case) for test in pending]
        if self.errors:
            unevaluated += [_make_expr_result(test, case) for test in case.expr_tests]
            return results + [replace(result, error="; ".join(self.errors), has_run=False) for result in unevaluated]
        return results + [self.check_expr(test) for test in case.expr_tests]

    def check_alert(self, test: AlertTest) -> Result:
        actual = [
            (alert.labels, tuple(sorted(alert.annotations)))
            for alert in self.evaluator.list_alerts()
            if alert.name == test.alertname and alert.state is AlertState.FIRING
        ]
        return compare_result(_make_alert_result(test, self.case), actual, operator.eq)

    def check_expr(self, test: ExprTest) -> Result:
        result = _make_expr_result(test, self.case)
        try:
            query = compile_query(test.expr, subquery_step_ms=self.tests.interval_ms)
            actual = list(query.evaluate_at(self.history, self.case.start_ms + test.eval_ms))
        except PromqlError as error:
            return replace(result, error=str(error))
        return compare_result(result, actual, partial(is_same_number, fuzzy=self.tests.fuzzy))


def _make_alert_result(test: AlertTest, case: Case) -> Result:
    expected = tuple((alert.labels, alert.annotations) for alert in test.alerts)
    return Result(case.name, "alert", test.alertname, test.eval_time, expected)


def _make_expr_result(test: ExprTest, case: Case) -> Result:
    return Result(case.name, "expr", test.expr, test.eval_time, test.samples)


class _SeriesFeed:
    """Records the input series up to a time, each in its own sampling group, since `_` is no stale marker."""

    def __init__(self, case: Case, history: History) -> None:
        self.case = case
        self.history = history
        self.next_index = 0
        self.series = [_make_metric(series) for series in case.inputs]
        self.length = max((len(series.values) for series in case.inputs), default=0)

    def feed_until(self, elapsed_ms: int) -> None:
        interval_ms = self.case.interval_ms
        while self.next_index < self.length and self.next_index * interval_ms <= elapsed_ms:
            self.record_values(self.next_index, self.case.start_ms + self.next_index * interval_ms)
            self.next_index += 1

    def record_values(self, index: int, at_ms: int) -> None:
        for number, (series, (metric, labels)) in enumerate(zip(self.case.inputs, self.series, strict=True)):
            value = series.values[index] if index < len(series.values) else None
            if value == STALE:
                self.history.record(f"input:{number}", at_ms, ())
            elif isinstance(value, float):
                self.history.record(f"input:{number}", at_ms, (Sample(metric, labels, value),))


def _make_metric(series: InputSeries) -> tuple[Metric, Labels]:
    name = dict(series.labels).get("__name__", "")
    return gauge(name, "An input series of a test."), tuple(pair for pair in series.labels if pair[0] != "__name__")


def _format_rule_errors(evaluator: RuleEvaluator, elapsed_ms: int, prefix: str) -> Iterator[str]:
    for health in evaluator.health:
        if health.error:
            yield f"{prefix}rule: {health.name}, time: {format_duration(elapsed_ms)}, err: {health.error}"
