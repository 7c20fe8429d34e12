"""
The table of PromQL functions; a new one needs an entry and an implementation.

https://prometheus.io/docs/prometheus/latest/querying/functions/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from collectors import Labels
from rules.history.blocks import Floats
from rules.matchers import NAME
from rules.promql import date_functions, range_functions
from rules.promql.histogram import histogram_fraction, histogram_quantile
from rules.promql.label_functions import label_join, label_replace
from rules.promql.plan import Call, MatrixSelector, Node, Subquery, VectorSelector
from rules.promql.range_functions import WindowArguments, WindowFunction
from rules.promql.selectors import select_instant_with_times
from rules.promql.values import (
    LABEL_SET_COST,
    Bools,
    EvaluationContext,
    LabelSets,
    QueryBudget,
    Series,
    Windows,
    drop_metric_names,
    merge_same_labels,
)

Function = Callable[[Call, EvaluationContext], Series | Floats]


def _make_elementwise(function: Callable[..., Any]) -> Function:
    """Makes a function of single values and of scalars; the result has no metric name."""

    def run(call: Call, context: EvaluationContext) -> Series:
        series = context.evaluate_series(call.arguments[0])
        scalars = [context.evaluate_scalar(argument) for argument in call.arguments[1:]]
        labels = call.memo.get_or_compute((series.labels,), lambda: drop_metric_names(series.labels, context.budget))
        return merge_same_labels(Series(labels, function(series.values, *scalars), series.present), call.merge_memo)

    return run


def _make_windowed(function: WindowFunction, *, keeps_name: bool = False, weight: int = 1) -> Function:
    """Makes a function of windows and of scalars; the metric name goes unless the result is one of the samples."""

    def run(call: Call, context: EvaluationContext) -> Series:
        range_index = next(
            i for i, argument in enumerate(call.arguments) if isinstance(argument, MatrixSelector | Subquery)
        )
        windows = context.evaluate_windows(call.arguments[range_index])
        scalars = tuple(
            context.evaluate_scalar(argument) for i, argument in enumerate(call.arguments) if i != range_index
        )
        arguments = WindowArguments(windows.starts, windows.ends, context.times, windows.range_ms, scalars)
        context.budget.reserve(len(windows.labels), len(context.times))
        context.budget.spend(weight * windows.count_visits())
        series = _apply_to_strips(function, windows, arguments)
        if keeps_name:
            return series
        labels = call.memo.get_or_compute((series.labels,), lambda: drop_metric_names(series.labels, context.budget))
        return merge_same_labels(Series(labels, series.values, series.present), call.merge_memo, allow_join=False)

    return run


def _apply_to_strips(function: WindowFunction, windows: Windows, arguments: WindowArguments) -> Series:
    shape = (len(windows.labels), len(arguments.times))
    if len(windows.strips) == 1 and len(windows.strips[0].values) == shape[0]:
        values, has_value = function(windows.strips[0], arguments)
        return Series(windows.labels, values, None if has_value.all() else np.broadcast_to(has_value, shape))
    result, present = np.zeros(shape), np.zeros(shape, np.bool_)
    for strip in windows.strips:
        result[strip.rows], present[strip.rows] = function(strip, arguments)
    return Series(windows.labels, result, present)


def _go_max(values: Floats, bound: Floats) -> Floats:
    """Computes Go's math.Max: +Inf if either is +Inf, else NaN if either is NaN."""
    largest = np.maximum(values, bound)
    if np.isfinite(bound).all():
        return largest
    return np.where((values == np.inf) | (bound == np.inf), np.inf, largest)


def _go_min(values: Floats, bound: Floats) -> Floats:
    """Computes Go's math.Min, likewise."""
    return -_go_max(-values, -bound)


def _sign(values: Floats) -> Floats:
    return np.where(values == 0, values, np.sign(values))  # zero keeps its sign


def _round(values: Floats, to_nearest: Floats | None = None) -> Floats:
    inverse = 1.0 / (np.ones(values.shape[1]) if to_nearest is None else to_nearest)
    rounded: Floats = np.floor(values * inverse + 0.5) / inverse
    return rounded


