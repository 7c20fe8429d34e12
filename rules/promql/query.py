"""
The interface of the query language: `compile` makes a Query, which is evaluated at a time or over a range of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from collectors import Labels
from rules.history.blocks import Floats, Times
from rules.history.history import History
from rules.matchers import Matchers, find_exact_name
from rules.promql.evaluate import evaluate_plan, evaluate_windows
from rules.promql.parse import parse
from rules.promql.plan import (
    Aggregate,
    Call,
    Node,
    PromqlError,
    Text,
    TimeModifiers,
    ValueKind,
    VectorSelector,
    compute_reach_ms,
    infer_kind,
    iter_selectors,
)
from rules.promql.selectors import MAX_STEPS
from rules.promql.values import Bools, LabelSets, QueryBudget, SampleSource, Series

Samples = tuple[Labels, Times, Floats]
"""A series with the times (ms) and values of its samples."""

_KIND_NAMES = {"matrix": "range vector", "string": "string"}


@dataclass(frozen=True)
class Vector:
    """
    One value per series; `labels` include `__name__` if Prometheus keeps it. A scalar is one value without labels.
    """

    labels: LabelSets
    values: Floats

    def __iter__(self) -> Iterator[tuple[Labels, float]]:
        return zip(self.labels, self.values.tolist(), strict=True)

    def __len__(self) -> int:
        return len(self.labels)

    def to_dicts(self) -> list[tuple[dict[str, str], float]]:
        """Returns the elements with their labels as dicts."""
        return [(dict(labels), value) for labels, value in self]

    def index_by(self, label: str) -> dict[str, float]:
        """Returns the values by one label, "" for elements without it; of equal labels the last element counts."""
        return {labels.get(label, ""): value for labels, value in self.to_dicts()}


@dataclass(frozen=True)
class Matrix:
    """Values of series at several times (ms): `values` and `present` are [series, steps]."""

    labels: LabelSets
    times: Times
    values: Floats
    present: Bools

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Query:
    """A compiled expression; it holds no data and can be evaluated over any History."""

    text: str
    kind: ValueKind
    names: frozenset[str]
    reach_ms: int
    _plan: Node = field(repr=False)
    _matchers: tuple[Matchers, ...] = field(repr=False)

    def evaluate_at(self, history: SampleSource, at_ms: int, budget: QueryBudget | None = None) -> Vector:
        """Evaluates the query at one time. Raises PromqlError, for example for a many-to-many match."""
        series = self._evaluate_series(history, np.array([at_ms], np.int64), budget)
        present, values = series.present, series.values[:, 0]
        if present is None:
            return _sort_vector(self._plan, Vector(series.labels, values))
        chosen = np.flatnonzero(present[:, 0])
        labels = tuple(series.labels[row] for row in chosen.tolist())
        return _sort_vector(self._plan, Vector(labels, values[chosen]))

    def evaluate_range(
        self, history: SampleSource, start_ms: int, end_ms: int, step_ms: int, budget: QueryBudget | None = None
    ) -> Matrix:
        """Evaluates at start, start + step, … up to and including end; series that are never present are left out."""
        if step_ms <= 0:
            raise PromqlError("the step of a range query must be greater than zero")
        if end_ms < start_ms:
            raise PromqlError("the end of a range query must not be before its start")
        if (end_ms - start_ms) // step_ms > MAX_STEPS:
            raise PromqlError(f"exceeded maximum resolution of {MAX_STEPS:,} points per timeseries; use a longer step")
        times = np.arange(start_ms, end_ms + 1, step_ms, dtype=np.int64)
        series = self._evaluate_series(history, times, budget)
        present = series.mask()
        chosen = np.flatnonzero(present.any(axis=1))
        labels = tuple(series.labels[row] for row in chosen.tolist())
        return Matrix(labels, times, series.values[chosen], present[chosen])

    def read_samples(self, history: SampleSource, at_ms: int, budget: QueryBudget | None = None) -> Iterator[Samples]:
        """Yields the samples of a range vector at one time; series without samples are left out."""
        windows = evaluate_windows(self._plan, history, at_ms, budget or QueryBudget())
        for strip in windows.strips:
            window = slice(int(strip.low[0]), int(strip.high[0]))
            rows = np.arange(len(windows.labels))[strip.rows].tolist()
            if window.start < window.stop:
                for row, values in zip(rows, strip.values[:, window], strict=True):
                    yield windows.labels[row], strip.times[window], values

    @property
    def window_ms(self) -> int:
        """How much of the past the query needs: `reach_ms` without the lookback of instant selectors."""
        return compute_reach_ms(self._plan, lookback_ms=0)

    def get_string(self) -> str:
        """Returns the value of a string literal."""
        if not isinstance(self._plan, Text):
            raise PromqlError("expected a string literal")
        return self._plan.value

    def is_fresh(self, history: History, at_ms: int) -> bool:
        """Returns False while a group that owns, or once owned, a series of a selected name is silent."""
        groups = {group for matchers in self._matchers for group in history.find_groups(matchers)}
        return not any(history.is_silent(group) for group in groups)

    def _evaluate_series(self, history: SampleSource, times: Times, budget: QueryBudget | None) -> Series:
        if self.kind not in ("vector", "scalar"):
            raise PromqlError(
                f'invalid expression type "{_KIND_NAMES[self.kind]}" for a query, must be Scalar or instant Vector'
            )
        value = evaluate_plan(self._plan, history, times, budget or QueryBudget())
        if isinstance(value, Series):
            return value
        return Series(((),), np.atleast_2d(np.asarray(value, np.float64)), None)


def compile(text: str, *, subquery_step_ms: int = 60_000) -> Query:  # noqa: A001 - read as promql.compile, as re.compile is
    """
    Compiles an expression; raises PromqlError if it is invalid or not supported.

    `subquery_step_ms` is the step of `[5m:]`, in Prometheus the global evaluation interval.
    """
    plan = parse(text, subquery_step_ms)
    matchers = tuple(selector.matchers for selector in iter_selectors(plan))
    names = frozenset(name for each in matchers if (name := find_exact_name(each)) is not None)
    return Query(text, infer_kind(plan), names, compute_reach_ms(plan), plan, matchers)


def parse_selector(text: str) -> Matchers:
    """Parses a series selector, such as `match[]` of the query API, to its matchers; raises PromqlError."""
    plan = parse(text, 60_000)
    if not isinstance(plan, VectorSelector) or plan.time_modifiers != TimeModifiers():
        raise PromqlError('1:1: parse error: expected a series selector such as name{label="value"}')
    return plan.matchers


def _sort_vector(plan: Node, vector: Vector) -> Vector:
    """Sorts the result of an instant query as topk, bottomk, sort and sort_desc promise."""
    name = plan.op if isinstance(plan, Aggregate) else plan.name if isinstance(plan, Call) else ""
    if name not in ("topk", "bottomk", "sort", "sort_desc") or not len(vector):
        return vector
    descending = name in ("topk", "sort_desc")
    # NaN comes last in both directions.
    order = np.argsort(-vector.values if descending else vector.values, kind="stable")
    return Vector(tuple(vector.labels[row] for row in order.tolist()), vector.values[order])
