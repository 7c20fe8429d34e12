"""
The columnar memory of recent samples that rules are asked of.

Per sampling group one row per pass and one column per series; staleness and lookback are Prometheus':
https://prometheus.io/docs/prometheus/latest/querying/basics/#staleness
Whoever selects sees the identity, `job` and `instance`, as if a Prometheus had scraped this host: on what was sampled,
where it has no such label of its own, and not on what rules record, which have the labels that the rule gave them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, compress, groupby, repeat
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from collectors import Labels, Metric, Sample
from rules.history.blocks import VALUE, Integers
from rules.history.rows import Rows, append_rows, read_rows_between
from rules.history.sample_group import HEAD_ROWS, NEVER_MS, RowSpan, SampleGroup
from rules.history.selection import Selection, SelectionPart, SeriesRef
from rules.history.snapshot import Index, Snapshot, as_columns
from rules.matchers import NAME, Matchers, build_labels_test, find_exact_name, matches_name

_MAX_SELECTIONS = 1024  # remembered selectors; a page that invents new ones must not grow the agent
_SEALED_CELL_BYTES = 4.5  # of one sealed cell: 0.1 (constant) to 8 (noise), 2.1 measured on a mixed host
_SERIES_BYTES = 900  # labels, keys and per-column arrays of one series

RECORDED_PREFIX = "rule:"
"""
How the groups begin that rules record under.

