"""
Sums that are rounded only once, as Prometheus' compensated (Kahan-Neumaier) sums nearly always are.

Works in a few passes over an array. Each number is cut at a bit so high that the upper parts add up without rounding
(ExtractVector of Rump, Ogita and Oishi, "Accurate floating-point summation", 2008); the lower parts hold what rounding
would lose. Only where nearly everything cancels are the numbers added one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rules.history.blocks import Floats
from rules.promql.values import Strip

_SHRINK = 2.0**-600
_LARGE = 1e150  # its square is still finite
_CANCELLED = 2.0**-45  # share of the largest number; a smaller sum has lost the lower parts too


class CellGroups(NamedTuple):
    """How groups of cells are arranged in an array; a result is [groups, steps]."""

    reduce: Callable[[Floats], Floats]  # plainly adds up each group
    bound: Callable[[Floats], Floats]  # an upper bound of the cells of each group; infinite or NaN if a cell is
    broadcast: Callable[[Floats], Floats]  # copies the number of each group to its cells
    cells: Callable[[Floats, int, int], Floats]  # the cells of one group at one step


def sum_windows(strip: Strip, values: Floats) -> Floats:
    """Returns the sum of each window; meaningless for an empty one."""
    return _reduce_windows(strip, values, None)


def average_windows(strip: Strip) -> Floats:
    """Returns the mean of each window, finite even if the sum would overflow; meaningless for an empty one."""
    return _reduce_windows(strip, strip.values, strip.window_sizes())


def sum_rows(values: Floats) -> Floats:
    """Returns the sum of each row."""
    return sum_groups(values, _build_cell_groups(), None)[:, 0]


def _reduce_windows(strip: Strip, values: Floats, counts: Floats | None) -> Floats:
    if len(strip.low) == 1:
        return sum_groups(values[:, int(strip.low[0]) : int(strip.high[0])], _build_cell_groups(), counts)
    return sum_groups(values, _build_cell_groups(strip), counts)


def _build_cell_groups(strip: Strip | None = None) -> CellGroups:
    """Arranges whole rows, or the windows of a strip."""
    if strip is None:
        return CellGroups(_add_along_rows, _compute_norms, _identity, lambda values, row, _: values[row])
    low, high = strip.low, strip.high
    return CellGroups(
        lambda values: strip.reduce(np.add, values),
        _compute_norms,
        _identity,
        lambda values, row, step: values[row, low[step] : high[step]],
    )


def _add_along_rows(values: Floats) -> Floats:
    return values @ np.ones((values.shape[1], 1))


def _compute_norms(values: Floats) -> Floats:
    # Never below the largest number of the row, in a single pass.
    norms: Floats = np.sqrt(np.einsum("ij,ij->i", values, values))
    return norms[:, None]


def _identity(bounds: Floats) -> Floats:
    return bounds


def sum_groups(values: Floats, cell_groups: CellGroups, counts: Floats | None) -> Floats:
    """Returns the sum of each group, or with `counts` its mean; NaN and Inf spread as in a plain sum."""
    bounds = cell_groups.bound(values)
    if (bounds < _LARGE).all():
        return _sum_compensated(values, cell_groups, bounds, counts)
    nonfinite = ~np.isfinite(values)
    scaled = np.where(nonfinite, 0.0, values) * _SHRINK
    result = _sum_compensated(scaled, cell_groups, cell_groups.bound(scaled), counts) / _SHRINK
    plain = cell_groups.reduce(values)
    return np.where(
        cell_groups.reduce(nonfinite.astype(np.float64)) > 0, plain if counts is None else plain / counts, result
    )


def _sum_compensated(values: Floats, cell_groups: CellGroups, bounds: Floats, counts: Floats | None) -> Floats:
    cut = cell_groups.broadcast(np.ldexp(1.0, np.frexp(bounds)[1] + max(values.shape).bit_length() + 1))
    upper = values + cut
    upper -= cut
    total = cell_groups.reduce(upper)
    lower = np.subtract(values, upper, out=upper)
    lower_total = cell_groups.reduce(lower)
    value = total + lower_total
    cancelled = np.abs(value) < bounds * _CANCELLED
    if cancelled.any():
        cancelled &= cell_groups.reduce(np.abs(lower)) > 0
        for group, step in np.argwhere(cancelled).tolist():
            total[group, step], lower_total[group, step] = _sum_neumaier(
                cell_groups.cells(values, group, step).tolist()
            )
        value = total + lower_total
    if counts is None:
        return value
    # The rounding error of the total, so that the mean of equal values is exactly their value.
    mean: Floats = value / counts + (lower_total - (value - total)) / counts
    return mean


def _sum_neumaier(numbers: list[float]) -> tuple[float, float]:
    """Computes Neumaier's sum and compensation, as Prometheus does."""
    total = compensation = 0.0
    for number in numbers:
        new_total = total + number
        compensation += (total - new_total) + number if abs(total) >= abs(number) else (number - new_total) + total
        total = new_total
    return total, compensation
