"""
Evaluates selectors, ranges and subqueries: from History to series x steps.

Windows are open to the left, as in Prometheus 3: https://prometheus.io/docs/prometheus/latest/migration/#promql
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rules.history.blocks import VALUE, Floats, Times
from rules.history.sample_group import SampleGroup
from rules.history.selection import Selection, SelectionPart
from rules.promql.plan import LOOKBACK_MS, MatrixSelector, Node, PromqlError, Subquery, TimeModifiers, VectorSelector
from rules.promql.values import Bools, EvaluationContext, Series, Strip, Windows

MAX_STEPS = 11_000  # per series, as in Prometheus' query API


def apply_time_modifiers(modifiers: TimeModifiers, context: EvaluationContext) -> Times:
    """Returns the times that a selector with `offset` and `@` reads."""
    if modifiers.at_ms is None:
        return context.times - modifiers.offset_ms if modifiers.offset_ms else context.times
    fixed = {"start": context.start_ms, "end": context.end_ms}.get(str(modifiers.at_ms), modifiers.at_ms)
    return np.full(len(context.times), int(fixed) - modifiers.offset_ms, np.int64)


def select_instant(node: VectorSelector, context: EvaluationContext) -> Series:
    """Returns the newest value of each series within the lookback; a series that has ended has none."""
    series, _ = select_instant_with_times(node, context)
    return series


def select_instant_with_times(node: VectorSelector, context: EvaluationContext) -> tuple[Series, Floats]:
    """Returns the same with the time of each value, in seconds."""
    times = apply_time_modifiers(node.time_modifiers, context)
    selection = context.history.select(node.matchers, node.keeper)
    context.budget.reserve(len(selection.labels), len(times))
    results = [_read_part(part, times) for part in selection.parts]
    if len(results) == 1:
        values, present, timestamps = results[0]
    else:
        values, present, timestamps = _stack_parts(selection, len(times), results)
    return Series(selection.labels, values, None if present.all() else present), timestamps


def _stack_parts(
    selection: Selection, steps: int, results: list[tuple[Floats, Bools, Floats]]
) -> tuple[Floats, Bools, Floats]:
    shape = (len(selection.labels), steps)
    values, present, timestamps = np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape)
    for part, (part_values, part_present, part_timestamps) in zip(selection.parts, results, strict=True):
        values[part.rows], present[part.rows], timestamps[part.rows] = part_values, part_present, part_timestamps
    return values, present, timestamps


def _read_part(part: SelectionPart, times: Times) -> tuple[Floats, Bools, Floats]:
    group = part.group
    head_times = group.get_head_times()
    if len(times) == 1 and len(head_times) and times[0] >= head_times[0]:
        return _read_one_row(part, head_times, int(times[0]))
    count = part.rows.stop - part.rows.start
    if not len(times):
        return np.zeros((count, 0)), np.zeros((count, 0), np.bool_), np.zeros((count, 0))
    return _read_many_rows(group, part, times, count)


def _read_one_row(part: SelectionPart, head_times: Times, time: int) -> tuple[Floats, Bools, Floats]:
    index = int(head_times.searchsorted(time, "right")) - 1
    values, has_value = part.group.read_row(part.columns, index)
    if head_times[index] <= time - LOOKBACK_MS:
        has_value = np.zeros(has_value.shape, np.bool_)
    return values[:, None], has_value[:, None], np.full((len(values), 1), head_times[index] / 1000)


def _read_many_rows(group: SampleGroup, part: SelectionPart, times: Times, count: int) -> tuple[Floats, Bools, Floats]:
    span = group.read_span(part.columns, int(times.min()) - LOOKBACK_MS, int(times.max()))
    if not len(span.times):
        shape = (count, len(times))
        return np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape)
    index = np.searchsorted(span.times, times, "right") - 1
    in_lookback = (index >= 0) & (span.times[index] > times - LOOKBACK_MS)
    present = np.broadcast_to(in_lookback, (count, len(times)))
    if span.states is not None:
        present = present & (span.states[:, index] == VALUE)
    return span.values[:, index], present, np.broadcast_to(span.times[index] / 1000, present.shape)


def select_windows(node: Node, context: EvaluationContext) -> Windows:
    """Returns the windows of a range selector or a subquery."""
    if isinstance(node, MatrixSelector):
        return _select_range(node, context)
    if isinstance(node, Subquery):
        return _evaluate_subquery(node, context)
    raise PromqlError("expected a range vector")


def _select_range(node: MatrixSelector, context: EvaluationContext) -> Windows:
    ends = apply_time_modifiers(node.selector.time_modifiers, context)
    starts = ends - node.range_ms
    selection = context.history.select(node.selector.matchers, node.selector.keeper)
    strips: list[Strip] = []
    for part in selection.parts if len(ends) else ():
        first, last = int(starts.min()), int(ends.max())
        context.budget.reserve(part.rows.stop - part.rows.start, part.group.count_rows(first, last))
        span = part.group.read_span(part.columns, first, last)
        present = None if span.states is None else span.states == VALUE
        strips.extend(_build_strips(span.times, span.values, present, starts, ends, part.rows))
    return Windows(selection.labels, tuple(strips), starts, ends, node.range_ms)


def _evaluate_subquery(node: Subquery, context: EvaluationContext) -> Windows:
    ends = apply_time_modifiers(node.time_modifiers, context)
    starts = ends - node.range_ms
    if not len(ends):  # inside another subquery that has no step in its range
        return Windows((), (), starts, ends, node.range_ms)
    first, last = (int(starts.min()) // node.step_ms + 1) * node.step_ms, int(ends.max())
    if (last - first) // node.step_ms >= 10 * MAX_STEPS:
        step_count = (last - first) // node.step_ms + 1
        raise PromqlError(f"the subquery asks for {step_count:,} steps; use a longer step or a shorter range")
    times = np.arange(first, last + 1, node.step_ms, dtype=np.int64)
    inner_context = replace(context, times=times)
    series = inner_context.evaluate_series(node.inner)
    all_rows = slice(0, len(series.labels))
    strips = _build_strips(times, series.values, series.present, starts, ends, all_rows)
    return Windows(series.labels, tuple(strips), starts, ends, node.range_ms)


def _build_strips(
    times: Times, values: Floats, present: Bools | None, starts: Times, ends: Times, rows: slice
) -> list[Strip]:
    """Builds a strip for the series that miss the same rows, without those rows."""
    if not len(times) or not len(values):
        return []
    if present is None:
        return [_build_strip(times, values, starts, ends, rows)]
    rows_by_mask: dict[bytes, list[int]] = {}
    for row, mask in enumerate(np.packbits(present, axis=1)):
        rows_by_mask.setdefault(mask.tobytes(), []).append(row)
    strips = []
    for members in rows_by_mask.values():
        present_steps = present[members[0]]
        if present_steps.any():
            chosen = np.array(members, np.intp)
            strips.append(
                _build_strip(
                    times[present_steps], values[np.ix_(chosen, present_steps)], starts, ends, chosen + rows.start
                )
            )
    return strips


def _build_strip(times: Times, values: Floats, starts: Times, ends: Times, rows: slice | np.ndarray) -> Strip:
    return Strip(times, values, times.searchsorted(starts, "right"), times.searchsorted(ends, "right"), rows)
