"""
Reads the test files of `promtool test rules`; unknown keys and wrong types are errors with line and column.

https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import promql_parser

from collectors import Labels, read_regular_file
from rules.durations import parse_duration
from rules.strict_yaml import Listing, Mark, Scalar, StrictYamlError, Table, Value, load_yaml

MINUTE_MS = 60_000
STALE = "stale"
MAX_VALUES = 1_000_000
MAX_BYTES = 32 << 20  # of one file

_NUMBER = r"(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI][nN][fF]|[nN][aA][nN])"
_SERIES_VALUE = re.compile(rf"([+-]?{_NUMBER})(?:([+-]{_NUMBER})?x(\d+))?", re.ASCII)
_GAP = re.compile(r"_(?:x(\d+))?", re.ASCII)
_FLOAT = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\.?inf|\.?nan)", re.ASCII | re.IGNORECASE)

_FILE_KEYS = ("rule_files", "evaluation_interval", "group_eval_order", "fuzzy_compare", "tests")
_CASE_KEYS = (
    "interval",
    "input_series",
    "alert_rule_test",
    "promql_expr_test",
    "external_labels",
    "external_url",
    "name",
    "start_timestamp",
)


class TestFileError(Exception):
    """A test file that cannot be run; the message names file, line and column."""

    __test__ = False


@dataclass(frozen=True)
class InputSeries:
    """A series, `__name__` among its labels, with a value per interval: None is no sample, STALE ends the series."""

    labels: Labels
    values: tuple[float | str | None, ...]


@dataclass(frozen=True)
class ExpectedAlert:
    """An alert that must be firing, `alertname` among its labels."""

    labels: Labels
    annotations: Labels


@dataclass(frozen=True)
class AlertTest:
    eval_ms: int
    eval_time: str  # as written
    alertname: str
    alerts: tuple[ExpectedAlert, ...]


@dataclass(frozen=True)
class ExprTest:
    expr: str
    eval_ms: int
    eval_time: str  # as written
    samples: tuple[tuple[Labels, float], ...]


@dataclass(frozen=True)
class Case:
    """One item of `tests`; times in ms, evaluation times counted from `start_ms`."""

    name: str
    interval_ms: int
    start_ms: int
    inputs: tuple[InputSeries, ...]
    alert_tests: tuple[AlertTest, ...]
    expr_tests: tuple[ExprTest, ...]
    external_labels: Labels
    external_url: str

    @property
    def end_ms(self) -> int:
        """The time of the last check, counted from the start."""
        eval_times = [test.eval_ms for test in self.alert_tests] + [test.eval_ms for test in self.expr_tests]
        return max(eval_times, default=0)


@dataclass(frozen=True)
class TestFile:
    __test__ = False

    path: Path
    rule_files: tuple[str, ...]
    interval_ms: int
    group_order: tuple[str, ...]
    fuzzy: bool
    cases: tuple[Case, ...]


def read_test_file(path: Path) -> TestFile:
    """Reads and checks the whole file; raises TestFileError."""
    reader = _Reader(path)
    try:
        root = load_yaml(read_regular_file(path, MAX_BYTES))
    except OSError as error:
        raise TestFileError(f"{path}: cannot be read: {error.strerror}") from None
    except StrictYamlError as error:
        raise reader.make_error_at(error.mark, str(error)) from None
    return reader.read_file(Table({}, Mark(1, 1)) if root is None else root)


def parse_metric(text: str) -> Labels:
    """Returns the labels of `name{label="value"}`, the name as `__name__`; raises ValueError."""
    if text.strip() in ("", "{}"):
        return ()
    selector = promql_parser.parse(text)
    if not isinstance(selector, promql_parser.VectorSelector) or selector.offset is not None or selector.at is not None:
        raise ValueError('expected a series such as name{label="value"}')
    pairs = [("__name__", selector.name)] if selector.name else []
    for matcher in selector.matchers.matchers:
        if matcher.op != promql_parser.MatchOp.Equal:
            raise ValueError("expected labels with = only")
        pairs.append((matcher.name, matcher.value))
    return tuple(sorted(dict(pairs).items()))


def parse_values(text: str) -> tuple[float | str | None, ...]:
    """Returns the values of promtool's notation (`0+10x5 _ _x3 7x2 stale`); raises ValueError."""
    values: list[float | str | None] = []
    for word in text.split():
        values += _expand_word(word)
        if len(values) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
    return tuple(values)


