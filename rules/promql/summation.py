"""
Sums rounded once, as Prometheus' compensated (Kahan-Neumaier) sums nearly always are, in a few passes over an array.

Each number is cut at a bit so high that the upper parts add up without rounding (ExtractVector of Rump, Ogita and
Oishi, "Accurate floating-point summation", 2008): what rounding would lose is in the lower parts. Only where nearly
everything cancels are the numbers added one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rules.history.blocks import Floats
from rules.promql.values import Strip

_SHRINK = 2.0**-600
_LARGE = 1e150  # whose square is still a number
_CANCELLED = 2.0**-45  # of the largest number: a sum below that has lost the lower parts too


class Ways(NamedTuple):
    """How groups of cells lie in an array; a result is [groups, steps]."""

    reduce: Callable[[Floats], Floats]  # adds up each group, plainly
    bound: Callable[[Floats], Floats]  # for each group, a number that no cell exceeds; infinite or NaN where one is
    spread: Callable[[Floats], Floats]  # gives each cell what its group has
    cells: Callable[[Floats, int, int], Floats]  # the cells of one group at one step


def window_sums(strip: Strip, values: Floats) -> Floats:
    """The sum of each window; meaningless where empty."""
    return _over_windows(strip, values, None)


def window_means(strip: Strip) -> Floats:
    """The mean of each window, which is finite where its sum would overflow; meaningless where empty."""
    return _over_windows(strip, strip.values, strip.sizes())


def row_sums(values: Floats) -> Floats:
    """The sum of each row."""
    return summed(values, _rows(), None)[:, 0]


def _over_windows(strip: Strip, values: Floats, counts: Floats | None) -> Floats:
    if len(strip.low) == 1:
        return summed(values[:, int(strip.low[0]) : int(strip.high[0])], _rows(), counts)
    return summed(values, _rows(strip), counts)


def _rows(strip: Strip | None = None) -> Ways:
    """Whole rows, or the windows of a strip."""
    if strip is None:
        return Ways(_along_rows, _norms, _as_it_is, lambda values, row, _: values[row])
    low, high = strip.low, strip.high
    return Ways(
        lambda values: strip.reduce(np.add, values),
        _norms,
        _as_it_is,
        lambda values, row, step: values[row, low[step] : high[step]],
    )


def _along_rows(values: Floats) -> Floats:
    return values @ np.ones((values.shape[1], 1))


def _norms(values: Floats) -> Floats:
    # Never below the largest of the row, and one pass only.
    norms: Floats = np.sqrt(np.einsum("ij,ij->i", values, values))
    return norms[:, None]


def _as_it_is(bounds: Floats) -> Floats:
    return bounds


def summed(values: Floats, ways: Ways, counts: Floats | None) -> Floats:
    """The sum of each group, or with `counts` its mean; NaN and Inf come out as in a plain sum."""
    most = ways.bound(values)
    if (most < _LARGE).all():
        return _compensated(values, ways, most, counts)
    strange = ~np.isfinite(values)
    tame = np.where(strange, 0.0, values) * _SHRINK
    result = _compensated(tame, ways, ways.bound(tame), counts) / _SHRINK
    plain = ways.reduce(values)
    return np.where(ways.reduce(strange.astype(np.float64)) > 0, plain if counts is None else plain / counts, result)


def _compensated(values: Floats, ways: Ways, most: Floats, counts: Floats | None) -> Floats:
    cut = ways.spread(np.ldexp(1.0, np.frexp(most)[1] + max(values.shape).bit_length() + 1))
    upper = values + cut
    upper -= cut
    total = ways.reduce(upper)
    lower = np.subtract(values, upper, out=upper)
    little = ways.reduce(lower)
    value = total + little
    lost = np.abs(value) < most * _CANCELLED
    if lost.any():
        lost &= ways.reduce(np.abs(lower)) > 0
        for group, step in np.argwhere(lost).tolist():
            total[group, step], little[group, step] = _one_by_one(ways.cells(values, group, step).tolist())
        value = total + little
    if counts is None:
        return value
    # The rest that rounding left off makes the mean of equal values their value.
    mean: Floats = value / counts + (little - (value - total)) / counts
    return mean


def _one_by_one(numbers: list[float]) -> tuple[float, float]:
    """Neumaier's sum and compensation, as Prometheus has them."""
    total = lost = 0.0
    for number in numbers:
        longer = total + number
        lost += (total - longer) + number if abs(total) >= abs(number) else (number - longer) + total
        total = longer
    return total, lost
