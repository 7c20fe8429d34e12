"""
Functions of a window over time; each sees a Strip, whose series have a value in every row.

The algorithms are Prometheus' own, see extrapolatedRate and its neighbours in promql/functions.go:
https://prometheus.io/docs/prometheus/latest/querying/functions/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rules.history.blocks import Floats, Times
from rules.promql.aggregate import quantile
from rules.promql.summation import row_sums, window_means, window_sums
from rules.promql.values import Bools, Strip


class Asked(NamedTuple):
    """What a window function is told besides the samples; one entry per step."""

    starts: Times
    ends: Times
    times: Times  # of the evaluation itself, without offset
    range_ms: int
    scalars: tuple[Floats, ...]


Result = tuple[Floats, Bools]
"""Values [series, steps] and whether there is one, [steps] or [series, steps]."""

WindowFunction = Callable[[Strip, Asked], Result]


def _some(strip: Strip) -> Bools:
    return strip.high > strip.low


def _two(strip: Strip) -> Bools:
    return strip.high - strip.low > 1


def _extrapolated(strip: Strip, asked: Asked, *, counter: bool, per_second: bool) -> Result:
    """Change within the window, stretched to its ends as far as samples would be expected there."""
    first, last = strip.first(), strip.last()
    opening = strip.values[:, first]
    change = strip.values[:, last] - opening
    if counter:
        change = change + _resets_lost(strip)
    sampled = (strip.times[last] - strip.times[first]) / 1000
    between = sampled / (strip.high - strip.low - 1)
    to_start, to_end = (strip.times[first] - asked.starts) / 1000, (asked.ends - strip.times[last]) / 1000
    threshold = between * 1.1
    to_start = np.where(to_start >= threshold, between / 2, to_start)
    to_end = np.where(to_end >= threshold, between / 2, to_end)
    if counter:
        # A counter cannot have been below zero, so it is not stretched further back than to there.
        to_zero = np.where((change > 0) & (opening >= 0), sampled * (opening / change), np.inf)
        to_start = np.minimum(to_start, to_zero)
    factor = (sampled + to_start + to_end) / sampled
    return change * (factor / (asked.range_ms / 1000) if per_second else factor), _two(strip)


def _resets_lost(strip: Strip) -> Floats | float:
    """What a counter had reached before each fall within the window."""
    low, high = int(strip.low.min()), int(strip.high.max())
    if high - low < 2:
        return 0.0
    before, after = strip.values[:, low : high - 1], strip.values[:, low + 1 : high]
    fell = after < before
    rows = np.flatnonzero(fell.any(axis=1))
    if not len(rows):
        return 0.0
    lost = np.zeros((len(rows), strip.values.shape[1]))
    lost[:, low + 1 : high] = np.where(fell[rows], before[rows], 0.0)
    total = np.zeros((len(strip.values), len(strip.low)))
    total[rows] = strip.reduce(np.add, lost, skip=1)
    return total


def rate(strip: Strip, asked: Asked) -> Result:
    return _extrapolated(strip, asked, counter=True, per_second=True)


def increase(strip: Strip, asked: Asked) -> Result:
    return _extrapolated(strip, asked, counter=True, per_second=False)


def delta(strip: Strip, asked: Asked) -> Result:
    return _extrapolated(strip, asked, counter=False, per_second=False)


def _last_two(strip: Strip) -> tuple[Floats, Floats, Floats]:
    last = strip.last()
    previous = np.maximum(last - 1, 0)
    seconds = (strip.times[last] - strip.times[previous]) / 1000
    return strip.values[:, last], strip.values[:, previous], seconds


def irate(strip: Strip, asked: Asked) -> Result:
    newest, previous, seconds = _last_two(strip)
    return np.where(newest < previous, newest, newest - previous) / seconds, _two(strip)


def idelta(strip: Strip, asked: Asked) -> Result:
    newest, previous, _ = _last_two(strip)
    return newest - previous, _two(strip)


def sum_over_time(strip: Strip, asked: Asked) -> Result:
    return window_sums(strip, strip.values), _some(strip)


def avg_over_time(strip: Strip, asked: Asked) -> Result:
    return window_means(strip), _some(strip)


def min_over_time(strip: Strip, asked: Asked) -> Result:
    return strip.reduce(np.fmin, strip.values), _some(strip)


def max_over_time(strip: Strip, asked: Asked) -> Result:
    return strip.reduce(np.fmax, strip.values), _some(strip)


def count_over_time(strip: Strip, asked: Asked) -> Result:
    return np.broadcast_to(strip.sizes(), (len(strip.values), len(strip.low))), _some(strip)


def present_over_time(strip: Strip, asked: Asked) -> Result:
    return np.ones((len(strip.values), len(strip.low))), _some(strip)


def last_over_time(strip: Strip, asked: Asked) -> Result:
    return strip.values[:, strip.last()], _some(strip)


def first_over_time(strip: Strip, asked: Asked) -> Result:
    return strip.values[:, strip.first()], _some(strip)


def _counted(strip: Strip, happened: Bools) -> Floats:
    """How often something happened between two neighbours of the window; `happened` has one column fewer."""
    padded = np.concatenate([np.zeros((len(strip.values), 1)), happened], axis=1)
    return strip.reduce(np.add, padded, skip=1)


def changes(strip: Strip, asked: Asked) -> Result:
    before, after = strip.values[:, :-1], strip.values[:, 1:]
    return _counted(strip, (before != after) & ~(np.isnan(before) & np.isnan(after))), _some(strip)


def resets(strip: Strip, asked: Asked) -> Result:
    return _counted(strip, strip.values[:, 1:] < strip.values[:, :-1]), _some(strip)


def _each_step(strip: Strip, function: Callable[[Times, Floats, int], Floats], least: int) -> Floats:
    """`function` of the times and values of each window that has at least so many rows."""
    result = np.zeros((len(strip.values), len(strip.low)))
    for step, (low, high) in enumerate(zip(strip.low.tolist(), strip.high.tolist(), strict=True)):
        if high - low >= least:
            result[:, step] = function(strip.times[low:high], strip.values[:, low:high], step)
    return result


def _variance(times: Times, values: Floats, step: int) -> Floats:
    away = values - values[:, :1]  # so that equal values have no variance at all
    away -= away.mean(axis=1, keepdims=True)
    result: Floats = (away**2).mean(axis=1)
    return result


def stdvar_over_time(strip: Strip, asked: Asked) -> Result:
    return _each_step(strip, _variance, 1), _some(strip)


def stddev_over_time(strip: Strip, asked: Asked) -> Result:
    deviation: Floats = np.sqrt(_each_step(strip, _variance, 1))
    return deviation, _some(strip)


def quantile_over_time(strip: Strip, asked: Asked) -> Result:
    ranks = asked.scalars[0]
    return _each_step(strip, lambda _times, values, step: quantile(float(ranks[step]), values), 1), _some(strip)


def _regression(times: Times, values: Floats, origin_ms: int) -> tuple[Floats, Floats]:
    """Slope per second, and value at the origin, of the least squares line through each row; Prometheus' formula."""
    count, x = len(times), (times - origin_ms) / 1000
    sum_x, sum_xx = row_sums(np.stack([x, x * x])).tolist()
    sum_y, sum_xy = row_sums(values), row_sums(values * x)
    slope = (sum_xy - sum_x * sum_y / count) / (sum_xx - sum_x * sum_x / count)
    origin = sum_y / count - slope * sum_x / count
    constant = (values == values[:, :1]).all(axis=1)
    # A constant line is exact, and Inf has no slope.
    slope = np.where(constant, np.where(np.isinf(values[:, 0]), np.nan, 0.0), slope)
    return slope, np.where(constant, np.where(np.isinf(values[:, 0]), np.nan, values[:, 0]), origin)


def deriv(strip: Strip, asked: Asked) -> Result:
    return _each_step(strip, lambda times, values, _: _regression(times, values, int(times[0]))[0], 2), _two(strip)


def predict_linear(strip: Strip, asked: Asked) -> Result:
    def ahead(times: Times, values: Floats, step: int) -> Floats:
        slope, now = _regression(times, values, int(asked.times[step]))
        predicted: Floats = slope * asked.scalars[0][step] + now
        return predicted

    return _each_step(strip, ahead, 2), _two(strip)