def _expand_word(word: str) -> Sequence[float | str | None]:
    if word == STALE:
        return (STALE,)
    if gap := _GAP.fullmatch(word):
        return (None,) * _parse_count(gap[1] or "1")
    match = _SERIES_VALUE.fullmatch(word)
    if match is None:
        raise ValueError(f'"{word}" is none of 1, 1x3, 0+10x5, _, _x3, stale')
    first, step, times = float(match[1]), match[2], match[3]
    if times is None:
        return (first,)
    return tuple(_count_up(first, float(step) if step else 0.0, _parse_count(times)))


def _count_up(value: float, step: float, times: int) -> Iterator[float]:
    for _ in range(times + 1):
        yield value
        value += step  # repeated addition, as in promtool, so that the rounding is the same


def _parse_count(text: str) -> int:
    if len(text) > 7 or int(text) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    return int(text)


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def make_error_at(self, mark: Mark, message: str) -> TestFileError:
        return TestFileError(f"{self.path}: {mark.line}:{mark.column}: {message}")

    def read_file(self, root: Value) -> TestFile:
        table = self.require_table(root, _FILE_KEYS, "a mapping with the key tests")
        interval_ms = self.read_duration_ms(table, "evaluation_interval") or MINUTE_MS
        cases = tuple(self.read_case(value, interval_ms) for value in self.read_list(table, "tests"))
        order = self.read_texts(table, "group_eval_order")
        fuzzy = self.read_text(table, "fuzzy_compare") == "true"
        return TestFile(self.path, self.read_texts(table, "rule_files"), interval_ms, order, fuzzy, cases)

    def read_case(self, value: Value, interval_ms: int) -> Case:
        table = self.require_table(value, _CASE_KEYS, "a test")
        return Case(
            name=self.read_text(table, "name"),
            interval_ms=self.read_duration_ms(table, "interval") or interval_ms,
            start_ms=self.read_start_ms(table),
            inputs=tuple(map(self.read_series, self.read_list(table, "input_series"))),
            alert_tests=tuple(map(self.read_alert_test, self.read_list(table, "alert_rule_test"))),
            expr_tests=tuple(map(self.read_expr_test, self.read_list(table, "promql_expr_test"))),
            external_labels=self.read_labels(table, "external_labels"),
            external_url=self.read_text(table, "external_url"),
        )

    def read_start_ms(self, table: Table) -> int:
        text = self.read_text(table, "start_timestamp")
        try:
            return round(float(text or 0) * 1000)
        except ValueError:
            pass  # not Unix seconds, so a date
        try:
            return round(datetime.fromisoformat(text).timestamp() * 1000)
        except ValueError:
            message = f'start_timestamp: expected Unix seconds or RFC 3339, found "{text}"'
            raise self.make_error_at(table["start_timestamp"].mark, message) from None

    def read_series(self, value: Value) -> InputSeries:
        table = self.require_table(value, ("series", "values"), "a series with its values")
        labels = self.read_metric(table, "series", value.mark)
        try:
            return InputSeries(labels, parse_values(self.read_text(table, "values")))
        except ValueError as error:
            raise self.make_error_at(table["values"].mark, f"values: {error}") from None

    def read_metric(self, table: Table, key: str, mark: Mark) -> Labels:
        try:
            return parse_metric(self.read_text(table, key))
        except ValueError as error:
            raise self.make_error_at(table[key].mark if key in table else mark, f"{key}: {error}") from None

    def read_alert_test(self, value: Value) -> AlertTest:
        table = self.require_table(value, ("eval_time", "alertname", "exp_alerts"), "an alert test")
        name = self.read_text(table, "alertname")
        if not name:
            message = "an item under alert_rule_test misses required attribute alertname"
            raise self.make_error_at(value.mark, f"{message} at eval_time {self.read_text(table, 'eval_time')}")
        expected = tuple(self.read_expected_alert(item, name) for item in self.read_list(table, "exp_alerts"))
        return AlertTest(self.read_duration_ms(table, "eval_time"), self.read_text(table, "eval_time"), name, expected)

    def read_expected_alert(self, value: Value, alertname: str) -> ExpectedAlert:
        table = self.require_table(value, ("exp_labels", "exp_annotations"), "an expected alert")
        labels = {**dict(self.read_labels(table, "exp_labels")), "alertname": alertname}
        return ExpectedAlert(tuple(sorted(labels.items())), self.read_labels(table, "exp_annotations"))

    def read_expr_test(self, value: Value) -> ExprTest:
        table = self.require_table(value, ("expr", "eval_time", "exp_samples"), "an expression test")
        samples = tuple(map(self.read_sample, self.read_list(table, "exp_samples")))
        query = (
            self.read_text(table, "expr"),
            self.read_duration_ms(table, "eval_time"),
            self.read_text(table, "eval_time"),
        )
        return ExprTest(*query, samples)

    def read_sample(self, value: Value) -> tuple[Labels, float]:
        table = self.require_table(value, ("labels", "value", "histogram"), "an expected sample")
        if "histogram" in table:
            raise self.make_error_at(table["histogram"].mark, "histogram: native histograms are not supported")
        text = self.read_text(table, "value") or "0"
        if not _FLOAT.fullmatch(text):
            raise self.make_error_at(table["value"].mark, f'value: expected a number, found "{text}"')
        return self.read_metric(table, "labels", value.mark), float(text.replace(".inf", "inf").replace(".nan", "nan"))

    # -- shapes

    def require_table(self, value: Value, keys: Sequence[str], expected: str) -> Table:
        if not isinstance(value, Table):
            raise self.make_error_at(value.mark, f"expected {expected}, found {value.description}")
        for key, mark in value.marks.items():
            if key not in keys:
                raise self.make_error_at(mark, f"field {key} not found; expected one of {', '.join(keys)}")
        return value

    def read_list(self, table: Table, key: str) -> tuple[Value, ...]:
        value = table.get(key)
        if value is None or value.empty:
            return ()
        if isinstance(value, Listing):
            return value.values
        raise self.make_error_at(value.mark, f"{key}: expected a list, found {value.description}")

    def read_text(self, table: Table, key: str) -> str:
        value = table.get(key)
        return "" if value is None else self.require_scalar(value, key).text

    def require_scalar(self, value: Value, key: str) -> Scalar:
        if isinstance(value, Scalar):
            return value
        raise self.make_error_at(value.mark, f"{key}: expected text, found {value.description}")

    def read_texts(self, table: Table, key: str) -> tuple[str, ...]:
        return tuple(self.require_scalar(value, key).text for value in self.read_list(table, key))

    def read_labels(self, table: Table, key: str) -> Labels:
        value = table.get(key)
        if value is None or value.empty:
            return ()
        if not isinstance(value, Table):
            raise self.make_error_at(value.mark, f"{key}: expected a mapping, found {value.description}")
        return tuple(sorted((name, self.require_scalar(text, name).text) for name, text in value.items()))

    def read_duration_ms(self, table: Table, key: str) -> int:
        text = self.read_text(table, key)
        try:
            return parse_duration(text) if key in table else 0
        except ValueError as error:
            message = f"{key}: {error}; expected a duration such as 5m or 1h30m"
            raise self.make_error_at(table[key].mark, message) from None


def is_same_number(expected: float, actual: float, fuzzy: bool) -> bool:
    """True for equal numbers; `fuzzy` allows one unit in the last place. NaN equals nothing, as in promtool."""
    return expected == actual or (fuzzy and math.nextafter(expected, actual) == actual)
