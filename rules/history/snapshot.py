"""
What History held at one moment, for a query to read in another thread while the tick goes on.

Taking one copies no samples (rules/history/sample_group.py says why that is safe). Every series carries the identity,
`job` and `instance`, those too that a rule recorded without it: whoever asks may look at many hosts. A series that has
such a label of its own keeps it, as with external labels in Prometheus.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import numpy as np

from collectors import Labels, Metric
from rules.history.sample_group import Columns, Group
from rules.history.selection import NAME, Matchers, Owner, Part, Selection, exact_name, name_matches

Index = Mapping[str, Mapping[Labels, Owner]]
"""Metric name, then labels without the name."""


class Snapshot:
    """Series with their samples up to one moment; read-only, for one thread at a time."""

    def __init__(self, groups: Mapping[str, Group], index: Index, identity: Mapping[str, str]) -> None:
        self._groups = groups
        self._index = index
        self._identity = tuple(identity.items())
        self._selections: dict[Matchers, Selection] = {}

    def select(self, matchers: Matchers) -> Selection:
        """The series that meet all matchers, which may ask for the identity too."""
        kept = self._selections.get(matchers)
        if kept is None:
            kept = self._selections[matchers] = self._choose(matchers)
        return kept

    def _choose(self, matchers: Matchers) -> Selection:
        chosen = dict(self._matching(matchers))
        ordered = sorted(chosen.items(), key=lambda found: (found[1].group.name, found[1].column))
        parts, start = [], 0
        for group, members in groupby(ordered, lambda found: found[1].group.name):
            columns = [owner.column for _, owner in members]
            rows = slice(start, start + len(columns))
            parts.append(Part(self._groups[group], as_columns(columns), rows))
            start = rows.stop
        return Selection(tuple(labels for labels, _ in ordered), tuple(parts))

    def _matching(self, matchers: Matchers) -> Iterator[tuple[Labels, Owner]]:
        exact = exact_name(matchers)
        names: Iterable[str] = self._index if exact is None else [exact]
        tests = [(matcher.label, matcher.test) for matcher in matchers if matcher.label != NAME]
        for name in names:
            if not name_matches(matchers, name):
                continue
            for owner in self._index.get(name, {}).values():
                values = dict((*self._identity, *owner.labels))
                if all(test(values.get(label, "")) for label, test in tests):
                    yield tuple(sorted(values.items())), owner

    def series(self, matchers: Matchers, start_ms: int, end_ms: int) -> Iterator[Labels]:
        """The series that meet all matchers and may have a sample between the two times."""
        for labels, owner in self._matching(matchers):
            group = self._groups[owner.group.name]
            if group.ended_ms[owner.column] >= start_ms and group.oldest_ms() <= end_ms:
                yield labels

    def metrics(self) -> Iterator[Metric]:
        """What each metric name means; where sampling groups disagree, once for each meaning."""
        for series in self._index.values():
            meanings = {self._groups[owner.group.name].metrics[owner.column] for owner in series.values()}
            yield from (metric for metric in meanings if metric is not None)


def as_columns(columns: list[int]) -> Columns:
    """Ascending column numbers, as a slice (whose reading needs no copy) where they have no gap."""
    if columns[-1] - columns[0] + 1 == len(columns):
        return slice(columns[0], columns[-1] + 1)
    return np.array(columns, np.intp)