def _clamp(call: Call, context: EvaluationContext) -> Series:
    low, high = context.evaluate_scalar(call.arguments[1]), context.evaluate_scalar(call.arguments[2])
    series = _make_elementwise(lambda values, low, high: _go_max(_go_min(values, high), low))(call, context)
    assert isinstance(series, Series)  # an instant vector, as the parser has checked
    return Series(series.labels, series.values, series.mask() & ~(high < low)) if (high < low).any() else series


def _vector(call: Call, context: EvaluationContext) -> Series:
    return Series(((),), context.evaluate_scalar(call.arguments[0])[None, :], None)


def _scalar(call: Call, context: EvaluationContext) -> Floats:
    series = context.evaluate_series(call.arguments[0])
    present = series.mask()
    if not len(present):
        return np.full(len(context.times), np.nan)
    values = series.values[present.argmax(axis=0), np.arange(len(context.times))]
    return np.where(present.sum(axis=0) == 1, values, np.nan)


def _time(call: Call, context: EvaluationContext) -> Floats:
    return context.times / 1000


def _pi(call: Call, context: EvaluationContext) -> Floats:
    return np.full(len(context.times), np.pi)


def _timestamp(call: Call, context: EvaluationContext) -> Series:
    argument = call.arguments[0]
    if isinstance(argument, VectorSelector):
        series, times = select_instant_with_times(argument, context)
    else:
        series = context.evaluate_series(argument)
        times = np.broadcast_to(context.times / 1000, series.values.shape)
    labels = call.memo.get_or_compute((series.labels,), lambda: drop_metric_names(series.labels, context.budget))
    return merge_same_labels(Series(labels, times, series.present), call.merge_memo)


def _absent(call: Call, context: EvaluationContext) -> Series:
    series = context.evaluate_series(call.arguments[0])
    return _mark_absent(call.arguments[0], series, context)


def _absent_over_time(call: Call, context: EvaluationContext) -> Series:
    windows = context.evaluate_windows(call.arguments[0])
    arguments = WindowArguments(windows.starts, windows.ends, context.times, windows.range_ms, ())
    return _mark_absent(
        call.arguments[0], _apply_to_strips(range_functions.present_over_time, windows, arguments), context
    )


def _mark_absent(argument: Node, series: Series, context: EvaluationContext) -> Series:
    absent: Bools = ~np.any(series.mask(), axis=0, keepdims=True)
    return Series((_build_absent_labels(argument),), np.ones((1, len(context.times))), absent)


def _build_absent_labels(argument: Node) -> Labels:
    """Returns the labels that the selector requires with `=`; a label that is required twice is left out."""
    selector = argument.selector if isinstance(argument, MatrixSelector) else argument
    if not isinstance(selector, VectorSelector):
        return ()
    values: dict[str, str] = {}
    visited = set()
    for matcher in selector.matchers:
        if matcher.op == "=" and matcher.label not in visited:
            visited.add(matcher.label)
            values[matcher.label] = matcher.value
        else:
            values.pop(matcher.label, None)
    return tuple(sorted(pair for pair in values.items() if pair[1] and pair[0] != NAME))


def _sort(call: Call, context: EvaluationContext) -> Series:
    return context.evaluate_series(call.arguments[0])  # an instant query sorts its result at the end


def _make_label_function(function: Callable[[LabelSets, tuple[str, ...], QueryBudget], LabelSets]) -> Function:
    """Makes a function of labels and strings."""

    def run(call: Call, context: EvaluationContext) -> Series:
        series = context.evaluate_series(call.arguments[0])
        texts = tuple(context.evaluate_text(argument) for argument in call.arguments[1:])
        context.budget.spend(LABEL_SET_COST * len(series.labels))
        context.budget.reserve(len(series.labels), series.values.shape[1])
        labels = call.memo.get_or_compute((series.labels,), lambda: function(series.labels, texts, context.budget))
        return merge_same_labels(Series(labels, series.values, series.present), call.merge_memo)

    return run


