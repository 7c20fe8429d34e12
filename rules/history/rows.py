"""
Rows of History as values: what one sampling group recorded, to be written down and taken in again after a restart.

Only whether a cell has a value is kept: stale marks follow from that, as they do when a pass is recorded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels, Metric
from rules.history.blocks import VALUE, Floats, Integers, Times
from rules.history.sample_group import Group, Span

Bools = npt.NDArray[np.bool_]


class Heading(NamedTuple):
    """Whose rows they are, and which series the columns are."""

    group: str
    metrics: tuple[Metric, ...]
    labels: tuple[Labels, ...]


class Rows(NamedTuple):
    """Consecutive rows: `times` [rows] in ms, `values` and `present` [columns, rows]; None where all have a value."""

    heading: Heading
    times: Times
    values: Floats
    present: Bools | None

    def newer(self, than_ms: int) -> Rows:
        """The rows after that time."""
        return self.chosen(slice(int(np.searchsorted(self.times, than_ms, "right")), None))

    def without_empty_columns(self) -> Rows:
        """The same without series that have no value in any of the rows: they are not to be born for that."""
        if self.present is None or (has := self.present.any(axis=1)).all():
            return self
        columns = np.flatnonzero(has)
        name, metrics, labels = self.heading
        heading = Heading(name, tuple(metrics[at] for at in columns), tuple(labels[at] for at in columns))
        return Rows(heading, self.times, self.values[columns], self.present[columns])

    def chosen(self, rows: Integers | slice) -> Rows:
        """Some of the rows."""
        present = None if self.present is None else self.present[:, rows]
        return Rows(self.heading, self.times[rows], self.values[:, rows], present)


def rows_after(group: Group, after_ms: int, until_ms: int) -> Rows:
    """The rows of a group with after < time <= until, as copies that nobody changes."""
    named = [(slot, metric) for slot, metric in enumerate(group.metrics) if metric is not None]
    slots = np.array([slot for slot, _ in named], np.intp)
    metrics = tuple(metric for _, metric in named)
    heading = Heading(group.name, metrics, tuple(group.labels[slot] for slot, _ in named))
    return _copied(heading, group.span(slots, after_ms, until_ms))


def _copied(heading: Heading, span: Span) -> Rows:
    # Reading chosen columns by their numbers has copied the values; the times are a view.
    return Rows(heading, span.times.copy(), span.values, None if span.states is None else span.states == VALUE)


def append_rows(group: Group, rows: Rows, columns: Integers) -> None:
    """Adds the rows, which are newer than the group's last, their cells in these columns."""
    for row, at_ms in enumerate(rows.times.tolist()):
        if rows.present is None:
            group.append(at_ms, columns, rows.values[:, row])
        else:
            has = rows.present[:, row]
            group.append(at_ms, columns[has], rows.values[has, row])
