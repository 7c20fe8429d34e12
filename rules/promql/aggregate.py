"""
Aggregations over series: rows are sorted by group once per set of labels, then reduced group by group.

https://prometheus.io/docs/prometheus/latest/querying/operators/#aggregation-operators
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules.history.blocks import Floats
from rules.matchers import NAME, is_valid_name
from rules.numbers import format_plain
from rules.promql.label_functions import set_label
from rules.promql.plan import Aggregate, PromqlError
from rules.promql.summation import CellGroups, sum_groups
from rules.promql.values import LABEL_SET_COST, Bools, EvaluationContext, LabelSets, QueryBudget, Series

RowNumbers = npt.NDArray[np.intp]


class Grouping(NamedTuple):
    """The rows of each group: `order` sorts rows by group, and `starts` has the start of each group in that order."""

    labels: LabelSets
    order: RowNumbers
    starts: RowNumbers
    sizes: RowNumbers
    group_indexes: RowNumbers  # the group of each row, in group order

    def split_members(self) -> list[RowNumbers]:
        """Returns the rows of each group."""
        return np.split(self.order, self.starts[1:])


class GroupedValues(NamedTuple):
    """Values in group order; `present` is None if nothing is missing; `counts` are [groups, steps]."""

    grouping: Grouping
    values: Floats
    present: Bools | None
    counts: Floats

    def fill_absent(self, fill_value: float) -> Floats:
        """Returns the values, with `fill_value` where there is none."""
        return self.values if self.present is None else np.where(self.present, self.values, fill_value)

    def reduce(self, ufunc: np.ufunc, values: Floats) -> Floats:
        """Applies `ufunc` to the rows of each group; [groups, steps]."""
        reduced: Floats = ufunc.reduceat(values, self.grouping.starts, axis=0)
        return reduced


def aggregate(node: Aggregate, context: EvaluationContext) -> Series:
    """Evaluates the aggregation of an instant vector; an empty vector gives an empty one."""
    series = context.evaluate_series(node.inner)
    if node.op == "count_values":
        assert node.parameter is not None  # guaranteed by the parser
        return count_values(series, context.evaluate_text(node.parameter), node, context.budget)
    parameter = None if node.parameter is None else context.evaluate_scalar(node.parameter)
    if parameter is not None and node.op in ("topk", "bottomk"):
        _parse_limits(parameter)  # a bad one is an error over an empty vector too, as since Prometheus 3
    if not series.labels:
        return Series((), np.zeros((0, len(context.times))), None)
    grouping = node.memo.get_or_compute((series.labels,), lambda: _group_rows(node, series.labels, context.budget))
    if parameter is not None:
        return AGGREGATIONS_WITH_PARAMETER[node.op](series, grouping, parameter)
    values = series.values[grouping.order]
    present = None if series.present is None else series.present[grouping.order]
    if present is None:
        counts = np.broadcast_to(grouping.sizes[:, None].astype(np.float64), (len(grouping.labels), values.shape[1]))
    else:
        counts = np.add.reduceat(present.astype(np.float64), grouping.starts, axis=0)
    result = PLAIN_AGGREGATIONS[node.op](GroupedValues(grouping, values, present, counts))
    return Series(grouping.labels, result, None if present is None else counts > 0)


def _group_rows(node: Aggregate, labels: LabelSets, budget: QueryBudget) -> Grouping:
    name_set = frozenset(node.labels)
    group_numbers: dict[Labels, int] = {}
    groups = [
        group_numbers.setdefault(select_group_labels(each, name_set, node.without), len(group_numbers))
        for each in labels
    ]
    budget.reserve_labels(group_numbers)
    group_of = np.array(groups, np.intp)
    sizes = np.bincount(group_of, minlength=len(group_numbers))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.intp)
    order = np.argsort(group_of, kind="stable")
    return Grouping(tuple(group_numbers), order, starts, sizes, group_of[order])


def select_group_labels(labels: Labels, names: frozenset[str], without: bool) -> Labels:
    """Returns the labels that `by (names)`, or `without (names)`, keeps."""
    if without:
        return tuple(pair for pair in labels if pair[0] not in names and pair[0] != NAME)
    return tuple(pair for pair in labels if pair[0] in names)


def _sum(rows: GroupedValues) -> Floats:
    return sum_groups(rows.fill_absent(0.0), _build_cell_groups(rows), None)


def _avg(rows: GroupedValues) -> Floats:
    return sum_groups(rows.fill_absent(0.0), _build_cell_groups(rows), rows.counts)


def _build_cell_groups(rows: GroupedValues) -> CellGroups:
    group_indexes, starts, sizes = rows.grouping.group_indexes, rows.grouping.starts, rows.grouping.sizes
    return CellGroups(
        lambda values: rows.reduce(np.add, values),
        lambda values: rows.reduce(np.maximum, np.abs(values)),
        lambda bounds: bounds[group_indexes],
        lambda values, group, step: values[starts[group] : starts[group] + sizes[group], step],
    )


def _min(rows: GroupedValues) -> Floats:
    return rows.reduce(np.fmin, rows.fill_absent(np.nan))


def _max(rows: GroupedValues) -> Floats:
    return rows.reduce(np.fmax, rows.fill_absent(np.nan))


def _count(rows: GroupedValues) -> Floats:
    return rows.counts


def _group(rows: GroupedValues) -> Floats:
    return np.ones(rows.counts.shape)


def _stdvar(rows: GroupedValues) -> Floats:
    # Distances from a member of the group, so that equal values have no variance at all.
    first = rows.values[rows.grouping.starts] if rows.present is None else _find_first_values(rows)
    deviations = rows.fill_absent(0.0) - first[rows.grouping.group_indexes]
    deviations = _zero_absent(deviations, rows.present)
    mean = rows.reduce(np.add, deviations) / rows.counts
    return (
        rows.reduce(np.add, _zero_absent((deviations - mean[rows.grouping.group_indexes]) ** 2, rows.present))
        / rows.counts
    )


def _find_first_values(rows: GroupedValues) -> Floats:
    """Returns the value of the first present row of each group; meaningless if there is none."""
    assert rows.present is not None  # else the first row of each group is present
    count = len(rows.values)
    numbers = np.where(rows.present, np.arange(count)[:, None], count - 1)
    rank = np.minimum.reduceat(numbers, rows.grouping.starts, axis=0)
    first: Floats = np.take_along_axis(rows.values, rank, axis=0)
    return first


def _zero_absent(values: Floats, present: Bools | None) -> Floats:
    return values if present is None else np.where(present, values, 0.0)


def _stddev(rows: GroupedValues) -> Floats:
    return np.sqrt(_stdvar(rows))


def _quantile(series: Series, grouping: Grouping, parameter: Floats) -> Series:
    present = series.mask()
    values, has_value = (
        np.zeros((len(grouping.labels), present.shape[1])),
        np.zeros((len(grouping.labels), present.shape[1]), bool),
    )
    for group, members in enumerate(grouping.split_members()):
        for step in range(present.shape[1]):
            present_rows = members[present[members, step]]
            if len(present_rows):
                has_value[group, step] = True
                values[group, step] = quantile(parameter[step], series.values[present_rows, step][None])[0]
    return Series(grouping.labels, values, has_value)


def quantile(rank: float, values: Floats) -> Floats:
    """Returns the quantile of each row, interpolated between the two nearest values; NaN counts as the smallest."""
    count = values.shape[1]
    if np.isnan(rank) or not count:
        return np.full(len(values), np.nan)
    if rank < 0 or rank > 1:
        return np.full(len(values), -np.inf if rank < 0 else np.inf)
    ordered = -np.sort(-values, axis=1)[:, ::-1]
    position = rank * (count - 1)
    lower = int(max(0.0, np.floor(position)))
    upper = min(count - 1, lower + 1)
    weight = position - np.floor(position)
    result: Floats = ordered[:, lower] * (1 - weight) + ordered[:, upper] * weight
    return result


def _select_ranked(series: Series, grouping: Grouping, parameter: Floats, *, largest: bool) -> Series:
    present = series.mask()
    selected = np.zeros(present.shape, np.bool_)
    keys = -series.values if largest else series.values  # argsort puts NaN last, as topk and bottomk need
    for step, limit in enumerate(_parse_limits(parameter).tolist()):
        for members in grouping.split_members():
            present_rows = members[present[members, step]]
            best = np.argsort(keys[present_rows, step], kind="stable")[:limit]
            selected[present_rows[best], step] = True
    return Series(series.labels, series.values, selected)


def _parse_limits(parameter: Floats) -> RowNumbers:
    if np.isnan(parameter).any():
        raise PromqlError("Parameter value is NaN")
    for is_beyond, verb in ((parameter >= 1 << 63, "overflows"), (parameter <= -(1 << 63), "underflows")):
        if is_beyond.any():
            raise PromqlError(f"Scalar value {parameter[is_beyond][0]} {verb} int64")
    return np.maximum(np.trunc(parameter), 0).clip(max=1 << 40).astype(np.intp)


def _topk(series: Series, grouping: Grouping, parameter: Floats) -> Series:
    return _select_ranked(series, grouping, parameter, largest=True)


def _bottomk(series: Series, grouping: Grouping, parameter: Floats) -> Series:
    return _select_ranked(series, grouping, parameter, largest=False)


PLAIN_AGGREGATIONS: dict[str, Callable[[GroupedValues], Floats]] = {
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

AGGREGATIONS = frozenset({"count_values", *PLAIN_AGGREGATIONS, *AGGREGATIONS_WITH_PARAMETER})


def count_values(series: Series, label: str, node: Aggregate, budget: QueryBudget) -> Series:
    """Counts the rows of a group by their value, which becomes a label."""
    if not is_valid_name(label):
        raise PromqlError(f'invalid label name "{label}"')
    grouping_names = frozenset(node.labels if node.without else (*node.labels, label))
    present = series.mask()
    counts: dict[Labels, Floats] = {}
    for row, labels in enumerate(series.labels):
        steps = np.flatnonzero(present[row])
        budget.spend(LABEL_SET_COST * len(steps))
        for step, value in zip(steps.tolist(), series.values[row, steps].tolist(), strict=True):
            text = format_plain(value)
            key = select_group_labels(set_label(labels, label, text), grouping_names, node.without)
            if key not in counts:
                budget.reserve_value("count_values()", len(text), len(key))
                budget.reserve(1, present.shape[1])
                counts[key] = np.zeros(present.shape[1])
            counts[key][step] += 1
    values = np.array(list(counts.values())).reshape(len(counts), present.shape[1])
    return Series(tuple(counts), values, values > 0)
