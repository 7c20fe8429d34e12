"""
histogram_quantile over classic histograms: cumulative buckets, one series per upper bound `le`.

https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules._blocks import Floats
from rules._select import NAME
from rules.promql.plan import Call
from rules.promql.values import LabelSets, Moment, Series

BUCKET = "le"


class Histogram(NamedTuple):
    """The rows of one histogram in the order of their upper bounds."""

    labels: Labels
    rows: npt.NDArray[np.intp]
    bounds: Floats


def histogram_quantile(call: Call, moment: Moment) -> Series:
    """The quantile of each histogram, linear within a bucket; NaN without a bucket up to +Inf."""
    ranks, series = moment.scalar(call.arguments[0]), moment.series(call.arguments[1])
    labels, histograms = call.memo.of((series.labels,), lambda: _histograms(series.labels))
    present = series.mask()
    values, there = np.zeros((len(labels), len(ranks))), np.zeros((len(labels), len(ranks)), np.bool_)
    for place, histogram in enumerate(histograms):
        held = present[histogram.rows]
        there[place] = held.any(axis=0)
        for step in np.flatnonzero(there[place]).tolist():
            chosen = held[:, step]
            counts = series.values[histogram.rows[chosen], step]
            values[place, step] = bucket_quantile(float(ranks[step]), histogram.bounds[chosen], counts)
    return Series(labels, values, there)


def _histograms(labels: LabelSets) -> tuple[LabelSets, list[Histogram]]:
    members: dict[Labels, list[tuple[float, int]]] = {}
    for row, each in enumerate(labels):
        bound = _bound(dict(each).get(BUCKET, ""))
        if bound is not None:
            key = tuple(pair for pair in each if pair[0] not in (BUCKET, NAME))
            members.setdefault(key, []).append((bound, row))
    found = []
    for key, buckets in members.items():
        buckets.sort()
        rows = np.array([row for _, row in buckets], np.intp)
        found.append(Histogram(key, rows, np.array([bound for bound, _ in buckets])))
    return tuple(members), found


def _bound(text: str) -> float | None:
    """The upper bound, or None: a series whose `le` is no number is not part of a histogram."""
    try:
        return float(text)
    except ValueError:
        return None


def bucket_quantile(rank: float, bounds: Floats, counts: Floats) -> float:
    """The quantile of one histogram; `bounds` ascend, `counts` are cumulative."""
    if np.isnan(rank):
        return np.nan
    if rank < 0 or rank > 1:
        return -np.inf if rank < 0 else np.inf
    if bounds[-1] != np.inf:
        return np.nan
    starts = np.flatnonzero(np.concatenate([[True], bounds[1:] != bounds[:-1]]))
    # Bounds spelt twice are one bucket; scraped while it grows, a bucket may lag behind the one below it.
    bounds, counts = bounds[starts], np.maximum.accumulate(np.add.reduceat(counts, starts))
    if len(bounds) < 2 or counts[-1] == 0 or np.isnan(counts[-1]):
        return np.nan
    return _within(rank * float(counts[-1]), bounds, counts)


def _within(wanted: float, bounds: Floats, counts: Floats) -> float:
    bucket = int(np.searchsorted(counts[:-1], wanted))
    if bucket == len(bounds) - 1:
        return float(bounds[-2])
    if bucket == 0 and bounds[0] <= 0:
        return float(bounds[0])
    lower, below = (0.0, 0.0) if bucket == 0 else (float(bounds[bucket - 1]), float(counts[bucket - 1]))
    inside = float(counts[bucket]) - below
    # Go divides by zero without an error; an empty first bucket asked for its lowest value has none.
    return lower + (float(bounds[bucket]) - lower) * ((wanted - below) / inside) if inside else float("nan")
