"""Evaluates a plan: each node gives series x steps (or one number per step), so a range query needs no loop."""

from __future__ import annotations

import numpy as np

from rules.history.blocks import Floats, Times
from rules.promql.aggregate import aggregate
from rules.promql.binary import evaluate_binary
from rules.promql.functions import FUNCTIONS
from rules.promql.plan import Aggregate, Binary, Call, Negate, Node, Number, PromqlError, Text, VectorSelector
from rules.promql.selectors import select_instant, select_windows
from rules.promql.values import (
    EvaluationContext,
    QueryBudget,
    SampleSource,
    Series,
    Windows,
    drop_metric_names,
    merge_same_labels,
)


def evaluate_plan(node: Node, history: SampleSource, times: Times, budget: QueryBudget) -> Series | Floats | str:
    """Evaluates a plan at the given times (ms, ascending, at least one)."""
    # PromQL computes with NaN and Inf as a matter of course, so NumPy must not warn.
    with np.errstate(all="ignore"):
        return evaluate(
            node, EvaluationContext(history, times, int(times[0]), int(times[-1]), evaluate, select_windows, budget)
        )


def evaluate_windows(node: Node, history: SampleSource, at_ms: int, budget: QueryBudget) -> Windows:
    """Evaluates the windows of a range vector at one time."""
    with np.errstate(all="ignore"):
        return select_windows(
            node,
            EvaluationContext(history, np.array([at_ms], np.int64), at_ms, at_ms, evaluate, select_windows, budget),
        )


def evaluate(node: Node, context: EvaluationContext) -> Series | Floats | str:
    """Evaluates one node."""
    if isinstance(node, VectorSelector):
        return select_instant(node, context)
    if isinstance(node, Binary):
        return evaluate_binary(node, context)
    if isinstance(node, Call):
        return FUNCTIONS[node.name](node, context)
    if isinstance(node, Aggregate):
        return aggregate(node, context)
    if isinstance(node, Number):
        return np.full(len(context.times), node.value)
    if isinstance(node, Negate):
        return _negate(node, context)
    if isinstance(node, Text):
        return node.value
    raise PromqlError("a range vector cannot be evaluated by itself")


def _negate(node: Negate, context: EvaluationContext) -> Series | Floats:
    value = context.evaluate(node.inner, context)
    if isinstance(value, str):
        raise PromqlError("a string has no negative")
    if not isinstance(value, Series):
        return -value
    labels = node.memo.get_or_compute((value.labels,), lambda: drop_metric_names(value.labels, context.budget))
    return merge_same_labels(Series(labels, -value.values, value.present), node.merge_memo, allow_join=False)
