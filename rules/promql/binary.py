"""
Binary operators: arithmetic and comparison between series and scalars.

https://prometheus.io/docs/prometheus/latest/querying/operators/#binary-operators
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rules.history.blocks import Floats
from rules.promql.plan import Binary, PromqlError
from rules.promql.values import Bools, EvaluationContext, QueryBudget, Series, drop_metric_names, merge_same_labels
from rules.promql.vector_matching import apply_set_operator, match_vectors


def _power(base: Any, exponent: Any) -> Any:
    """Computes IEEE's pow; NumPy takes the square root for an exponent of 0.5, which gives NaN for -Inf."""
    result, half = np.power(base, exponent), np.equal(exponent, 0.5)
    return np.where(half & np.isneginf(base), np.inf, result) if half.any() else result


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,  # the sign of the dividend, as in Go
    "^": _power,
    "atan2": np.arctan2,
}

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
    ">=": np.greater_equal,
    "<=": np.less_equal,
}

SET_OPERATORS = frozenset({"and", "or", "unless"})
OPERATORS = frozenset(ARITHMETIC) | frozenset(COMPARISONS) | SET_OPERATORS


def evaluate_binary(node: Binary, context: EvaluationContext) -> Series | Floats:
    """Evaluates the operator, to series or to one number per step."""
    lhs, rhs = context.evaluate(node.lhs, context), context.evaluate(node.rhs, context)
    if isinstance(lhs, str) or isinstance(rhs, str):
        raise PromqlError("binary expression must contain only scalar and instant vector types")
    if isinstance(lhs, Series) and isinstance(rhs, Series):
        return _combine_vectors(node, lhs, rhs, context.budget)
    if isinstance(lhs, Series):
        return _combine_with_scalar(node, lhs, lhs.values, rhs, context.budget)
    if isinstance(rhs, Series):
        return _combine_with_scalar(node, rhs, lhs, rhs.values, context.budget)
    return _combine_scalars(node.op, lhs, rhs)


def _combine_scalars(op: str, lhs: Floats, rhs: Floats) -> Floats:
    result: Floats = (ARITHMETIC.get(op) or COMPARISONS[op])(lhs, rhs).astype(np.float64)
    return result


def _combine_with_scalar(node: Binary, series: Series, lhs: Any, rhs: Any, budget: QueryBudget) -> Series:
    """
    Combines series with one number per step; a filtering comparison keeps the value of the vector, on either side.
    """
    if node.op in COMPARISONS and not node.return_bool:
        return Series(series.labels, series.values, _intersect(series.present, COMPARISONS[node.op](lhs, rhs)))
    values = (ARITHMETIC.get(node.op) or COMPARISONS[node.op])(lhs, rhs).astype(np.float64, copy=False)
    if not _drops_name(node):
        return Series(series.labels, values, series.present)
    labels = node.memo.get_or_compute((series.labels,), lambda: drop_metric_names(series.labels, budget))
    return merge_same_labels(Series(labels, values, series.present), node.merge_memo)


def _combine_vectors(node: Binary, lhs: Series, rhs: Series, budget: QueryBudget) -> Series:
    if node.op in SET_OPERATORS:
        return apply_set_operator(node, lhs, rhs, budget)
    pairs = match_vectors(node, lhs, rhs, budget, drop_name=_drops_name(node))
    if node.op in ARITHMETIC:
        return pairs.build_result(ARITHMETIC[node.op](pairs.lhs, pairs.rhs), pairs.present)
    holds = COMPARISONS[node.op](pairs.lhs, pairs.rhs)
    if node.return_bool:
        return pairs.build_result(holds.astype(np.float64), pairs.present)
    # An ambiguous match is an error also where the comparison filters all but one of its results, since Prometheus 3.9:
    # before, a query failed or not by the values of the moment (prometheus#17668).
    pairs.build_result(pairs.lhs, pairs.present)
    return pairs.build_result(pairs.lhs, _intersect(pairs.present, holds))


def _drops_name(node: Binary) -> bool:
    """Returns True if the result has no metric name. Prometheus kept it for atan2 until 2.46 (prometheus#12595)."""
    return node.return_bool or node.op in ARITHMETIC


def _intersect(present: Bools | None, holds: Bools) -> Bools:
    return holds if present is None else present & holds
