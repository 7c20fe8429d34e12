"""
Rows of History as values, which the recorder stores and a restart loads.

The rows only note whether a cell has a value: stale marks follow from that, as when a pass is recorded.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels, Metric
from rules.history.blocks import VALUE, Floats, Integers, Times
from rules.history.sample_group import RowSpan, SampleGroup

Bools = npt.NDArray[np.bool_]


class Heading(NamedTuple):
    """The sampling group that the rows belong to, and the series of the columns."""

    group: str
    metrics: tuple[Metric, ...]
    labels: tuple[Labels, ...]


class Rows(NamedTuple):
    """
    Consecutive rows: `times` [rows] in ms, `values` and `present` [columns, rows]; `present` None: all have a value.
    """

    heading: Heading
    times: Times
    values: Floats
    present: Bools | None

    def select_newer(self, after_ms: int) -> Rows:
        """Returns the rows after that time."""
        return self.select_rows(slice(int(np.searchsorted(self.times, after_ms, "right")), None))

    def drop_empty_columns(self) -> Rows:
        """Returns the rows without series that have no value in any of them, so that those series are not created."""
        if self.present is None or (has_value := self.present.any(axis=1)).all():
            return self
        columns = np.flatnonzero(has_value)
        name, metrics, labels = self.heading
        heading = Heading(
            name, tuple(metrics[column] for column in columns), tuple(labels[column] for column in columns)
        )
        return Rows(heading, self.times, self.values[columns], self.present[columns])

    def select_rows(self, rows: Integers | slice) -> Rows:
        """Returns some of the rows."""
        present = None if self.present is None else self.present[:, rows]
        return Rows(self.heading, self.times[rows], self.values[:, rows], present)


def read_rows_between(group: SampleGroup, after_ms: int, until_ms: int) -> Rows:
    """Returns the rows of a group with after < time <= until, as copies that do not change."""
    live_columns = [(slot, metric) for slot, metric in enumerate(group.metrics) if metric is not None]
    slots = np.array([slot for slot, _ in live_columns], np.intp)
    metrics = tuple(metric for _, metric in live_columns)
    heading = Heading(group.name, metrics, tuple(group.labels[slot] for slot, _ in live_columns))
    return _copy_span(heading, group.read_span(slots, after_ms, until_ms))


def _copy_span(heading: Heading, span: RowSpan) -> Rows:
    # Indexing with column numbers has copied the values; the times are a view.
    return Rows(heading, span.times.copy(), span.values, None if span.states is None else span.states == VALUE)


def append_rows(group: SampleGroup, rows: Rows, columns: Integers) -> None:
    """Appends rows newer than the group's last, with their cells in these columns."""
    for row, at_ms in enumerate(rows.times.tolist()):
        if rows.present is None:
            group.append(at_ms, columns, rows.values[:, row])
        else:
            has_value = rows.present[:, row]
            group.append(at_ms, columns[has_value], rows.values[has_value, row])
