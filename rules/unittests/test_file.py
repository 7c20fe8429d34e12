"""
Reads the test files of `promtool test rules`, as strictly: unknown keys and wrong types are errors with their place.

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

from collectors import Labels
from rules.durations import parse_duration
from rules.strict_yaml import Listing, Mark, Scalar, StrictYamlError, Table, Value, load

MINUTE_MS = 60_000
STALE = "stale"
MOST_VALUES = 1_000_000

_NUMBER = r"(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[iI][nN][fF]|[nN][aA][nN])"
_SERIES_VALUE = re.compile(rf"([+-]?{_NUMBER})(?:([+-]{_NUMBER})?x(\d+))?", re.ASCII)
_GAP = re.compile(r"_(?:x(\d+))?", re.ASCII)
_FLOAT = re.compile(r"[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|\.?inf|\.?nan)", re.ASCII | re.IGNORECASE)

_FILE = ("rule_files", "evaluation_interval", "group_eval_order", "fuzzy_compare", "tests")
_GROUP = (
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
    """A test file that cannot be run; the message names file and place."""

    __test__ = False


@dataclass(frozen=True)
class InputSeries:
    """A series, `__name__` among its labels, and its values per interval: None is no sample, STALE its end."""

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
    """One item of `tests`; times in ms, those of evaluations from `start_ms` on."""

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
        """The last time anything is asked, from the start."""
        asked = [test.eval_ms for test in self.alert_tests] + [test.eval_ms for test in self.expr_tests]
        return max(asked, default=0)


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
    """The file, checked whole; raises TestFileError."""
    reader = _Reader(path)
    try:
        root = load(path.read_bytes())
    except OSError as error:
        raise TestFileError(f"{path}: cannot be read: {error.strerror}") from None
    except StrictYamlError as error:
        raise reader.error(error.mark, str(error)) from None
    return reader.file(Table({}, Mark(1, 1)) if root is None else root)


def parse_metric(text: str) -> Labels:
    """The labels of `name{label="value"}`, name as `__name__`; raises ValueError."""
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
    """The values of promtool's expanding notation (`0+10x5 _ _x3 7x2 stale`); raises ValueError."""
    values: list[float | str | None] = []
    for word in text.split():
        values += _expanded(word)
        if len(values) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")
    return tuple(values)


def _expanded(word: str) -> Sequence[float | str | None]:
    if word == STALE:
        return (STALE,)
    if gap := _GAP.fullmatch(word):
        return (None,) * _count(gap[1] or "1")
    found = _SERIES_VALUE.fullmatch(word)
    if found is None:
        raise ValueError(f'"{word}" is none of 1, 1x3, 0+10x5, _, _x3, stale')
    first, step, times = float(found[1]), found[2], found[3]
    if times is None:
        return (first,)
    return tuple(_counted_up(first, float(step) if step else 0.0, _count(times)))


def _counted_up(value: float, step: float, times: int) -> Iterator[float]:
    for _ in range(times + 1):
        yield value
        value += step  # one after the other, as promtool does it: the rounding is part of the result


