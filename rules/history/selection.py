"""A selection: the columns of History that a set of label matchers chooses."""

from __future__ import annotations

from typing import NamedTuple

from collectors import Labels
from rules.history.sample_group import Columns, SampleGroup


class SeriesRef(NamedTuple):
    """The position of a series' samples; `labels` include the name."""

    group: SampleGroup
    column: int
    labels: Labels


class SelectionPart(NamedTuple):
    """The chosen columns of one group, and their rows in the selection."""

    group: SampleGroup
    columns: Columns
    rows: slice


class Selection(NamedTuple):
    """The series that matchers choose; `labels` (with the name) is the same object until the set changes."""

    labels: tuple[Labels, ...]
    parts: tuple[SelectionPart, ...]
