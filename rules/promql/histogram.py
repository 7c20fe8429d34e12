"""
Classic histograms: cumulative buckets, one series per upper bound `le`; histograms with the same bounds go together.

https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules.history.blocks import Floats
from rules.history.selection import NAME
from rules.promql.plan import Call, Node
from rules.promql.values import Bools, LabelSets, Moment, Series

BUCKET = "le"
_SMALL = 1e-12  # differences between neighbouring buckets below this are those of rounding

Rows = npt.NDArray[np.intp]


class Alike(NamedTuple):
    """Histograms with the same bounds: `places` in the result, `rows` [histograms, buckets] in order of `bounds`."""

    places: Rows
    rows: Rows
    bounds: Floats


class Counts(NamedTuple):
    """Cumulative counts [buckets, histograms]; `bounds` ascend, each once."""

    bounds: Floats
    counts: Floats


Answer = Callable[[Counts, int], Floats]
"""Of each histogram at one step."""


def histogram_quantile(call: Call, moment: Moment) -> Series:
    """The quantile of each histogram, linear within a bucket; NaN without a bucket up to +Inf."""
    ranks = moment.scalar(call.arguments[0]).tolist()
    return _answered(call, call.arguments[1], moment, lambda counts, step: _quantiles(ranks[step], counts))


def histogram_fraction(call: Call, moment: Moment) -> Series:
    """The share of observations between two values, linear within a bucket; NaN without a bucket up to +Inf."""
    lower, upper = (moment.scalar(call.arguments[place]).tolist() for place in (0, 1))
    return _answered(call, call.arguments[2], moment, lambda counts, step: _fractions(lower[step], upper[step], counts))


def _answered(call: Call, argument: Node, moment: Moment, answer: Answer) -> Series:
    series = moment.series(argument)
    labels, histograms = call.memo.of((series.labels,), lambda: _histograms(series.labels))
    shape = (len(labels), len(moment.times))
    values, there = np.zeros(shape), np.zeros(shape, np.bool_)
    for alike in histograms:
        for step in range(shape[1]):
            for places, rows, bounds in _held(alike, series.present, step):
                there[places, step] = True
                values[places, step] = _of_buckets(bounds, series.values[rows, step].T, answer, step)
    return Series(labels, values, None if there.all() else there)


def _held(alike: Alike, present: Bools | None, step: int) -> Iterator[Alike]:
    """The histograms whose buckets are all there, and one by one those of which some are not."""
    if present is None:
        yield alike
        return
    held = present[alike.rows, step]
    whole = held.all(axis=1)
    if whole.any():
        yield Alike(alike.places[whole], alike.rows[whole], alike.bounds)
    for place in np.flatnonzero(held.any(axis=1) & ~whole).tolist():
        some = held[place]
        yield Alike(alike.places[[place]], alike.rows[[place]][:, some], alike.bounds[some])


def _of_buckets(bounds: Floats, counts: Floats, answer: Answer, step: int) -> Floats:
    first = np.flatnonzero(np.concatenate([[True], bounds[1:] != bounds[:-1]]))
    if len(first) < len(bounds):  # bounds spelt twice are one bucket
        bounds, counts = bounds[first], np.add.reduceat(counts, first, axis=0)
    return answer(Counts(bounds, counts), step)


def _histograms(labels: LabelSets) -> tuple[LabelSets, list[Alike]]:
    members: dict[Labels, list[tuple[float, int]]] = {}
    for row, each in enumerate(labels):
        bound = _bound(dict(each).get(BUCKET, ""))
        if bound is not None:
            key = tuple(pair for pair in each if pair[0] not in (BUCKET, NAME))
            members.setdefault(key, []).append((bound, row))
    alike: dict[tuple[float, ...], list[tuple[int, list[int]]]] = {}
    for place, buckets in enumerate(members.values()):
        buckets.sort()
        rows = [row for _, row in buckets]
        alike.setdefault(tuple(bound for bound, _ in buckets), []).append((place, rows))
    return tuple(members), [_alike(bounds, found) for bounds, found in alike.items()]


def _alike(bounds: tuple[float, ...], found: list[tuple[int, list[int]]]) -> Alike:
    places, rows = zip(*found, strict=True)
    return Alike(np.array(places, np.intp), np.array(rows, np.intp), np.array(bounds))


def _bound(text: str) -> float | None:
    """The upper bound, or None: a series whose `le` is no number is not part of a histogram."""
    try:
        bound = float(text)
    except ValueError:
        return None
    return None if "_" in text or text != text.strip() or np.isnan(bound) else bound


def _quantiles(rank: float, histogram: Counts) -> Floats:
    bounds, counts = histogram.bounds, _monotonic(histogram.counts)
    every = counts.shape[1]
    if np.isnan(rank) or rank < 0 or rank > 1:
        return np.full(every, np.nan if np.isnan(rank) else -np.inf if rank < 0 else np.inf)
    if len(bounds) < 2 or bounds[-1] != np.inf:
        return np.full(every, np.nan)
    total, columns = counts[-1], np.arange(every)
    wanted = rank * total
    # Of all but the last bucket, the first that reaches what is wanted; the last where none does.
    bucket = (counts[:-1] < wanted).sum(axis=0)
    below = np.where(bucket > 0, counts[bucket - 1, columns], 0.0)
    start = np.where(bucket > 0, bounds[bucket - 1], 0.0)
    inside = start + (bounds[bucket] - start) * ((wanted - below) / (counts[bucket, columns] - below))
    if bounds[0] <= 0:
        inside = np.where(bucket == 0, bounds[0], inside)
    inside = np.where(bucket == len(bounds) - 1, bounds[-2], inside)
    return np.where((total == 0) | np.isnan(total), np.nan, inside)


def _monotonic(counts: Floats) -> Floats:
    """Scraped while it grows, a bucket may lag behind the one below it; and rounding is no growth."""
    before, after = counts[:-1], counts[1:]
    if ((after == before) | (after - before > 2 * _SMALL * after)).all():
        return counts
    counts = counts.copy()
    previous = counts[0].copy()
    for bucket in counts[1:]:
        same = np.abs(previous - bucket) < _SMALL * np.minimum(np.abs(previous) + np.abs(bucket), np.finfo(float).max)
        bucket[:] = np.where(same & (previous != 0) & (bucket != 0) | (bucket < previous), previous, bucket)
        previous = bucket
    return counts


def _fractions(lower: float, upper: float, histogram: Counts) -> Floats:
    total = histogram.counts[-1]
    if np.isnan(lower) or np.isnan(upper) or histogram.bounds[-1] != np.inf:
        return np.full(len(total), np.nan)
    if lower >= upper:
        share = np.zeros(len(total))
    else:
        low, high = (np.minimum(_rank(value, histogram), total) for value in (lower, upper))
        share = (high - low) / total
    return np.where((total == 0) | np.isnan(total), np.nan, share)


def _rank(value: float, histogram: Counts) -> Floats:
    """How many observations are at most `value`."""
    bounds, counts = histogram
    bucket = int(np.searchsorted(bounds, value, "right"))  # the one that `value` lies within, above its lower bound
    if 0 < bucket < len(bounds):
        below, start = counts[bucket - 1], bounds[bucket - 1]
        rank: Floats = below + (counts[bucket] - below) * (value - start) / (bounds[bucket] - start)
        return rank
    # Down to -Inf there is nothing to go along with, so the whole bucket counts, but for -Inf itself.
    last: Floats = counts[max(bucket - 1, 0)] * (value > -np.inf)
    return last
