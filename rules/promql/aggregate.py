"""
Aggregations over series: the rows are put in group order once per set of labels, then reduced group by group.

https://prometheus.io/docs/prometheus/latest/querying/operators/#aggregation-operators
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules._blocks import Floats
from rules._select import NAME
from rules.promql.plan import Aggregate, PromqlError
from rules.promql.values import Bools, LabelSets, Moment, Series

Rows = npt.NDArray[np.intp]


class Grouping(NamedTuple):
    """Which rows belong together: `order` sorts them by group, `starts` is where each group begins in it."""

    labels: LabelSets
    order: Rows
    starts: Rows
    sizes: Rows

    def members(self) -> list[Rows]:
        """The rows of each group."""
        return np.split(self.order, self.starts[1:])


class Grouped(NamedTuple):
    """Values in group order; `present` is None where nothing is missing; `counts` are [groups, steps]."""

    grouping: Grouping
    values: Floats
    present: Bools | None
    counts: Floats

    def filled(self, filling: float) -> Floats:
        """The values, with `filling` where there is none."""
        return self.values if self.present is None else np.where(self.present, self.values, filling)

    def reduce(self, ufunc: np.ufunc, values: Floats) -> Floats:
        """`ufunc` over the rows of each group; [groups, steps]."""
        reduced: Floats = ufunc.reduceat(values, self.grouping.starts, axis=0)
        return reduced


def aggregate(node: Aggregate, moment: Moment) -> Series:
    """The aggregation of an instant vector; an empty vector has an empty one."""
    series = moment.series(node.inner)
    parameter = None if node.parameter is None else moment.scalar(node.parameter)
    if not series.labels:
        return Series((), np.zeros((0, len(moment.times))), None)
    grouping = node.memo.of((series.labels,), lambda: _grouping(series.labels, node.labels, node.without))
    if parameter is not None:
        return AGGREGATIONS_WITH_PARAMETER[node.op](series, grouping, parameter)
    values = series.values[grouping.order]
    present = None if series.present is None else series.present[grouping.order]
    if present is None:
        counts = np.broadcast_to(grouping.sizes[:, None].astype(np.float64), (len(grouping.labels), values.shape[1]))
    else:
        counts = np.add.reduceat(present.astype(np.float64), grouping.starts, axis=0)
    result = PLAIN_AGGREGATIONS[node.op](Grouped(grouping, values, present, counts))
    return Series(grouping.labels, result, None if present is None else counts > 0)


def _grouping(labels: LabelSets, names: tuple[str, ...], without: bool) -> Grouping:
    wanted = frozenset(names)
    places: dict[Labels, int] = {}
    groups = [places.setdefault(_group_labels(each, wanted, without), len(places)) for each in labels]
    group_of = np.array(groups, np.intp)
    sizes = np.bincount(group_of, minlength=len(places))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
    return Grouping(tuple(places), np.argsort(group_of, kind="stable"), starts, sizes)


def _group_labels(labels: Labels, names: frozenset[str], without: bool) -> Labels:
    if without:
        return tuple(pair for pair in labels if pair[0] not in names and pair[0] != NAME)
    return tuple(pair for pair in labels if pair[0] in names)


def _sum(rows: Grouped) -> Floats:
    return rows.reduce(np.add, rows.filled(0.0))


def _avg(rows: Grouped) -> Floats:
    mean = _sum(rows) / rows.counts
    if np.isinf(mean).any():
        # The sum of finite values may overflow where their mean does not.
        shares = rows.filled(0.0) / np.repeat(rows.counts, rows.grouping.sizes, axis=0)
        mean = np.where(np.isinf(mean), rows.reduce(np.add, shares), mean)
    return mean


def _min(rows: Grouped) -> Floats:
    return rows.reduce(np.fmin, rows.filled(np.nan))


def _max(rows: Grouped) -> Floats:
    return rows.reduce(np.fmax, rows.filled(np.nan))


def _count(rows: Grouped) -> Floats:
    return rows.counts


def _group(rows: Grouped) -> Floats:
    return np.ones(rows.counts.shape)


def _stdvar(rows: Grouped) -> Floats:
    mean = np.repeat(_sum(rows) / rows.counts, rows.grouping.sizes, axis=0)
    distance = (rows.values - mean) ** 2
    if rows.present is not None:
        distance = np.where(rows.present, distance, 0.0)
    return rows.reduce(np.add, distance) / rows.counts


def _stddev(rows: Grouped) -> Floats:
    return np.sqrt(_stdvar(rows))


def _quantile(series: Series, grouping: Grouping, parameter: Floats) -> Series:
    present = series.mask()
    values, there = (
        np.zeros((len(grouping.labels), present.shape[1])),
        np.zeros((len(grouping.labels), present.shape[1]), bool),
    )
    for place, members in enumerate(grouping.members()):
        for step in range(present.shape[1]):
            held = members[present[members, step]]
            if len(held):
                there[place, step] = True
                values[place, step] = quantile(parameter[step], series.values[held, step][None])[0]
    return Series(grouping.labels, values, there)


def quantile(rank: float, values: Floats) -> Floats:
    """The quantile of each row of `values`, between the two nearest; NaN counts as the smallest value."""
    count = values.shape[1]
    if np.isnan(rank) or not count:
        return np.full(len(values), np.nan)
    if rank < 0 or rank > 1:
        return np.full(len(values), -np.inf if rank < 0 else np.inf)
    ordered = -np.sort(-values, axis=1)[:, ::-1]
    place = rank * (count - 1)
    lower = int(max(0.0, np.floor(place)))
    upper = min(count - 1, lower + 1)
    weight = place - np.floor(place)
    result: Floats = ordered[:, lower] * (1 - weight) + ordered[:, upper] * weight
    return result


def _ranked(series: Series, grouping: Grouping, parameter: Floats, *, largest: bool) -> Series:
    present = series.mask()
    keep = np.zeros(present.shape, np.bool_)
    keys = -series.values if largest else series.values  # argsort puts NaN last, which is what both want
    for step, limit in enumerate(_limits(parameter).tolist()):
        for members in grouping.members():
            held = members[present[members, step]]
            best = np.argsort(keys[held, step], kind="stable")[:limit]
            keep[held[best], step] = True
    return Series(series.labels, series.values, keep)


def _limits(parameter: Floats) -> Rows:
    if np.isnan(parameter).any():
        raise PromqlError("Parameter value is NaN")
    if (np.abs(parameter) >= 1 << 63).any():
        raise PromqlError(f"Scalar value {parameter[np.abs(parameter) >= 1 << 63][0]} overflows int64")
    return np.maximum(np.trunc(parameter), 0).clip(max=1 << 40).astype(np.intp)


def _topk(series: Series, grouping: Grouping, parameter: Floats) -> Series:
    return _ranked(series, grouping, parameter, largest=True)


def _bottomk(series: Series, grouping: Grouping, parameter: Floats) -> Series:
    return _ranked(series, grouping, parameter, largest=False)


PLAIN_AGGREGATIONS: dict[str, Callable[[Grouped], Floats]] = {
    "sum": _sum,
    "avg": _avg,
    "min": _min,
    "max": _max,
    "count": _count,
    "group": _group,
    "stddev": _stddev,
    "stdvar": _stdvar,
}

AGGREGATIONS_WITH_PARAMETER: dict[str, Callable[[Series, Grouping, Floats], Series]] = {
    "topk": _topk,
    "bottomk": _bottomk,
    "quantile": _quantile,
}

AGGREGATIONS = frozenset(PLAIN_AGGREGATIONS) | frozenset(AGGREGATIONS_WITH_PARAMETER)