def _count(text: str) -> int:
    if len(text) > 7 or int(text) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES} values")
    return int(text)


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path

    def error(self, mark: Mark, message: str) -> TestFileError:
        return TestFileError(f"{self.path}: {mark.line}:{mark.column}: {message}")

    def file(self, root: Value) -> TestFile:
        table = self.table(root, _FILE, "a mapping with the key tests")
        interval_ms = self.duration(table, "evaluation_interval") or MINUTE_MS
        cases = tuple(self.case(value, interval_ms) for value in self.listing(table, "tests"))
        order = self.texts(table, "group_eval_order")
        fuzzy = self.text(table, "fuzzy_compare") == "true"
        return TestFile(self.path, self.texts(table, "rule_files"), interval_ms, order, fuzzy, cases)

    def case(self, value: Value, interval_ms: int) -> Case:
        table = self.table(value, _GROUP, "a test")
        return Case(
            name=self.text(table, "name"),
            interval_ms=self.duration(table, "interval") or interval_ms,
            start_ms=self.start(table),
            inputs=tuple(map(self.series, self.listing(table, "input_series"))),
            alert_tests=tuple(map(self.alert_test, self.listing(table, "alert_rule_test"))),
            expr_tests=tuple(map(self.expr_test, self.listing(table, "promql_expr_test"))),
            external_labels=self.mapping(table, "external_labels"),
            external_url=self.text(table, "external_url"),
        )

    def start(self, table: Table) -> int:
        text = self.text(table, "start_timestamp")
        try:
            return round(float(text or 0) * 1000)
        except ValueError:
            pass  # not Unix seconds: then a date
        try:
            return round(datetime.fromisoformat(text).timestamp() * 1000)
        except ValueError:
            message = f'start_timestamp: expected Unix seconds or RFC 3339, found "{text}"'
            raise self.error(table["start_timestamp"].mark, message) from None

    def series(self, value: Value) -> InputSeries:
        table = self.table(value, ("series", "values"), "a series with its values")
        labels = self.metric(table, "series", value.mark)
        try:
            return InputSeries(labels, parse_values(self.text(table, "values")))
        except ValueError as error:
            raise self.error(table["values"].mark, f"values: {error}") from None

    def metric(self, table: Table, key: str, mark: Mark) -> Labels:
        try:
            return parse_metric(self.text(table, key))
        except ValueError as error:
            raise self.error(table[key].mark if key in table else mark, f"{key}: {error}") from None

    def alert_test(self, value: Value) -> AlertTest:
        table = self.table(value, ("eval_time", "alertname", "exp_alerts"), "an alert test")
        name = self.text(table, "alertname")
        if not name:
            message = "an item under alert_rule_test misses required attribute alertname"
            raise self.error(value.mark, f"{message} at eval_time {self.text(table, 'eval_time')}")
        expected = tuple(self.expected(each, name) for each in self.listing(table, "exp_alerts"))
        return AlertTest(self.duration(table, "eval_time"), self.text(table, "eval_time"), name, expected)

    def expected(self, value: Value, alertname: str) -> ExpectedAlert:
        table = self.table(value, ("exp_labels", "exp_annotations"), "an expected alert")
        labels = {**dict(self.mapping(table, "exp_labels")), "alertname": alertname}
        return ExpectedAlert(tuple(sorted(labels.items())), self.mapping(table, "exp_annotations"))

    def expr_test(self, value: Value) -> ExprTest:
        table = self.table(value, ("expr", "eval_time", "exp_samples"), "an expression test")
        samples = tuple(map(self.sample, self.listing(table, "exp_samples")))
        asked = self.text(table, "expr"), self.duration(table, "eval_time"), self.text(table, "eval_time")
        return ExprTest(*asked, samples)

    def sample(self, value: Value) -> tuple[Labels, float]:
        table = self.table(value, ("labels", "value", "histogram"), "an expected sample")
        if "histogram" in table:
            raise self.error(table["histogram"].mark, "histogram: native histograms are not supported")
        text = self.text(table, "value") or "0"
        if not _FLOAT.fullmatch(text):
            raise self.error(table["value"].mark, f'value: expected a number, found "{text}"')
        return self.metric(table, "labels", value.mark), float(text.replace(".inf", "inf").replace(".nan", "nan"))

    # -- shapes

    def table(self, value: Value, keys: Sequence[str], wanted: str) -> Table:
        if not isinstance(value, Table):
            raise self.error(value.mark, f"expected {wanted}, found {value.described}")
        for key, mark in value.marks.items():
            if key not in keys:
                raise self.error(mark, f"field {key} not found; expected one of {', '.join(keys)}")
        return value

    def listing(self, table: Table, key: str) -> tuple[Value, ...]:
        value = table.get(key)
        if value is None or value.empty:
            return ()
        if isinstance(value, Listing):
            return value.values
        raise self.error(value.mark, f"{key}: expected a list, found {value.described}")

    def text(self, table: Table, key: str) -> str:
        value = table.get(key)
        return "" if value is None else self.scalar(value, key).text

    def scalar(self, value: Value, key: str) -> Scalar:
        if isinstance(value, Scalar):
            return value
        raise self.error(value.mark, f"{key}: expected text, found {value.described}")

    def texts(self, table: Table, key: str) -> tuple[str, ...]:
        return tuple(self.scalar(value, key).text for value in self.listing(table, key))

    def mapping(self, table: Table, key: str) -> Labels:
        value = table.get(key)
        if value is None or value.empty:
            return ()
        if not isinstance(value, Table):
            raise self.error(value.mark, f"{key}: expected a mapping, found {value.described}")
        return tuple(sorted((name, self.scalar(text, name).text) for name, text in value.items()))

    def duration(self, table: Table, key: str) -> int:
        text = self.text(table, key)
        try:
            return parse_duration(text) if key in table else 0
        except ValueError as error:
            message = f"{key}: {error}; expected a duration such as 5m or 1h30m"
            raise self.error(table[key].mark, message) from None


def same_number(expected: float, got: float, fuzzy: bool) -> bool:
    """Equal; with fuzzy also one unit in the last place apart. NaN is not itself, as in promtool."""
    return expected == got or (fuzzy and math.nextafter(expected, got) == got)
