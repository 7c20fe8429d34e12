"""
Classic histograms: cumulative buckets, one series per upper bound `le`.

Histograms with the same bounds are computed together.
https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules.history.blocks import Floats
from rules.matchers import NAME
from rules.promql.plan import Call, Node
from rules.promql.values import Bools, EvaluationContext, LabelSets, QueryBudget, Series

BUCKET = "le"
_ROUNDING = 1e-12  # smaller relative differences between neighbouring buckets are rounding errors

RowNumbers = npt.NDArray[np.intp]


class HistogramGroup(NamedTuple):
    """
    Histograms with the same bounds: their `result_rows`, and `rows` [histograms, buckets] in the order of `bounds`.
    """

    result_rows: RowNumbers
    rows: RowNumbers
    bounds: Floats


class Buckets(NamedTuple):
    """Cumulative counts [buckets, histograms]; `bounds` ascend, each once."""

    bounds: Floats
    counts: Floats


BucketFunction = Callable[[Buckets, int], Floats]
"""Computes one number for each histogram at one step."""


def histogram_quantile(call: Call, context: EvaluationContext) -> Series:
    """Computes the quantile of each histogram, linear within a bucket; NaN without a bucket up to +Inf."""
    ranks = context.evaluate_scalar(call.arguments[0]).tolist()
    return _evaluate_histograms(
        call, call.arguments[1], context, lambda counts, step: _compute_quantiles(ranks[step], counts)
    )


def histogram_fraction(call: Call, context: EvaluationContext) -> Series:
    """
    Computes the share of observations between two values, linear within a bucket; NaN without a bucket up to +Inf.
    """
    lower, upper = (context.evaluate_scalar(call.arguments[index]).tolist() for index in (0, 1))
    return _evaluate_histograms(
        call, call.arguments[2], context, lambda counts, step: _compute_fractions(lower[step], upper[step], counts)
    )


def _evaluate_histograms(call: Call, argument: Node, context: EvaluationContext, function: BucketFunction) -> Series:
    series = context.evaluate_series(argument)
    labels, groups = call.memo.get_or_compute(
        (series.labels,), lambda: _group_histograms(series.labels, context.budget)
    )
    shape = (len(labels), len(context.times))
    values, has_value = np.zeros(shape), np.zeros(shape, np.bool_)
    for group in groups:
        for step in range(shape[1]):
            for result_rows, rows, bounds in _iter_present(group, series.present, step):
                has_value[result_rows, step] = True
                values[result_rows, step] = _evaluate_buckets(bounds, series.values[rows, step].T, function, step)
    return Series(labels, values, None if has_value.all() else has_value)


def _iter_present(group: HistogramGroup, present: Bools | None, step: int) -> Iterator[HistogramGroup]:
    """Yields the complete histograms together, and each incomplete one separately."""
    if present is None:
        yield group
        return
    has_bucket = present[group.rows, step]
    complete = has_bucket.all(axis=1)
    if complete.any():
        yield HistogramGroup(group.result_rows[complete], group.rows[complete], group.bounds)
    for index in np.flatnonzero(has_bucket.any(axis=1) & ~complete).tolist():
        available = has_bucket[index]
        yield HistogramGroup(group.result_rows[[index]], group.rows[[index]][:, available], group.bounds[available])


def _evaluate_buckets(bounds: Floats, counts: Floats, function: BucketFunction, step: int) -> Floats:
    first_indexes = np.flatnonzero(np.concatenate([[True], bounds[1:] != bounds[:-1]]))
    if len(first_indexes) < len(bounds):  # two spellings of a bound are one bucket
        bounds, counts = bounds[first_indexes], np.add.reduceat(counts, first_indexes, axis=0)
    return function(Buckets(bounds, counts), step)


def _group_histograms(labels: LabelSets, budget: QueryBudget) -> tuple[LabelSets, list[HistogramGroup]]:
    members: dict[Labels, list[tuple[float, int]]] = {}
    for row, label_set in enumerate(labels):
        bound = _parse_bound(dict(label_set).get(BUCKET, ""))
        if bound is not None:
            key = tuple(pair for pair in label_set if pair[0] not in (BUCKET, NAME))
            members.setdefault(key, []).append((bound, row))
    budget.reserve_labels(members)
    by_bounds: dict[tuple[float, ...], list[tuple[int, list[int]]]] = {}
    for index, buckets in enumerate(members.values()):
        buckets.sort()
        rows = [row for _, row in buckets]
        by_bounds.setdefault(tuple(bound for bound, _ in buckets), []).append((index, rows))
    return tuple(members), [_build_group(bounds, entries) for bounds, entries in by_bounds.items()]


def _build_group(bounds: tuple[float, ...], entries: list[tuple[int, list[int]]]) -> HistogramGroup:
    result_rows, rows = zip(*entries, strict=True)
    return HistogramGroup(np.array(result_rows, np.intp), np.array(rows, np.intp), np.array(bounds))


def _parse_bound(text: str) -> float | None:
    """Parses the upper bound; None for a series whose `le` is no number, which is not part of a histogram."""
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if "_" in text or text != text.strip() or np.isnan(bound) else bound


def _compute_quantiles(rank: float, histogram: Buckets) -> Floats:
    bounds, counts = histogram.bounds, _make_monotonic(histogram.counts)
    count = counts.shape[1]
    if np.isnan(rank) or rank < 0 or rank > 1:
        return np.full(count, np.nan if np.isnan(rank) else -np.inf if rank < 0 else np.inf)
    if len(bounds) < 2 or bounds[-1] != np.inf:
        return np.full(count, np.nan)
    total, columns = counts[-1], np.arange(count)
    target_rank = rank * total
    # The first bucket that reaches the rank, or the last if none of the others does.
    bucket = (counts[:-1] < target_rank).sum(axis=0)
    below = np.where(bucket > 0, counts[bucket - 1, columns], 0.0)
    start = np.where(bucket > 0, bounds[bucket - 1], 0.0)
    interpolated = start + (bounds[bucket] - start) * ((target_rank - below) / (counts[bucket, columns] - below))
    if bounds[0] <= 0:
        interpolated = np.where(bucket == 0, bounds[0], interpolated)
    interpolated = np.where(bucket == len(bounds) - 1, bounds[-2], interpolated)
    return np.where((total == 0) | np.isnan(total), np.nan, interpolated)


def _make_monotonic(counts: Floats) -> Floats:
    """Corrects buckets that lag behind the one below, because they grew during the scrape, and rounding errors."""
    before, after = counts[:-1], counts[1:]
    if ((after == before) | (after - before > 2 * _ROUNDING * after)).all():
        return counts
    counts = counts.copy()
    previous = counts[0].copy()
    for bucket in counts[1:]:
        same = np.abs(previous - bucket) < _ROUNDING * np.minimum(
            np.abs(previous) + np.abs(bucket), np.finfo(float).max
        )
        bucket[:] = np.where(same & (previous != 0) & (bucket != 0) | (bucket < previous), previous, bucket)
        previous = bucket
    return counts


def _compute_fractions(lower: float, upper: float, histogram: Buckets) -> Floats:
    total = histogram.counts[-1]
    if np.isnan(lower) or np.isnan(upper) or histogram.bounds[-1] != np.inf:
        return np.full(len(total), np.nan)
    if lower >= upper:
        share = np.zeros(len(total))
    else:
        low, high = (np.minimum(_compute_rank(value, histogram), total) for value in (lower, upper))
        share = (high - low) / total
    return np.where((total == 0) | np.isnan(total), np.nan, share)


def _compute_rank(value: float, histogram: Buckets) -> Floats:
    """
    Returns the number of observations that are at most `value`.

    As for a quantile, the first bucket begins at 0 if it ends above. Prometheus does so since 3.8:
    https://github.com/prometheus/prometheus/issues/17367.
    """
    bounds, counts = histogram
    bucket = int(np.searchsorted(bounds, value, "right"))  # the bucket that `value` lies in, above its lower bound
    if 0 < bucket < len(bounds):
        below, start = counts[bucket - 1], bounds[bucket - 1]
        rank: Floats = below + (counts[bucket] - below) * (value - start) / (bounds[bucket] - start)
        return rank
    if bucket == 0 and bounds[0] > 0:
        first: Floats = counts[0] * (max(0.0, value) / bounds[0])
        return first
    # A bucket down to -Inf cannot be interpolated: all of it counts, except for the value -Inf itself.
    last: Floats = counts[max(bucket - 1, 0)] * (value > -np.inf)
    return last