It was `rules:` when rules saw no identity. What they recorded then are other series, and are not gone on with after an
upgrade: each would have been there twice in every window of an hour.
"""


class _PassLayout(NamedTuple):
    """What the last pass of a group looked like; the next one is nearly always the same."""

    metrics: tuple[Metric, ...]
    labels: tuple[Labels, ...]
    columns: Integers
    accepted: Integers | None  # which samples are recorded; None: all of them


class History:
    """What was sampled within `keep_ms`: groups of series, each series owned by the group that first recorded it."""

    def __init__(
        self, retention_ms: int, *, series_cap: int = 20_000, identity: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.retention_ms = retention_ms
        self.series_cap = series_cap
        self.identity = tuple(sorted(identity.items()))
        self.conflicts = 0
        self.dropped_series = 0
        self._groups: dict[str, SampleGroup] = {}
        self._passes: dict[str, _PassLayout] = {}
        self._series: dict[str, dict[Labels, SeriesRef]] = {}  # by the labels that it is seen with, without the name
        self._groups_by_name: dict[str, set[str]] = {}
        self._derived_from: dict[str, frozenset[str]] = {}
        self._epochs: dict[str, int] = {}
        self._changes = 0
        self._selections: dict[Matchers, tuple[int, Selection]] = {}
        self._label_bytes = 0
        self._index: tuple[int, Index] = (-1, {})

    def record(self, group: str, at_ms: int, samples: Iterable[Sample]) -> bool:
        """
        One pass of a sampling group; a series of the group that was alive and is not in `samples` ends here.

        False, and nothing recorded, where the pass is not newer than the group's last.
        """
        sample_group = self._get_group(group)
        if at_ms <= sample_group.last_ms:
            return False
        sample_group.silent = False
        metrics, labels, values = _transpose(samples)
        layout = self._passes.get(group)
        if layout is None or labels != layout.labels or metrics != layout.metrics:
            layout = self._passes[group] = self._resolve(sample_group, metrics, labels)
        numbers = np.array(values, np.float64)
        sample_group.append(at_ms, layout.columns, numbers if layout.accepted is None else numbers[layout.accepted])
        return True

    def iter_rows(self, after: Mapping[str, int], at_least_ms: int = NEVER_MS) -> Iterator[Rows]:
        """The rows of each group that are newer than its time in `after`, and than `at_least_ms`."""
        for group in self._groups.values():
            since_ms = max(after.get(group.name, NEVER_MS), at_least_ms)
            if group.last_ms > since_ms:
                yield read_rows_between(group, since_ms, group.last_ms)

    def extend(self, rows: Rows) -> int:
        """Takes in rows that were written down; those not newer than the group's last are left. Returns how many."""
        sample_group = self._get_group(rows.heading.group)
        rows = rows.select_newer(sample_group.last_ms).drop_empty_columns()
        heading = rows.heading
        layout = self._passes.get(heading.group)
        if layout is None or (layout.labels, layout.metrics) != (heading.labels, heading.metrics):
            layout = self._passes[heading.group] = self._resolve(sample_group, heading.metrics, heading.labels)
        if layout.accepted is not None:
            present = None if rows.present is None else rows.present[layout.accepted]
            rows = rows._replace(values=rows.values[layout.accepted], present=present)
        append_rows(sample_group, rows, layout.columns)
        return len(rows.times)

    def _get_group(self, name: str) -> SampleGroup:
        if name not in self._groups:
            self._groups[name] = SampleGroup(name)
        return self._groups[name]

    def _resolve(self, group: SampleGroup, metrics: tuple[Metric, ...], labels: tuple[Labels, ...]) -> _PassLayout:
        recorded = [canonicalize_labels(pairs) for pairs in labels]
        keys = [
            (metric.name, self._add_identity(group, own_labels))
            for metric, own_labels in zip(metrics, recorded, strict=True)
        ]
        self._admit(group, list(zip(metrics, recorded, strict=True)), keys)
        columns, accepted, used_columns = [], [], set()
        for position, (name, pairs) in enumerate(keys):
            ref = self._series.get(name, {}).get(pairs)
            if ref is None:
                continue
            if ref.group is not group or ref.column in used_columns:
                self.conflicts += 1
                continue
            used_columns.add(ref.column)
            columns.append(ref.column)
            accepted.append(position)
            group.metrics[ref.column] = metrics[position]
        complete = len(accepted) == len(keys)
        return _PassLayout(
            metrics, labels, np.array(columns, np.intp), None if complete else np.array(accepted, np.intp)
        )

    def _add_identity(self, group: SampleGroup, labels: Labels) -> Labels:
        """The labels that a series is known by: its own, and what it lacks of the identity."""
        if not self.identity or group.name.startswith(RECORDED_PREFIX):
            return labels
        names = dict(labels)
        return tuple(sorted(labels + tuple([pair for pair in self.identity if pair[0] not in names])))

    def _admit(self, group: SampleGroup, series: list[tuple[Metric, Labels]], keys: list[tuple[str, Labels]]) -> None:
        new: dict[tuple[str, Labels], tuple[Metric, Labels]] = {}
        for entry, (name, pairs) in zip(series, keys, strict=True):
            if pairs not in self._series.get(name, ()):
                new.setdefault((name, pairs), entry)
        room = max(0, self.series_cap - self.series_count())
        self.dropped_series += max(0, len(new) - room)
        admitted = list(new.items())[:room]
        slots = group.add_columns([entry for _, entry in admitted])
        for ((name, pairs), (_, own_labels)), slot in zip(admitted, slots, strict=True):
            full_labels = tuple(sorted([*pairs, (NAME, name)]))
            self._series.setdefault(name, {})[pairs] = SeriesRef(group, slot, full_labels)
            self._groups_by_name.setdefault(name, set()).add(group.name)
            self._label_bytes += _count_label_bytes(own_labels, full_labels)
        self._bump_epochs({name for (name, _), _ in admitted})

    def _bump_epochs(self, names: set[str]) -> None:
        for name in names:
            self._epochs[name] = self._epochs.get(name, 0) + 1
            self._changes += 1

    def silence(self, group: str, at_ms: int) -> None:
        """Ends every live series of the group; it is silent until it records again."""
        sample_group = self._get_group(group)
        if (sample_group.last_states() == VALUE).any():
            sample_group.append(max(at_ms, sample_group.last_ms + 1), np.empty(0, np.intp), np.empty(0))
        sample_group.silent = True

    def is_silent(self, group: str) -> bool:
        """Whether the group was silenced and has not recorded since."""
        return group in self._groups and self._groups[group].silent

    def derive(self, name: str, sources: Iterable[str]) -> None:
        """
        Says that whoever records series of this name makes them of the sources' newest values.

        They are then only as alive as what they are made of: a source that is silent makes them silent, and one that
        has not been heard since a restart leaves them unheard, however often their own group records.
        """
        self._derived_from[name] = frozenset(sources)

    def _find_origins(self, name: str) -> set[str]:
        """The name, and those of all that it is made of, directly or not."""
        origins, pending = {name}, [name]
        while pending:
            new = self._derived_from.get(pending.pop(), frozenset()) - origins
            origins |= new
            pending += new
        return origins

    def has_samples_since(self, name: str, since_ms: int) -> bool:
        """Whether each of what it is made of, and itself, was recorded by a group of its at or after that time."""
        return all(
            any(self._groups[group].last_ms >= since_ms for group in self._groups_by_name.get(origin, ()))
            for origin in self._find_origins(name)
        )

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped: every stored time moves with it."""
        for group in self._groups.values():
            group.shift(delta_ms)

    def forget(self, now_ms: int) -> None:
        """Drops what is older than `keep_ms` (sealed rows by whole blocks); a series with nothing left disappears."""
        for group in self._groups.values():
            expired = group.forget(now_ms - self.retention_ms)
            if expired:
                self._remove(group, expired)

    def _remove(self, group: SampleGroup, slots: list[int]) -> None:
        names = set()
        for slot in slots:
            metric = group.metrics[slot]
            assert metric is not None  # a column that ended was somebody's, and is freed once
            ref = self._series[metric.name].pop(self._add_identity(group, group.labels[slot]))
            self._label_bytes -= _count_label_bytes(group.labels[slot], ref.labels)
            group.free_slot(slot)
            names.add(metric.name)
            if not self._series[metric.name]:
                del self._series[metric.name]
        self._bump_epochs(names)
        # Columns changed hands, and a series refused at the cap may find room now.
        self._passes.clear()

    def latest(self) -> Iterator[tuple[Metric, Labels, float, int]]:
        """The live series as they were recorded, with their newest value and its time in ms, by groups and columns."""
        return chain.from_iterable(map(_iter_latest, self._groups.values()))

    def get_value(self, name: str, **labels: str) -> float | None:
        """The newest value of one live series; None where it is not there or has ended."""
        ref = self._series.get(name, {}).get(canonicalize_labels(({**dict(self.identity), **labels}).items()))
        if ref is None or ref.group.last_states()[ref.column] != VALUE:
            return None
        return float(ref.group.last_values()[ref.column])

    def names(self) -> list[str]:
        """The metric names that have series, sorted."""
        return sorted(self._series)

    def series_count(self) -> int:
        """How many series are held, those that ended within `keep_ms` included."""
        return sum(len(series) for series in self._series.values())

    def count_bytes(self) -> int:
        """Memory really held: arrays with their unused capacity, labels and index."""
        arrays = sum(group.nbytes() for group in self._groups.values())
        passes = sum(_count_pass_bytes(layout) for layout in self._passes.values())
        return arrays + passes + self._label_bytes

    def get_epoch(self, name: str) -> int:
        """A number that changes when the set of series of that metric name changes."""
        return self._epochs.get(name, 0)

    def select(self, matchers: Matchers) -> Selection:
        """The series that meet all matchers; remembered until the set of series of that name changes."""
        name = find_exact_name(matchers)
        epoch = self._changes if name is None else self.get_epoch(name)
        cached = self._selections.get(matchers)
        if cached is not None and cached[0] == epoch:
            return cached[1]
        if len(self._selections) >= _MAX_SELECTIONS:
            self._selections.clear()
        selection = self._select_series(matchers, self._series if name is None else [name])
        self._selections[matchers] = (epoch, selection)
        return selection

    def snapshot(self, identity: Mapping[str, str]) -> Snapshot:
        """Everything as it is now, for a query in another thread; every series carries that identity."""
        if self._index[0] != self._changes:
            self._index = (self._changes, {name: series.copy() for name, series in self._series.items()})
        return Snapshot({group.name: group.freeze() for group in self._groups.values()}, self._index[1], identity)

    def _select_series(self, matchers: Matchers, names: Iterable[str]) -> Selection:
        matches = build_labels_test(matchers)
        chosen = [
            ref
            for name in names
            if matches_name(matchers, name)
            for ref in self._series.get(name, {}).values()
            if matches(ref.labels)
        ]
        chosen.sort(key=lambda ref: (ref.group.name, ref.column))
        parts, start = [], 0
        for _, members in groupby(chosen, attrgetter("group.name")):
            columns = list(members)
            rows = slice(start, start + len(columns))
            parts.append(SelectionPart(columns[0].group, as_columns([ref.column for ref in columns]), rows))
            start = rows.stop
        return Selection(tuple(ref.labels for ref in chosen), tuple(parts))

    def find_groups(self, matchers: Matchers) -> set[str]:
        """The groups that own, or once owned, a series of a name that the matchers ask for, or that it is made of."""
        name = find_exact_name(matchers)
        names = self._groups_by_name if name is None else [name]
        origins = {
            origin
            for candidate in names
            if matches_name(matchers, candidate)
            for origin in self._find_origins(candidate)
        }
        return {group for origin in origins for group in self._groups_by_name.get(origin, ())}


def _iter_latest(group: SampleGroup) -> Iterable[tuple[Metric, Labels, float, int]]:
    alive = group.last_states() == VALUE
    metrics, labels, values = group.metrics, group.labels, group.last_values()
    if not alive.all():
        flags = alive.tolist()
        metrics, labels, values = [*compress(metrics, flags)], [*compress(labels, flags)], values[alive]
    return zip(metrics, labels, values.tolist(), repeat(group.last_ms))  # type: ignore[arg-type]  # a live column has its metric


def canonicalize_labels(labels: Iterable[tuple[str, str]]) -> Labels:
    """Labels sorted by name, without empty values."""
    return tuple(sorted(pair for pair in labels if pair[1]))


def estimate_bytes(series: int, interval_ms: int, retention_ms: int) -> int:
    """An estimate of the memory that so many series at that interval need."""
    rows = -(-retention_ms // interval_ms)
    plain = min(rows, HEAD_ROWS)
    return int(series * (plain * 9 + (rows - plain) * _SEALED_CELL_BYTES + _SERIES_BYTES))


def _transpose(samples: Iterable[Sample]) -> tuple[tuple[Metric, ...], tuple[Labels, ...], tuple[float, ...]]:
    columns = tuple(zip(*samples, strict=True))
    return columns if columns else ((), (), ())  # type: ignore[return-value]  # zip(*) loses what Sample's fields are


def _count_label_bytes(own_labels: Labels, full_labels: Labels) -> int:
    """What a series' labels take: its own pairs, which both share, and the tuples of them."""
    pairs = sum(sys.getsizeof(pair) + sys.getsizeof(pair[1]) for pair in own_labels)
    return sys.getsizeof(own_labels) + 2 * sys.getsizeof(full_labels) + pairs + sys.getsizeof(SeriesRef) // 8 + 200


def _count_pass_bytes(layout: _PassLayout) -> int:
    return sys.getsizeof(layout.metrics) + sys.getsizeof(layout.labels) + layout.columns.nbytes


__all__ = ["RECORDED_PREFIX", "History", "RowSpan", "canonicalize_labels", "estimate_bytes"]
