"""
Matches the series of two vectors: one-to-one, group_left and group_right, and the set operators.

https://prometheus.io/docs/prometheus/latest/querying/operators/#vector-matching
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels
from rules.history.blocks import Floats
from rules.matchers import NAME
from rules.promql.plan import Binary, Matching, PromqlError
from rules.promql.values import LABEL_SET_COST, Bools, LabelSets, QueryBudget, Series, format_labels, merge_same_labels

RowNumbers = npt.NDArray[np.intp]

_MANY_TO_MANY = "many-to-many matching not allowed: matching labels must be unique on one side"
_IMPLICIT = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
_NOT_UNIQUE = "multiple matches for labels: grouping labels must ensure unique matches"


class Signatures(NamedTuple):
    """The match group of each row on both sides, as numbers; `labels` has the labels of each group."""

    lhs: RowNumbers
    rhs: RowNumbers
    labels: LabelSets


class Pairs(NamedTuple):
    """Pairs of matching rows, and the labels of their results."""

    lhs: RowNumbers
    rhs: RowNumbers
    labels: LabelSets


class MatchedVectors(NamedTuple):
    """Two vectors reduced to their matching rows."""

    lhs: Floats
    rhs: Floats
    present: Bools | None
    build_result: Callable[[Floats, Bools | None], Series]


def compute_signatures(lhs: LabelSets, rhs: LabelSets, matching: Matching, budget: QueryBudget) -> Signatures:
    """Computes the match groups of two sets of series."""
    names = frozenset(matching.labels)
    group_numbers: dict[Labels, int] = {}

    def number_groups(labels: Iterable[Labels]) -> RowNumbers:
        keys = (_compute_signature(each, names, matching.on) for each in labels)
        return np.array([group_numbers.setdefault(key, len(group_numbers)) for key in keys], np.intp)

    sides = number_groups(lhs), number_groups(rhs)
    budget.reserve_labels(group_numbers)
    return Signatures(*sides, tuple(group_numbers))


def _compute_signature(labels: Labels, names: frozenset[str], on: bool) -> Labels:
    if on:
        return tuple(pair for pair in labels if pair[0] in names)
    return tuple(pair for pair in labels if pair[0] not in names and pair[0] != NAME)


class _MatchPlan(NamedTuple):
    """
    The part of a match that labels alone decide; `pairs` is None if the "one" side has several rows in a match group.
    """

    groups: Signatures
    pairs: Pairs | None
    lhs_repeats: bool


def match_vectors(node: Binary, lhs: Series, rhs: Series, budget: QueryBudget, *, drop_name: bool) -> MatchedVectors:
    """Pairs the matching series of both sides; raises PromqlError for an ambiguous match."""
    budget.spend(LABEL_SET_COST * (len(lhs.labels) + len(rhs.labels)))
    plan = node.memo.get_or_compute(
        (lhs.labels, rhs.labels), lambda: _plan_match(node.matching, lhs.labels, rhs.labels, budget, drop_name)
    )
    pairs = plan.pairs
    if pairs is None:
        pairs = _pair_present_rows(node.matching, lhs, rhs, plan.groups, budget, drop_name)
    budget.reserve(len(pairs.labels), lhs.values.shape[1])

    def build_result(values: Floats, present: Bools | None) -> Series:
        series = Series(pairs.labels, values, present)
        if node.matching.card != "one-to-one":
            return merge_same_labels(series, node.merge_memo, _NOT_UNIQUE)
        if plan.lhs_repeats and len(pairs.labels):
            _reject_duplicates(plan.groups.lhs[pairs.lhs], series.mask())
        return merge_same_labels(series, node.merge_memo)

    present = _intersect_present(lhs.present, rhs.present, pairs)
    return MatchedVectors(lhs.values[pairs.lhs], rhs.values[pairs.rhs], present, build_result)


def _intersect_present(lhs: Bools | None, rhs: Bools | None, pairs: Pairs) -> Bools | None:
    if lhs is None:
        return None if rhs is None else rhs[pairs.rhs]
    return lhs[pairs.lhs] if rhs is None else lhs[pairs.lhs] & rhs[pairs.rhs]


def _plan_match(matching: Matching, lhs: LabelSets, rhs: LabelSets, budget: QueryBudget, drop_name: bool) -> _MatchPlan:
    groups = compute_signatures(lhs, rhs, matching, budget)
    one_side = groups.lhs if matching.card == "one-to-many" else groups.rhs
    simple = len(np.unique(one_side)) == len(one_side)
    all_rows = np.ones(len(one_side), np.bool_)
    pairs = _pair_rows(matching, lhs, rhs, groups, all_rows, budget, drop_name) if simple else None
    return _MatchPlan(groups, pairs, len(np.unique(groups.lhs)) < len(groups.lhs))


def _pair_present_rows(
    matching: Matching, lhs: Series, rhs: Series, groups: Signatures, budget: QueryBudget, drop_name: bool
) -> Pairs:
    """Pairs rows if the "one" side has several in a match group: at most one of them may be present at a time. Slow."""
    swapped = matching.card == "one-to-many"
    one_side, many_side = (lhs, rhs) if swapped else (rhs, lhs)
    group_of = groups.lhs if swapped else groups.rhs
    counts = np.zeros((len(groups.labels), one_side.values.shape[1]), np.intp)
    np.add.at(counts, group_of, one_side.mask())
    # Prometheus ignores a side while the other is empty.
    counts[:, ~many_side.mask().any(axis=0)] = 0
    if (counts > 1).any():
        group = int(np.argmax((counts > 1).any(axis=1)))
        raise PromqlError(_describe_duplicates(one_side.labels, group_of == group, groups.labels[group], swapped))
    used: Bools = np.any(one_side.mask(), axis=1)
    many_groups, several = groups.rhs if swapped else groups.lhs, np.bincount(group_of[used], minlength=len(counts))
    budget.reserve(int(several[many_groups].sum()), counts.shape[1])
    return _pair_rows(matching, lhs.labels, rhs.labels, groups, used, budget, drop_name)


def _describe_duplicates(labels: LabelSets, rows: Bools, group: Labels, swapped: bool) -> str:
    first, second = (format_labels(labels[row]) for row in np.flatnonzero(rows)[:2].tolist())
    side = "left" if swapped else "right"
    return (
        f"found duplicate series for the match group {format_labels(group)} on the {side} hand-side of the operation: "
        f"[{first}, {second}];{_MANY_TO_MANY}"
    )


def _pair_rows(
    matching: Matching,
    lhs: LabelSets,
    rhs: LabelSets,
    groups: Signatures,
    used: Bools,
    budget: QueryBudget,
    drop_name: bool,
) -> Pairs:
    swapped = matching.card == "one-to-many"
    one_groups, many_groups = (groups.lhs, groups.rhs) if swapped else (groups.rhs, groups.lhs)
    by_group: dict[int, list[int]] = {}
    for row in np.flatnonzero(used).tolist():
        by_group.setdefault(int(one_groups[row]), []).append(row)
    row_pairs = [(row, other) for row, group in enumerate(many_groups.tolist()) for other in by_group.get(group, ())]
    many_rows, one_rows = np.array(row_pairs, np.intp).reshape(-1, 2).T
    one_side, many_side = (lhs, rhs) if swapped else (rhs, lhs)
    labels = tuple(_build_result_labels(many_side[a], one_side[b], matching, drop_name) for a, b in row_pairs)
    budget.reserve_labels(labels, shares_pairs=False)
    return Pairs(one_rows, many_rows, labels) if swapped else Pairs(many_rows, one_rows, labels)


def _build_result_labels(many_labels: Labels, one_labels: Labels, matching: Matching, drop_name: bool) -> Labels:
    result = dict(many_labels)
    if drop_name:
        result.pop(NAME, None)
    if matching.card == "one-to-one":
        result = {name: value for name, value in result.items() if (name in matching.labels) == matching.on}
    if matching.include:
        one_values = dict(one_labels)
        for name in matching.include:
            result.pop(name, None)
            if name in one_values:
                result[name] = one_values[name]
    return tuple(sorted(result.items()))


def _reject_duplicates(groups: RowNumbers, present: Bools) -> None:
    """Raises PromqlError if a match group has two results at one step, which one-to-one forbids."""
    counts = np.zeros((int(groups.max()) + 1, present.shape[1]), np.intp)
    np.add.at(counts, groups, present)
    if (counts > 1).any():
        raise PromqlError(_IMPLICIT)


def apply_set_operator(node: Binary, lhs: Series, rhs: Series, budget: QueryBudget) -> Series:
    """Applies a set operator; rows stay in place, and are only marked absent."""
    budget.spend(LABEL_SET_COST * (len(lhs.labels) + len(rhs.labels)))
    groups = node.memo.get_or_compute(
        (lhs.labels, rhs.labels), lambda: compute_signatures(lhs.labels, rhs.labels, node.matching, budget)
    )
    if node.op == "or":
        budget.reserve(len(lhs.labels) + len(rhs.labels), lhs.values.shape[1])
        budget.reserve_bytes(8 * (len(lhs.labels) + len(rhs.labels)))
        return _union(node, lhs, rhs, groups)
    has_match = _find_present_groups(groups.rhs, rhs, len(groups.labels))[groups.lhs]
    present = lhs.mask() & (has_match if node.op == "and" else ~has_match)
    return Series(lhs.labels, lhs.values, present)


def _union(node: Binary, lhs: Series, rhs: Series, groups: Signatures) -> Series:
    has_match = _find_present_groups(groups.lhs, lhs, len(groups.labels))[groups.rhs]
    labels = node.union_memo.get_or_compute((lhs.labels, rhs.labels), lambda: lhs.labels + rhs.labels)
    values = np.concatenate([lhs.values, rhs.values])
    return merge_same_labels(
        Series(labels, values, np.concatenate([lhs.mask(), rhs.mask() & ~has_match])), node.merge_memo
    )


def _find_present_groups(group_of: RowNumbers, series: Series, groups: int) -> Bools:
    present = np.zeros((groups, series.values.shape[1]), np.bool_)
    np.logical_or.at(present, group_of, series.mask())
    return present
