"""
Selectors, ranges and subqueries: from History to series x steps.

Windows are open to the left, as in Prometheus 3: https://prometheus.io/docs/prometheus/latest/migration/#promql
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rules.history.blocks import VALUE, Floats, Times
from rules.history.sample_group import Group
from rules.history.selection import Part, Selection
from rules.promql.plan import LOOKBACK_MS, Moved, Node, PromqlError, Range, Select, Subquery
from rules.promql.values import Bools, Moment, Series, Strip, Windows

MOST_STEPS = 11_000  # per series, as in Prometheus' query API


def moved_times(moved: Moved, moment: Moment) -> Times:
    """The times at which a selector with `offset` and `@` looks."""
    if moved.at_ms is None:
        return moment.times - moved.offset_ms if moved.offset_ms else moment.times
    fixed = {"start": moment.start_ms, "end": moment.end_ms}.get(str(moved.at_ms), moved.at_ms)
    return np.full(len(moment.times), int(fixed) - moved.offset_ms, np.int64)


def instant(node: Select, moment: Moment) -> Series:
    """The newest value of each series within the lookback; none where it has ended."""
    series, _ = instant_with_times(node, moment)
    return series


def instant_with_times(node: Select, moment: Moment) -> tuple[Series, Floats]:
    """The same with the time of each value, in seconds."""
    times = moved_times(node.moved, moment)
    selection = moment.history.select(node.matchers)
    moment.effort.hold(len(selection.labels), len(times))
    found = [_part(part, times) for part in selection.parts]
    if len(found) == 1:
        values, present, at = found[0]
    else:
        values, present, at = _stacked(selection, len(times), found)
    return Series(selection.labels, values, None if present.all() else present), at


def _stacked(
    selection: Selection, steps: int, found: list[tuple[Floats, Bools, Floats]]
) -> tuple[Floats, Bools, Floats]:
    shape = (len(selection.labels), steps)
    values, present, at = np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape)
    for part, (some, there, when) in zip(selection.parts, found, strict=True):
        values[part.rows], present[part.rows], at[part.rows] = some, there, when
    return values, present, at


def _part(part: Part, times: Times) -> tuple[Floats, Bools, Floats]:
    group = part.group
    held = group.head_times()
    if len(times) == 1 and len(held) and times[0] >= held[0]:
        return _one_row(part, held, int(times[0]))
    count = part.rows.stop - part.rows.start
    if not len(times):
        return np.zeros((count, 0)), np.zeros((count, 0), np.bool_), np.zeros((count, 0))
    return _many_rows(group, part, times, count)


def _one_row(part: Part, held: Times, time: int) -> tuple[Floats, Bools, Floats]:
    index = int(held.searchsorted(time, "right")) - 1
    values, there = part.group.row(part.columns, index)
    if held[index] <= time - LOOKBACK_MS:
        there = np.zeros(there.shape, np.bool_)
    return values[:, None], there[:, None], np.full((len(values), 1), held[index] / 1000)


def _many_rows(group: Group, part: Part, times: Times, count: int) -> tuple[Floats, Bools, Floats]:
    span = group.span(part.columns, int(times.min()) - LOOKBACK_MS, int(times.max()))
    if not len(span.times):
        shape = (count, len(times))
        return np.zeros(shape), np.zeros(shape, np.bool_), np.zeros(shape)
    index = np.searchsorted(span.times, times, "right") - 1
    there = (index >= 0) & (span.times[index] > times - LOOKBACK_MS)
    present = np.broadcast_to(there, (count, len(times)))
    if span.states is not None:
        present = present & (span.states[:, index] == VALUE)
    return span.values[:, index], present, np.broadcast_to(span.times[index] / 1000, present.shape)


def windows(node: Node, moment: Moment) -> Windows:
    """The windows of a range selector or a subquery."""
    if isinstance(node, Range):
        return _range(node, moment)
    if isinstance(node, Subquery):
        return _subquery(node, moment)
    raise PromqlError("expected a range vector")


def _range(node: Range, moment: Moment) -> Windows:
    ends = moved_times(node.select.moved, moment)
    starts = ends - node.range_ms
    selection = moment.history.select(node.select.matchers)
    strips: list[Strip] = []
    for part in selection.parts if len(ends) else ():
        first, last = int(starts.min()), int(ends.max())
        moment.effort.hold(part.rows.stop - part.rows.start, part.group.rows_between(first, last))
        span = part.group.span(part.columns, first, last)
        present = None if span.states is None else span.states == VALUE
        strips.extend(_strips(span.times, span.values, present, starts, ends, part.rows))
    return Windows(selection.labels, tuple(strips), starts, ends, node.range_ms)


def _subquery(node: Subquery, moment: Moment) -> Windows:
    ends = moved_times(node.moved, moment)
    starts = ends - node.range_ms
    first, last = (int(starts.min()) // node.step_ms + 1) * node.step_ms, int(ends.max())
    if (last - first) // node.step_ms >= 10 * MOST_STEPS:
        asked = (last - first) // node.step_ms + 1
        raise PromqlError(f"the subquery asks for {asked:,} steps; use a longer step or a shorter range")
    times = np.arange(first, last + 1, node.step_ms, dtype=np.int64)
    inner = replace(moment, times=times)
    series = inner.series(node.inner)
    everything = slice(0, len(series.labels))
    strips = _strips(times, series.values, series.present, starts, ends, everything)
    return Windows(series.labels, tuple(strips), starts, ends, node.range_ms)


def _strips(
    times: Times, values: Floats, present: Bools | None, starts: Times, ends: Times, rows: slice
) -> list[Strip]:
    """Series that miss the same rows share a strip from which those rows are left out."""
    if not len(times) or not len(values):
        return []
    if present is None:
        return [_strip(times, values, starts, ends, rows)]
    alike: dict[bytes, list[int]] = {}
    for row, mask in enumerate(np.packbits(present, axis=1)):
        alike.setdefault(mask.tobytes(), []).append(row)
    strips = []
    for members in alike.values():
        held = present[members[0]]
        if held.any():
            chosen = np.array(members, np.intp)
            strips.append(_strip(times[held], values[np.ix_(chosen, held)], starts, ends, chosen + rows.start))
    return strips


def _strip(times: Times, values: Floats, starts: Times, ends: Times, rows: slice | np.ndarray) -> Strip:
    return Strip(times, values, times.searchsorted(starts, "right"), times.searchsorted(ends, "right"), rows)
