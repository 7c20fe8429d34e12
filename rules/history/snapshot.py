"""
A snapshot of History, for a query to read in another thread while ticks continue.

Taking one copies no samples (rules/history/sample_group.py explains why that is safe). Series have the same labels as
for a rule: a query that a client tried must mean the same in a rule file. So a recorded series does not get back the
`job` and `instance` that its rule aggregated away, as in Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import numpy as np

from collectors import Labels, Metric
from rules.history.sample_group import Columns, SampleGroup
from rules.history.selection import Selection, SelectionPart, SeriesRef
from rules.history.series_index import SelectionKeeper
from rules.matchers import Matchers, build_labels_test, find_exact_name, matches_name

Index = Mapping[str, Mapping[Labels, SeriesRef]]
"""Metric name, then labels without the name."""


class Snapshot:
    """The series with their samples up to one moment; read-only, for one thread at a time."""

    def __init__(self, groups: Mapping[str, SampleGroup], index: Index) -> None:
        self._groups = groups
        self._index = index
        self._selections: dict[Matchers, Selection] = {}

    def select(self, matchers: Matchers, keeper: SelectionKeeper | None = None) -> Selection:
        """Selects the series that match; `keeper` is for History, whose selections outlive a query."""
        cached = self._selections.get(matchers)
        if cached is None:
            cached = self._selections[matchers] = self._select_series(matchers)
        return cached

    def _select_series(self, matchers: Matchers) -> Selection:
        chosen = dict(self._iter_matching(matchers))
        ordered = sorted(chosen.items(), key=lambda item: (item[1].group.name, item[1].column))
        parts, start = [], 0
        for group, members in groupby(ordered, lambda item: item[1].group.name):
            columns = [ref.column for _, ref in members]
            rows = slice(start, start + len(columns))
            parts.append(SelectionPart(self._groups[group], as_columns(columns), rows))
            start = rows.stop
        return Selection(tuple(labels for labels, _ in ordered), tuple(parts))

    def _iter_matching(self, matchers: Matchers) -> Iterator[tuple[Labels, SeriesRef]]:
        exact = find_exact_name(matchers)
        names: Iterable[str] = self._index if exact is None else [exact]
        matches = build_labels_test(matchers)
        for name in names:
            if matches_name(matchers, name):
                for ref in self._index.get(name, {}).values():
                    if matches(ref.labels):
                        yield ref.labels, ref

    def iter_series(self, matchers: Matchers, start_ms: int, end_ms: int) -> Iterator[Labels]:
        """Yields the matching series that may have a sample between the two times."""
        for labels, ref in self._iter_matching(matchers):
            group = self._groups[ref.group.name]
            if group.ended_ms[ref.column] >= start_ms and group.get_oldest_ms() <= end_ms:
                yield labels

    def iter_metrics(self) -> Iterator[Metric]:
        """Yields the metric of each name; if sampling groups disagree about it, each variant once."""
        for series in self._index.values():
            meanings = {self._groups[ref.group.name].metrics[ref.column] for ref in series.values()}
            yield from (metric for metric in meanings if metric is not None)


def as_columns(columns: list[int]) -> Columns:
    """Returns ascending column numbers, as a slice if they have no gap: reading a slice makes no copy."""
    if columns[-1] - columns[0] + 1 == len(columns):
        return slice(columns[0], columns[-1] + 1)
    return np.array(columns, np.intp)
