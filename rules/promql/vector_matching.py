"""
Which series of two vectors meet: one-to-one, group_left and group_right, and the set operators.

https://prometheus.io/docs/prometheus/latest/querying/operators/#vector-matching
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules.history.blocks import Floats
from rules.history.selection import NAME
from rules.promql.plan import Binary, Matching, PromqlError
from rules.promql.values import LABELS, Bools, Effort, LabelSets, Series, show, unique

Rows = npt.NDArray[np.intp]

_MANY_TO_MANY = "many-to-many matching not allowed: matching labels must be unique on one side"
_IMPLICIT = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
_NOT_UNIQUE = "multiple matches for labels: grouping labels must ensure unique matches"


class Signatures(NamedTuple):
    """The match group of each row of both sides, as numbers; `labels` are what they stand for."""

    left: Rows
    right: Rows
    labels: LabelSets


class Pairs(NamedTuple):
    """Which row of the one side meets which of the other, and the labels of the result."""

    left: Rows
    right: Rows
    labels: LabelSets


class Matched(NamedTuple):
    """Two vectors brought to the same rows."""

    left: Floats
    right: Floats
    present: Bools | None
    result: Callable[[Floats, Bools | None], Series]


def signatures(left: LabelSets, right: LabelSets, matching: Matching) -> Signatures:
    """The match groups of two sets of series."""
    names = frozenset(matching.labels)
    places: dict[Labels, int] = {}

    def number(labels: Iterable[Labels]) -> Rows:
        keys = (_signature(each, names, matching.on) for each in labels)
        return np.array([places.setdefault(key, len(places)) for key in keys], np.intp)

    sides = number(left), number(right)
    return Signatures(*sides, tuple(places))


def _signature(labels: Labels, names: frozenset[str], on: bool) -> Labels:
    if on:
        return tuple(pair for pair in labels if pair[0] in names)
    return tuple(pair for pair in labels if pair[0] not in names and pair[0] != NAME)


class _Plan(NamedTuple):
    """What labels alone decide; `pairs` is None where a match group has several rows on the side of one."""

    groups: Signatures
    pairs: Pairs | None
    left_repeats: bool


def matched(node: Binary, left: Series, right: Series, effort: Effort, *, drop_name: bool) -> Matched:
    """Both sides brought to the pairs that match; PromqlError where a match is ambiguous."""
    effort.spend(LABELS * (len(left.labels) + len(right.labels)))
    plan = node.memo.of((left.labels, right.labels), lambda: _plan(node.matching, left.labels, right.labels, drop_name))
    pairs = plan.pairs
    if pairs is None:
        pairs = _present_pairs(node.matching, left, right, plan.groups, effort, drop_name)
    effort.hold(len(pairs.labels), left.values.shape[1])

    def result(values: Floats, present: Bools | None) -> Series:
        series = Series(pairs.labels, values, present)
        if node.matching.card != "one-to-one":
            return unique(series, node.unique, _NOT_UNIQUE)
        if plan.left_repeats and len(pairs.labels):
            _refuse_repeats(plan.groups.left[pairs.left], series.mask())
        return unique(series, node.unique)

    present = _meet(left.present, right.present, pairs)
    return Matched(left.values[pairs.left], right.values[pairs.right], present, result)


def _meet(left: Bools | None, right: Bools | None, pairs: Pairs) -> Bools | None:
    if left is None:
        return None if right is None else right[pairs.right]
    return left[pairs.left] if right is None else left[pairs.left] & right[pairs.right]


def _plan(matching: Matching, left: LabelSets, right: LabelSets, drop_name: bool) -> _Plan:
    groups = signatures(left, right, matching)
    one = groups.left if matching.card == "one-to-many" else groups.right
    simple = len(np.unique(one)) == len(one)
    everything = np.ones(len(one), np.bool_)
    pairs = _pairs(matching, left, right, groups, everything, drop_name) if simple else None
    return _Plan(groups, pairs, len(np.unique(groups.left)) < len(groups.left))


def _present_pairs(
    matching: Matching, left: Series, right: Series, groups: Signatures, effort: Effort, drop_name: bool
) -> Pairs:
    """The slow path: match groups with several rows on the side of one, of which only one may be present at a time."""
    swapped = matching.card == "one-to-many"
    one, many = (left, right) if swapped else (right, left)
    group_of = groups.left if swapped else groups.right
    counts = np.zeros((len(groups.labels), one.values.shape[1]), np.intp)
    np.add.at(counts, group_of, one.mask())
    # Prometheus looks at neither side where the other is empty.
    counts[:, ~many.mask().any(axis=0)] = 0
    if (counts > 1).any():
        place = int(np.argmax((counts > 1).any(axis=1)))
        raise PromqlError(_duplicates(one.labels, group_of == place, groups.labels[place], swapped))
    used: Bools = np.any(one.mask(), axis=1)
    many_groups, several = groups.right if swapped else groups.left, np.bincount(group_of[used], minlength=len(counts))
    effort.hold(int(several[many_groups].sum()), counts.shape[1])
    return _pairs(matching, left.labels, right.labels, groups, used, drop_name)


def _duplicates(labels: LabelSets, rows: Bools, group: Labels, swapped: bool) -> str:
    first, second = (show(labels[row]) for row in np.flatnonzero(rows)[:2].tolist())
    side = "left" if swapped else "right"
    return (
        f"found duplicate series for the match group {show(group)} on the {side} hand-side of the operation: "
        f"[{first}, {second}];{_MANY_TO_MANY}"
    )


def _pairs(
    matching: Matching, left: LabelSets, right: LabelSets, groups: Signatures, used: Bools, drop_name: bool
) -> Pairs:
    swapped = matching.card == "one-to-many"
    one_groups, many_groups = (groups.left, groups.right) if swapped else (groups.right, groups.left)
    by_group: dict[int, list[int]] = {}
    for row in np.flatnonzero(used).tolist():
        by_group.setdefault(int(one_groups[row]), []).append(row)
    met = [(row, other) for row, group in enumerate(many_groups.tolist()) for other in by_group.get(group, ())]
    many_rows, one_rows = np.array(met, np.intp).reshape(-1, 2).T
    one, many = (left, right) if swapped else (right, left)
    labels = tuple(_result_labels(many[a], one[b], matching, drop_name) for a, b in met)
    return Pairs(one_rows, many_rows, labels) if swapped else Pairs(many_rows, one_rows, labels)


def _result_labels(many: Labels, one: Labels, matching: Matching, drop_name: bool) -> Labels:
    result = dict(many)
    if drop_name:
        result.pop(NAME, None)
    if matching.card == "one-to-one":
        result = {name: value for name, value in result.items() if (name in matching.labels) == matching.on}
    if matching.include:
        found = dict(one)
        for name in matching.include:
            result.pop(name, None)
            if name in found:
                result[name] = found[name]
    return tuple(sorted(result.items()))


def _refuse_repeats(groups: Rows, present: Bools) -> None:
    """One-to-one allows one result per match group."""
    counts = np.zeros((int(groups.max()) + 1, present.shape[1]), np.intp)
    np.add.at(counts, groups, present)
    if (counts > 1).any():
        raise PromqlError(_IMPLICIT)


def and_or_unless(node: Binary, left: Series, right: Series, effort: Effort) -> Series:
    """The set operators; rows stay where they are and are only marked absent."""
    effort.spend(LABELS * (len(left.labels) + len(right.labels)))
    groups = node.memo.of((left.labels, right.labels), lambda: signatures(left.labels, right.labels, node.matching))
    if node.op == "or":
        effort.hold(len(left.labels) + len(right.labels), left.values.shape[1])
        return _or(node, left, right, groups)
    there = _any_present(groups.right, right, len(groups.labels))[groups.left]
    present = left.mask() & (there if node.op == "and" else ~there)
    return Series(left.labels, left.values, present)


def _or(node: Binary, left: Series, right: Series, groups: Signatures) -> Series:
    taken = _any_present(groups.left, left, len(groups.labels))[groups.right]
    labels = node.both.of((left.labels, right.labels), lambda: left.labels + right.labels)
    values = np.concatenate([left.values, right.values])
    return unique(Series(labels, values, np.concatenate([left.mask(), right.mask() & ~taken])), node.unique)


def _any_present(group_of: Rows, series: Series, groups: int) -> Bools:
    there = np.zeros((groups, series.values.shape[1]), np.bool_)
    np.logical_or.at(there, group_of, series.mask())
    return there
