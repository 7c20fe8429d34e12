"""
The functions of the language: a table from name to implementation; adding one is one line and its function.

https://prometheus.io/docs/prometheus/latest/querying/functions/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from collectors import Labels
from rules.history.blocks import Floats
from rules.history.selection import NAME
from rules.promql import date_functions, range_functions
from rules.promql.histogram import histogram_fraction, histogram_quantile
from rules.promql.label_functions import label_join, label_replace
from rules.promql.plan import Call, Node, Range, Select, Subquery
from rules.promql.range_functions import Asked, WindowFunction
from rules.promql.selectors import instant_with_times
from rules.promql.values import LABELS, Bools, LabelSets, Moment, Series, Windows, all_nameless, unique

Function = Callable[[Call, Moment], Series | Floats]


def _elementwise(function: Callable[..., Any]) -> Function:
    """A function of each value by itself, and of scalars; the metric name goes."""

    def run(call: Call, moment: Moment) -> Series:
        series = moment.series(call.arguments[0])
        scalars = [moment.scalar(argument) for argument in call.arguments[1:]]
        labels = call.memo.of((series.labels,), lambda: all_nameless(series.labels))
        return unique(Series(labels, function(series.values, *scalars), series.present), call.unique)

    return run


def _windowed(function: WindowFunction, *, keeps_name: bool = False, weight: int = 1) -> Function:
    """A function of a window over time, and of scalars; the metric name goes unless the value is a sample itself."""

    def run(call: Call, moment: Moment) -> Series:
        place = next(i for i, argument in enumerate(call.arguments) if isinstance(argument, Range | Subquery))
        windows = moment.windows(call.arguments[place])
        scalars = tuple(moment.scalar(argument) for i, argument in enumerate(call.arguments) if i != place)
        asked = Asked(windows.starts, windows.ends, moment.times, windows.range_ms, scalars)
        moment.effort.hold(len(windows.labels), len(moment.times))
        moment.effort.spend(weight * windows.visits())
        series = _over_strips(function, windows, asked)
        if keeps_name:
            return series
        labels = call.memo.of((series.labels,), lambda: all_nameless(series.labels))
        return unique(Series(labels, series.values, series.present), call.unique, joining=False)

    return run


def _over_strips(function: WindowFunction, windows: Windows, asked: Asked) -> Series:
    shape = (len(windows.labels), len(asked.times))
    if len(windows.strips) == 1 and len(windows.strips[0].values) == shape[0]:
        values, some = function(windows.strips[0], asked)
        return Series(windows.labels, values, None if some.all() else np.broadcast_to(some, shape))
    result, present = np.zeros(shape), np.zeros(shape, np.bool_)
    for strip in windows.strips:
        result[strip.rows], present[strip.rows] = function(strip, asked)
    return Series(windows.labels, result, present)


def _at_least(values: Floats, bound: Floats) -> Floats:
    """Go's math.Max: NaN where either is, but +Inf where either is that."""
    largest = np.maximum(values, bound)
    if np.isfinite(bound).all():
        return largest
    return np.where((values == np.inf) | (bound == np.inf), np.inf, largest)


def _at_most(values: Floats, bound: Floats) -> Floats:
    """Go's math.Min, likewise."""
    return -_at_least(-values, -bound)


def _sign(values: Floats) -> Floats:
    return np.where(values == 0, values, np.sign(values))  # of zero, zero with its sign


def _round(values: Floats, to: Floats | None = None) -> Floats:
    inverse = 1.0 / (np.ones(values.shape[1]) if to is None else to)
    rounded: Floats = np.floor(values * inverse + 0.5) / inverse
    return rounded


def _clamp(call: Call, moment: Moment) -> Series:
    low, high = moment.scalar(call.arguments[1]), moment.scalar(call.arguments[2])
    series = _elementwise(lambda values, low, high: _at_least(_at_most(values, high), low))(call, moment)
    assert isinstance(series, Series)  # of an instant vector, as the parser made sure
    return Series(series.labels, series.values, series.mask() & ~(high < low)) if (high < low).any() else series


def _vector(call: Call, moment: Moment) -> Series:
    return Series(((),), moment.scalar(call.arguments[0])[None, :], None)


def _scalar(call: Call, moment: Moment) -> Floats:
    series = moment.series(call.arguments[0])
    present = series.mask()
    if not len(present):
        return np.full(len(moment.times), np.nan)
    values = series.values[present.argmax(axis=0), np.arange(len(moment.times))]
    return np.where(present.sum(axis=0) == 1, values, np.nan)


def _time(call: Call, moment: Moment) -> Floats:
    return moment.times / 1000


def _pi(call: Call, moment: Moment) -> Floats:
    return np.full(len(moment.times), np.pi)


def _timestamp(call: Call, moment: Moment) -> Series:
    argument = call.arguments[0]
    if isinstance(argument, Select):
        series, times = instant_with_times(argument, moment)
    else:
        series = moment.series(argument)
        times = np.broadcast_to(moment.times / 1000, series.values.shape)
    labels = call.memo.of((series.labels,), lambda: all_nameless(series.labels))
    return unique(Series(labels, times, series.present), call.unique)


def _absent(call: Call, moment: Moment) -> Series:
    series = moment.series(call.arguments[0])
    return _where_nothing(call.arguments[0], series, moment)