FUNCTIONS: dict[str, Function] = {
    "abs": _make_elementwise(np.abs),
    "absent": _absent,
    "absent_over_time": _absent_over_time,
    "acos": _make_elementwise(np.arccos),
    "acosh": _make_elementwise(np.arccosh),
    "asin": _make_elementwise(np.arcsin),
    "asinh": _make_elementwise(np.arcsinh),
    "atan": _make_elementwise(np.arctan),
    "atanh": _make_elementwise(np.arctanh),
    "avg_over_time": _make_windowed(range_functions.avg_over_time),
    "ceil": _make_elementwise(np.ceil),
    "changes": _make_windowed(range_functions.changes),
    "clamp": _clamp,
    "clamp_max": _make_elementwise(_go_min),
    "clamp_min": _make_elementwise(_go_max),
    "cos": _make_elementwise(np.cos),
    "cosh": _make_elementwise(np.cosh),
    "count_over_time": _make_windowed(range_functions.count_over_time),
    "day_of_month": date_functions.make_date_function(date_functions.day_of_month),
    "day_of_week": date_functions.make_date_function(date_functions.day_of_week),
    "day_of_year": date_functions.make_date_function(date_functions.day_of_year),
    "days_in_month": date_functions.make_date_function(date_functions.days_in_month),
    "deg": _make_elementwise(lambda values: values * 180 / np.pi),
    "delta": _make_windowed(range_functions.delta),
    "deriv": _make_windowed(range_functions.deriv, weight=10),
    "exp": _make_elementwise(np.exp),
    "first_over_time": _make_windowed(range_functions.first_over_time, keeps_name=True),
    "floor": _make_elementwise(np.floor),
    "histogram_fraction": histogram_fraction,
    "histogram_quantile": histogram_quantile,
    "hour": date_functions.make_date_function(date_functions.hour),
    "idelta": _make_windowed(range_functions.idelta),
    "increase": _make_windowed(range_functions.increase),
    "irate": _make_windowed(range_functions.irate),
    "label_join": _make_label_function(label_join),
    "label_replace": _make_label_function(label_replace),
    "last_over_time": _make_windowed(range_functions.last_over_time, keeps_name=True),
    "ln": _make_elementwise(np.log),
    "log10": _make_elementwise(np.log10),
    "log2": _make_elementwise(np.log2),
    "max_over_time": _make_windowed(range_functions.max_over_time),
    "min_over_time": _make_windowed(range_functions.min_over_time),
    "minute": date_functions.make_date_function(date_functions.minute),
    "month": date_functions.make_date_function(date_functions.month),
    "pi": _pi,
    "predict_linear": _make_windowed(range_functions.predict_linear, weight=10),
    "present_over_time": _make_windowed(range_functions.present_over_time),
    "quantile_over_time": _make_windowed(range_functions.quantile_over_time, weight=10),
    "rad": _make_elementwise(lambda values: values * np.pi / 180),
    "rate": _make_windowed(range_functions.rate),
    "resets": _make_windowed(range_functions.resets),
    "round": _make_elementwise(_round),
    "scalar": _scalar,
    "sgn": _make_elementwise(_sign),
    "sin": _make_elementwise(np.sin),
    "sinh": _make_elementwise(np.sinh),
    "sort": _sort,
    "sort_desc": _sort,
    "sqrt": _make_elementwise(np.sqrt),
    "stddev_over_time": _make_windowed(range_functions.stddev_over_time, weight=10),
    "stdvar_over_time": _make_windowed(range_functions.stdvar_over_time, weight=10),
    "sum_over_time": _make_windowed(range_functions.sum_over_time),
    "tan": _make_elementwise(np.tan),
    "tanh": _make_elementwise(np.tanh),
    "time": _time,
    "timestamp": _timestamp,
    "vector": _vector,
    "year": date_functions.make_date_function(date_functions.year),
}
