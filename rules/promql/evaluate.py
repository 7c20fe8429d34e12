"""Walks a plan: each node gives series x steps (or one number per step), so a range query is not a loop."""

from __future__ import annotations

import numpy as np

from rules.history.blocks import Floats, Times
from rules.promql.aggregate import aggregate
from rules.promql.binary import binary
from rules.promql.functions import FUNCTIONS
from rules.promql.plan import Aggregate, Binary, Call, Negate, Node, Number, PromqlError, Select, Text
from rules.promql.selectors import instant, windows
from rules.promql.values import Effort, Moment, Series, Source, Windows, all_nameless, unique


def run(node: Node, history: Source, times: Times, effort: Effort) -> Series | Floats | str:
    """The value of a plan at the given times (ms, ascending, at least one)."""
    # Arithmetic on NaN and Inf is ordinary in PromQL, and must not warn.
    with np.errstate(all="ignore"):
        return evaluate(node, Moment(history, times, int(times[0]), int(times[-1]), evaluate, windows, effort))


def windows_at(node: Node, history: Source, at_ms: int, effort: Effort) -> Windows:
    """The windows of a range vector at one time."""
    with np.errstate(all="ignore"):
        return windows(node, Moment(history, np.array([at_ms], np.int64), at_ms, at_ms, evaluate, windows, effort))


def evaluate(node: Node, moment: Moment) -> Series | Floats | str:
    """The value of one node."""
    if isinstance(node, Select):
        return instant(node, moment)
    if isinstance(node, Binary):
        return binary(node, moment)
    if isinstance(node, Call):
        return FUNCTIONS[node.name](node, moment)
    if isinstance(node, Aggregate):
        return aggregate(node, moment)
    if isinstance(node, Number):
        return np.full(len(moment.times), node.value)
    if isinstance(node, Negate):
        return _negated(node, moment)
    if isinstance(node, Text):
        return node.value
    raise PromqlError("a range vector cannot be evaluated by itself")


def _negated(node: Negate, moment: Moment) -> Series | Floats:
    value = moment.evaluate(node.inner, moment)
    if isinstance(value, str):
        raise PromqlError("a string has no negative")
    if not isinstance(value, Series):
        return -value
    labels = node.memo.of((value.labels,), lambda: all_nameless(value.labels))
    return unique(Series(labels, -value.values, value.present), node.unique, joining=False)