def _absent_over_time(call: Call, moment: Moment) -> Series:
    windows = moment.windows(call.arguments[0])
    asked = Asked(windows.starts, windows.ends, moment.times, windows.range_ms, ())
    return _where_nothing(call.arguments[0], _over_strips(range_functions.present_over_time, windows, asked), moment)


def _where_nothing(argument: Node, series: Series, moment: Moment) -> Series:
    nothing: Bools = ~np.any(series.mask(), axis=0, keepdims=True)
    return Series((_absent_labels(argument),), np.ones((1, len(moment.times))), nothing)


def _absent_labels(argument: Node) -> Labels:
    """The labels that the selector asks for with `=`; one asked for again is left out."""
    select = argument.select if isinstance(argument, Range) else argument
    if not isinstance(select, Select):
        return ()
    found: dict[str, str] = {}
    known = set()
    for matcher in select.matchers:
        if matcher.op == "=" and matcher.label not in known:
            known.add(matcher.label)
            found[matcher.label] = matcher.value
        else:
            found.pop(matcher.label, None)
    return tuple(sorted(pair for pair in found.items() if pair[1] and pair[0] != NAME))


def _sorted(call: Call, moment: Moment) -> Series:
    return moment.series(call.arguments[0])  # an instant query orders its result at the end


def _relabelled(function: Callable[[LabelSets, tuple[str, ...]], LabelSets]) -> Function:
    """A function of labels alone, with strings."""

    def run(call: Call, moment: Moment) -> Series:
        series = moment.series(call.arguments[0])
        texts = tuple(moment.text(argument) for argument in call.arguments[1:])
        moment.effort.spend(LABELS * len(series.labels))
        moment.effort.hold(len(series.labels), series.values.shape[1])
        labels = call.memo.of((series.labels,), lambda: function(series.labels, texts))
        return unique(Series(labels, series.values, series.present), call.unique)

    return run


FUNCTIONS: dict[str, Function] = {
    "abs": _elementwise(np.abs),
    "absent": _absent,
    "absent_over_time": _absent_over_time,
    "acos": _elementwise(np.arccos),
    "acosh": _elementwise(np.arccosh),
    "asin": _elementwise(np.arcsin),
    "asinh": _elementwise(np.arcsinh),
    "atan": _elementwise(np.arctan),
    "atanh": _elementwise(np.arctanh),
    "avg_over_time": _windowed(range_functions.avg_over_time),
    "ceil": _elementwise(np.ceil),
    "changes": _windowed(range_functions.changes),
    "clamp": _clamp,
    "clamp_max": _elementwise(_at_most),
    "clamp_min": _elementwise(_at_least),
    "cos": _elementwise(np.cos),
    "cosh": _elementwise(np.cosh),
    "count_over_time": _windowed(range_functions.count_over_time),
    "day_of_month": date_functions.calendar(date_functions.day_of_month),
    "day_of_week": date_functions.calendar(date_functions.day_of_week),
    "day_of_year": date_functions.calendar(date_functions.day_of_year),
    "days_in_month": date_functions.calendar(date_functions.days_in_month),
    "deg": _elementwise(lambda values: values * 180 / np.pi),
    "delta": _windowed(range_functions.delta),
    "deriv": _windowed(range_functions.deriv, weight=10),
    "exp": _elementwise(np.exp),
    "first_over_time": _windowed(range_functions.first_over_time, keeps_name=True),
    "floor": _elementwise(np.floor),
    "histogram_fraction": histogram_fraction,
    "histogram_quantile": histogram_quantile,
    "hour": date_functions.calendar(date_functions.hour),
    "idelta": _windowed(range_functions.idelta),
    "increase": _windowed(range_functions.increase),
    "irate": _windowed(range_functions.irate),
    "label_join": _relabelled(label_join),
    "label_replace": _relabelled(label_replace),
    "last_over_time": _windowed(range_functions.last_over_time, keeps_name=True),
    "ln": _elementwise(np.log),
    "log10": _elementwise(np.log10),
    "log2": _elementwise(np.log2),
    "max_over_time": _windowed(range_functions.max_over_time),
    "min_over_time": _windowed(range_functions.min_over_time),
    "minute": date_functions.calendar(date_functions.minute),
    "month": date_functions.calendar(date_functions.month),
    "pi": _pi,
    "predict_linear": _windowed(range_functions.predict_linear, weight=10),
    "present_over_time": _windowed(range_functions.present_over_time),
    "quantile_over_time": _windowed(range_functions.quantile_over_time, weight=10),
    "rad": _elementwise(lambda values: values * np.pi / 180),
    "rate": _windowed(range_functions.rate),
    "resets": _windowed(range_functions.resets),
    "round": _elementwise(_round),
    "scalar": _scalar,
    "sgn": _elementwise(_sign),
    "sin": _elementwise(np.sin),
    "sinh": _elementwise(np.sinh),
    "sort": _sorted,
    "sort_desc": _sorted,
    "sqrt": _elementwise(np.sqrt),
    "stddev_over_time": _windowed(range_functions.stddev_over_time, weight=10),
    "stdvar_over_time": _windowed(range_functions.stdvar_over_time, weight=10),
    "sum_over_time": _windowed(range_functions.sum_over_time),
    "tan": _elementwise(np.tan),
    "tanh": _elementwise(np.tanh),
    "time": _time,
    "timestamp": _timestamp,
    "vector": _vector,
    "year": date_functions.calendar(date_functions.year),
}
