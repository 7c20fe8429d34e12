"""
Functions of windows over time; each reads a Strip, whose series have a value in every row.

The algorithms are Prometheus' own, see extrapolatedRate and its neighbours in promql/functions.go:
https://prometheus.io/docs/prometheus/latest/querying/functions/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rules.history.blocks import Floats, Times
from rules.promql.aggregate import quantile
from rules.promql.summation import average_windows, sum_rows, sum_windows
from rules.promql.values import Bools, Strip


class WindowArguments(NamedTuple):
    """The arguments of a window function besides the samples; one entry per step."""

    starts: Times
    ends: Times
    times: Times  # of the evaluation itself, without offset
    range_ms: int
    scalars: tuple[Floats, ...]


WindowResult = tuple[Floats, Bools]
"""Values [series, steps], and which of them exist, [steps] or [series, steps]."""

WindowFunction = Callable[[Strip, WindowArguments], WindowResult]


def _has_samples(strip: Strip) -> Bools:
    return strip.high > strip.low


def _has_two_samples(strip: Strip) -> Bools:
    return strip.high - strip.low > 1


def _extrapolate(strip: Strip, arguments: WindowArguments, *, counter: bool, per_second: bool) -> WindowResult:
    """Computes the change within the window, extrapolated to its ends where further samples would be expected."""
    first, last = strip.first_rows(), strip.last_rows()
    first_values = strip.values[:, first]
    change = strip.values[:, last] - first_values
    if counter:
        change = change + _sum_reset_losses(strip)
    sampled_seconds = (strip.times[last] - strip.times[first]) / 1000
    average_interval = sampled_seconds / (strip.high - strip.low - 1)
    to_start, to_end = (strip.times[first] - arguments.starts) / 1000, (arguments.ends - strip.times[last]) / 1000
    threshold = average_interval * 1.1
    to_start = np.where(to_start >= threshold, average_interval / 2, to_start)
    to_end = np.where(to_end >= threshold, average_interval / 2, to_end)
    if counter:
        # A counter was never below zero, so it is extrapolated back to zero at most.
        to_zero = np.where((change > 0) & (first_values >= 0), sampled_seconds * (first_values / change), np.inf)
        to_start = np.minimum(to_start, to_zero)
    factor = (sampled_seconds + to_start + to_end) / sampled_seconds
    return change * (factor / (arguments.range_ms / 1000) if per_second else factor), _has_two_samples(strip)


def _sum_reset_losses(strip: Strip) -> Floats | float:
    """Adds up the values that a counter had before each reset within the window."""
    low, high = int(strip.low.min()), int(strip.high.max())
    if high - low < 2:
        return 0.0
    before, after = strip.values[:, low : high - 1], strip.values[:, low + 1 : high]
    is_reset = after < before
    rows = np.flatnonzero(is_reset.any(axis=1))
    if not len(rows):
        return 0.0
    losses = np.zeros((len(rows), strip.values.shape[1]))
    losses[:, low + 1 : high] = np.where(is_reset[rows], before[rows], 0.0)
    total = np.zeros((len(strip.values), len(strip.low)))
    total[rows] = strip.reduce(np.add, losses, skip=1)
    return total


def rate(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return _extrapolate(strip, arguments, counter=True, per_second=True)


def increase(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return _extrapolate(strip, arguments, counter=True, per_second=False)


def delta(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return _extrapolate(strip, arguments, counter=False, per_second=False)


def _read_last_two(strip: Strip) -> tuple[Floats, Floats, Floats]:
    last = strip.last_rows()
    previous = np.maximum(last - 1, 0)
    seconds = (strip.times[last] - strip.times[previous]) / 1000
    return strip.values[:, last], strip.values[:, previous], seconds


def irate(strip: Strip, arguments: WindowArguments) -> WindowResult:
    newest, previous, seconds = _read_last_two(strip)
    return np.where(newest < previous, newest, newest - previous) / seconds, _has_two_samples(strip)


def idelta(strip: Strip, arguments: WindowArguments) -> WindowResult:
    newest, previous, _ = _read_last_two(strip)
    return newest - previous, _has_two_samples(strip)


def sum_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return sum_windows(strip, strip.values), _has_samples(strip)


def avg_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return average_windows(strip), _has_samples(strip)


def min_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return strip.reduce(np.fmin, strip.values), _has_samples(strip)


def max_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return strip.reduce(np.fmax, strip.values), _has_samples(strip)


def count_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return np.broadcast_to(strip.window_sizes(), (len(strip.values), len(strip.low))), _has_samples(strip)


def present_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return np.ones((len(strip.values), len(strip.low))), _has_samples(strip)


def last_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return strip.values[:, strip.last_rows()], _has_samples(strip)


def first_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return strip.values[:, strip.first_rows()], _has_samples(strip)


def _count_events(strip: Strip, events: Bools) -> Floats:
    """Counts the events within each window; `events` are between neighbouring rows, so it has one column fewer."""
    padded = np.concatenate([np.zeros((len(strip.values), 1)), events], axis=1)
    return strip.reduce(np.add, padded, skip=1)


def changes(strip: Strip, arguments: WindowArguments) -> WindowResult:
    before, after = strip.values[:, :-1], strip.values[:, 1:]
    return _count_events(strip, (before != after) & ~(np.isnan(before) & np.isnan(after))), _has_samples(strip)


def resets(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return _count_events(strip, strip.values[:, 1:] < strip.values[:, :-1]), _has_samples(strip)


def _map_windows(strip: Strip, function: Callable[[Times, Floats, int], Floats], min_rows: int) -> Floats:
    """Applies `function` to the times and values of each window with at least `min_rows` rows."""
    result = np.zeros((len(strip.values), len(strip.low)))
    for step, (low, high) in enumerate(zip(strip.low.tolist(), strip.high.tolist(), strict=True)):
        if high - low >= min_rows:
            result[:, step] = function(strip.times[low:high], strip.values[:, low:high], step)
    return result


def _compute_variance(times: Times, values: Floats, step: int) -> Floats:
    deviations = values - values[:, :1]  # so that equal values have no variance at all
    deviations -= deviations.mean(axis=1, keepdims=True)
    result: Floats = (deviations**2).mean(axis=1)
    return result


def stdvar_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return _map_windows(strip, _compute_variance, 1), _has_samples(strip)


def stddev_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    deviation: Floats = np.sqrt(_map_windows(strip, _compute_variance, 1))
    return deviation, _has_samples(strip)


def quantile_over_time(strip: Strip, arguments: WindowArguments) -> WindowResult:
    ranks = arguments.scalars[0]
    return _map_windows(strip, lambda _times, values, step: quantile(float(ranks[step]), values), 1), _has_samples(
        strip
    )


def _fit_line(times: Times, values: Floats, origin_ms: int) -> tuple[Floats, Floats]:
    """Fits a line to each row with Prometheus' formula for least squares: slope per second, and value at the origin."""
    count, x = len(times), (times - origin_ms) / 1000
    sum_x, sum_xx = sum_rows(np.stack([x, x * x])).tolist()
    sum_y, sum_xy = sum_rows(values), sum_rows(values * x)
    slope = (sum_xy - sum_x * sum_y / count) / (sum_xx - sum_x * sum_x / count)
    origin = sum_y / count - slope * sum_x / count
    constant = (values == values[:, :1]).all(axis=1)
    # A constant line is exact, and Inf has no slope.
    slope = np.where(constant, np.where(np.isinf(values[:, 0]), np.nan, 0.0), slope)
    return slope, np.where(constant, np.where(np.isinf(values[:, 0]), np.nan, values[:, 0]), origin)


def deriv(strip: Strip, arguments: WindowArguments) -> WindowResult:
    return _map_windows(
        strip, lambda times, values, _: _fit_line(times, values, int(times[0]))[0], 2
    ), _has_two_samples(strip)


def predict_linear(strip: Strip, arguments: WindowArguments) -> WindowResult:
    def predict(times: Times, values: Floats, step: int) -> Floats:
        slope, intercept = _fit_line(times, values, int(arguments.times[step]))
        predicted: Floats = slope * arguments.scalars[0][step] + intercept
        return predicted

    return _map_windows(strip, predict, 2), _has_two_samples(strip)
