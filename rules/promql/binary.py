"""
Operators between two expressions: arithmetic, comparison, and which scalar or series meets which.

https://prometheus.io/docs/prometheus/latest/querying/operators/#binary-operators
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rules.history.blocks import Floats
from rules.promql.plan import Binary, PromqlError
from rules.promql.values import Bools, Effort, Moment, Series, all_nameless, unique
from rules.promql.vector_matching import and_or_unless, matched


def _power(base: Any, exponent: Any) -> Any:
    """IEEE's pow; NumPy takes the root for a power of a half, and that of -Inf is none."""
    result, half = np.power(base, exponent), np.equal(exponent, 0.5)
    return np.where(half & np.isneginf(base), np.inf, result) if half.any() else result


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.fmod,  # the sign of the dividend, as Go has it
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


def binary(node: Binary, moment: Moment) -> Series | Floats:
    """The value of the operator, series or one number per step."""
    left, right = moment.evaluate(node.left, moment), moment.evaluate(node.right, moment)
    if isinstance(left, str) or isinstance(right, str):
        raise PromqlError("binary expression must contain only scalar and instant vector types")
    if isinstance(left, Series) and isinstance(right, Series):
        return _vectors(node, left, right, moment.effort)
    if isinstance(left, Series):
        return _with_scalar(node, left, left.values, right, left.values)
    if isinstance(right, Series):
        return _with_scalar(node, right, left, right.values, right.values)
    return _scalars(node.op, left, right)


def _scalars(op: str, left: Floats, right: Floats) -> Floats:
    result: Floats = (ARITHMETIC.get(op) or COMPARISONS[op])(left, right).astype(np.float64)
    return result


def _with_scalar(node: Binary, series: Series, left: Any, right: Any, kept: Floats) -> Series:
    """One side is a number per step; a comparison that filters keeps the value of the vector, on either side."""
    if node.op in COMPARISONS and not node.return_bool:
        return Series(series.labels, kept, _both(series.present, COMPARISONS[node.op](left, right)))
    values = (ARITHMETIC.get(node.op) or COMPARISONS[node.op])(left, right).astype(np.float64, copy=False)
    if not _drops_name(node):
        return Series(series.labels, values, series.present)
    labels = node.memo.of((series.labels,), lambda: all_nameless(series.labels))
    return unique(Series(labels, values, series.present), node.unique)


def _vectors(node: Binary, left: Series, right: Series, effort: Effort) -> Series:
    if node.op in SET_OPERATORS:
        return and_or_unless(node, left, right, effort)
    pairs = matched(node, left, right, effort, drop_name=_drops_name(node))
    if node.op in ARITHMETIC:
        return pairs.result(ARITHMETIC[node.op](pairs.left, pairs.right), pairs.present)
    holds = COMPARISONS[node.op](pairs.left, pairs.right)
    if node.return_bool:
        return pairs.result(holds.astype(np.float64), pairs.present)
    return pairs.result(pairs.left, _both(pairs.present, holds))


def _drops_name(node: Binary) -> bool:
    """Whether the metric name goes; of the arithmetic operators atan2 alone keeps it, as in Prometheus."""
    return node.return_bool or (node.op in ARITHMETIC and node.op != "atan2")


def _both(present: Bools | None, holds: Bools) -> Bools:
    return holds if present is None else present & holds
