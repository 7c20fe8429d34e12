"""
The columnar store of recent samples that rules query.

Each sampling group has one row per pass and one column per series. Staleness and lookback are Prometheus':
https://prometheus.io/docs/prometheus/latest/querying/basics/#staleness

Selected series carry the identity, `job` and `instance`, as if a Prometheus had scraped this host. A sampled series
with such a label of its own keeps it. Series that rules record have only the labels of their rule.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, compress, groupby, repeat
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple
from weakref import WeakValueDictionary

import numpy as np

from collectors import Labels, Metric, Sample
from rules.history.blocks import VALUE, Integers
from rules.history.rows import Rows, append_rows, read_rows_between
from rules.history.sample_group import HEAD_ROWS, NEVER_MS, RowSpan, SampleGroup
from rules.history.selection import Selection, SelectionPart, SeriesRef
from rules.history.series_index import ChangeLog, KeptSelection, SelectionKeeper, SeriesIndex
from rules.history.snapshot import Index, Snapshot, as_columns
from rules.matchers import NAME, Matchers, build_labels_test, find_exact_name, matches_name

_SEALED_CELL_BYTES = 4.5  # bytes of one sealed cell: 0.1 (constant) to 8 (noise), 2.1 measured on a mixed host
_SERIES_BYTES = 900  # labels, keys and per-column arrays of one series

RECORDED_PREFIX = "rule:"
"""
The prefix of the sampling groups that rules record under.

It was `rules:` before rules saw the identity. The series recorded then differ, and are not continued after an upgrade:
each would appear twice in every window of an hour.
"""


class _PassLayout(NamedTuple):
    """The layout of a group's last pass; the next pass nearly always has the same."""

    metrics: tuple[Metric, ...]
    labels: tuple[Labels, ...]
    columns: Integers
    accepted: Integers | None  # the samples that are recorded; None: all of them


class History:
    """The samples of the last `retention_ms`. Each series belongs to the sampling group that first recorded it."""

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
        self._series: dict[str, SeriesIndex] = {}  # by the labels that queries see, without the name
        self._groups_by_name: dict[str, set[str]] = {}
        self._derived_from: dict[str, frozenset[str]] = {}
        self._changes = ChangeLog()
        self._changes_by_name: dict[str, ChangeLog] = {}
        self._kept_selections: WeakValueDictionary[Matchers, KeptSelection] = WeakValueDictionary()
        self._label_bytes = 0
        self._index: tuple[int, Index] = (-1, {})
        self._index_copies: dict[str, tuple[int, dict[Labels, SeriesRef]]] = {}

    def record(self, group: str, at_ms: int, samples: Iterable[Sample]) -> bool:
        """
        Records one pass of a sampling group; its live series that are not in `samples` end.

        Returns False, and records nothing, unless the pass is newer than the group's last.
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
        """Yields the rows of each group that are newer than its time in `after` and than `at_least_ms`."""
        for group in self._groups.values():
            since_ms = max(after.get(group.name, NEVER_MS), at_least_ms)
            if group.last_ms > since_ms:
                yield read_rows_between(group, since_ms, group.last_ms)

    def extend(self, rows: Rows) -> int:
        """Adds stored rows, except those not newer than the group's last; returns how many were added."""
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
        self._reserve_columns(group, list(zip(metrics, recorded, strict=True)), keys)
        columns, accepted, used_columns = [], [], set()
        for position, (name, pairs) in enumerate(keys):
            ref = self._find_series(name, pairs)
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
        """Returns the labels that identify a series: its own, completed with the identity."""
        if not self.identity or group.name.startswith(RECORDED_PREFIX):
            return labels
        names = dict(labels)
        return tuple(sorted(labels + tuple([pair for pair in self.identity if pair[0] not in names])))

    def _reserve_columns(
        self, group: SampleGroup, series: list[tuple[Metric, Labels]], keys: list[tuple[str, Labels]]
    ) -> None:
        new: dict[tuple[str, Labels], tuple[Metric, Labels]] = {}
        for entry, (name, pairs) in zip(series, keys, strict=True):
            if self._find_series(name, pairs) is None:
                new.setdefault((name, pairs), entry)
        room = max(0, self.series_cap - self.count_series())
        self.dropped_series += max(0, len(new) - room)
        admitted = list(new.items())[:room]
        slots = group.add_columns([entry for _, entry in admitted])
        for ((name, pairs), (_, own_labels)), slot in zip(admitted, slots, strict=True):
            full_labels = tuple(sorted([*pairs, (NAME, name)]))
            ref = SeriesRef(group, slot, full_labels)
            if name not in self._series:
                self._series[name] = SeriesIndex()
            self._series[name].add(pairs, ref)
            self._log_change(name, ref)
            self._groups_by_name.setdefault(name, set()).add(group.name)
            self._label_bytes += _count_label_bytes(own_labels, full_labels)

    def _find_series(self, name: str, pairs: Labels) -> SeriesRef | None:
        index = self._series.get(name)
        return None if index is None else index.series.get(pairs)

    def _log_change(self, name: str, ref: SeriesRef) -> None:
        self._changes.add(ref)
        if name not in self._changes_by_name:
            self._changes_by_name[name] = ChangeLog()
        self._changes_by_name[name].add(ref)

    def silence(self, group: str, at_ms: int) -> None:
        """Ends every live series of the group; the group is silent until it records again."""
        sample_group = self._get_group(group)
        if (sample_group.get_last_states() == VALUE).any():
            sample_group.append(max(at_ms, sample_group.last_ms + 1), np.empty(0, np.intp), np.empty(0))
        sample_group.silent = True

    def is_silent(self, group: str) -> bool:
        """Returns True if the group was silenced and has not recorded since."""
        return group in self._groups and self._groups[group].silent

    def derive(self, name: str, sources: Iterable[str]) -> None:
        """
        Declares that series of this name are computed from the newest values of the sources.

        A silent source then makes the series silent. A source without samples since a restart makes them count as not
        sampled, however often their own group records.
        """
        self._derived_from[name] = frozenset(sources)

    def _find_origins(self, name: str) -> set[str]:
        """Returns the name and all the names that it is derived from, directly or not."""
        origins, pending = {name}, [name]
        while pending:
            new = self._derived_from.get(pending.pop(), frozenset()) - origins
            origins |= new
            pending += new
        return origins

    def has_samples_since(self, name: str, since_ms: int) -> bool:
        """Returns True if the metric and everything it is derived from were recorded at or after that time."""
        return all(
            any(self._groups[group].last_ms >= since_ms for group in self._groups_by_name.get(origin, ()))
            for origin in self._find_origins(name)
        )

    def shift(self, delta_ms: int) -> None:
        """Moves every stored time with the wall clock."""
        for group in self._groups.values():
            group.shift(delta_ms)

    def forget(self, now_ms: int) -> None:
        """Drops samples older than `retention_ms`, sealed rows in whole blocks; removes series that have none left."""
        for group in self._groups.values():
            expired = group.forget(now_ms - self.retention_ms)
            if expired:
                self._remove(group, expired)

    def _remove(self, group: SampleGroup, slots: list[int]) -> None:
        for slot in slots:
            metric = group.metrics[slot]
            assert metric is not None  # an ended column belonged to a series and is freed only once
            index = self._series[metric.name]
            ref = index.remove(self._add_identity(group, group.labels[slot]))
            self._label_bytes -= _count_label_bytes(group.labels[slot], ref.labels)
            group.free_slot(slot)
            self._log_change(metric.name, ref)
            if not index.series:
                del self._series[metric.name]
                self._index_copies.pop(metric.name, None)
                self._changes_by_name[metric.name].forget()
        # The group's columns have new owners, and a series that was refused may now have room.
        for name, layout in list(self._passes.items()):
            if name == group.name or layout.accepted is not None:
                del self._passes[name]

    def get_latest(self) -> Iterator[tuple[Metric, Labels, float, int]]:
        """Returns the live series with the labels they were recorded with, their newest value and its time in ms."""
        return chain.from_iterable(map(_iter_latest, self._groups.values()))

    def get_value(self, name: str, **labels: str) -> float | None:
        """Returns the newest value of one live series; None if it does not exist or has ended."""
        ref = self._find_series(name, canonicalize_labels(({**dict(self.identity), **labels}).items()))
        if ref is None or ref.group.get_last_states()[ref.column] != VALUE:
            return None
        return float(ref.group.get_last_values()[ref.column])

    def list_names(self) -> list[str]:
        """Returns the names of the metrics that have series, sorted."""
        return sorted(self._series)

    def count_series(self) -> int:
        """Counts the stored series, including those that ended within `retention_ms`."""
        return sum(len(index.series) for index in self._series.values())

    def count_bytes(self) -> int:
        """Returns the memory in use: arrays with their unused capacity, labels and index."""
        arrays = sum(group.nbytes() for group in self._groups.values())
        passes = sum(_count_pass_bytes(layout) for layout in self._passes.values())
        return arrays + passes + self._label_bytes

    def select(self, matchers: Matchers, keeper: SelectionKeeper | None = None) -> Selection:
        """
        Selects the series that match.

        As long as `keeper` lives, the selection is the same object until the set of its series changes. Equal matchers
        share it.
        """
        kept = None if keeper is None else keeper.kept
        if kept is None or kept.owner is not self:
            name = find_exact_name(matchers)
            log = self._changes if name is None else self._changes_by_name.get(name)
            if log is None:
                return _NOTHING
            kept = self._kept_selections.get(matchers)
            if kept is None:
                kept = self._kept_selections[matchers] = KeptSelection(self, matchers, log)
            if keeper is not None:
                keeper.kept = kept
        return kept.refresh()

    def snapshot(self) -> Snapshot:
        """Returns a snapshot for a query in another thread; its series have the labels that rules see."""
        if self._index[0] != self._changes.count:
            self._index = (self._changes.count, {name: self._copy_series(name) for name in self._series})
        return Snapshot({group.name: group.freeze() for group in self._groups.values()}, self._index[1])

    def _copy_series(self, name: str) -> dict[Labels, SeriesRef]:
        """Returns a copy of the series of a name, which is made anew only after one of them came or went."""
        count = self._changes_by_name[name].count
        if self._index_copies.get(name, (-1,))[0] != count:
            self._index_copies[name] = (count, self._series[name].series.copy())
        return self._index_copies[name][1]

    def find_selection(self, matchers: Matchers) -> Selection:
        """Selects the series that match, anew."""
        matches, name = build_labels_test(matchers), find_exact_name(matchers)
        indexes = [
            index
            for candidate in (self._series if name is None else [name])
            if matches_name(matchers, candidate) and (index := self._series.get(candidate)) is not None
        ]
        chosen = [ref for index in indexes for ref in index.find_candidates(matchers) if matches(ref.labels)]
        chosen.sort(key=lambda ref: (ref.group.name, ref.column))
        parts, start = [], 0
        for _, members in groupby(chosen, attrgetter("group.name")):
            columns = list(members)
            rows = slice(start, start + len(columns))
            parts.append(SelectionPart(columns[0].group, as_columns([ref.column for ref in columns]), rows))
            start = rows.stop
        return Selection(tuple(ref.labels for ref in chosen), tuple(parts))

    def find_groups(self, matchers: Matchers) -> set[str]:
        """Returns the groups that own, or once owned, series of a matching name or of a name it is derived from."""
        name = find_exact_name(matchers)
        names = self._groups_by_name if name is None else [name]
        origins = {
            origin
            for candidate in names
            if matches_name(matchers, candidate)
            for origin in self._find_origins(candidate)
        }
        return {group for origin in origins for group in self._groups_by_name.get(origin, ())}


_NOTHING = Selection((), ())


def _iter_latest(group: SampleGroup) -> Iterable[tuple[Metric, Labels, float, int]]:
    alive = group.get_last_states() == VALUE
    metrics, labels, values = group.metrics, group.labels, group.get_last_values()
    if not alive.all():
        flags = alive.tolist()
        metrics, labels, values = [*compress(metrics, flags)], [*compress(labels, flags)], values[alive]
    return zip(metrics, labels, values.tolist(), repeat(group.last_ms))  # type: ignore[arg-type]  # a live column has its metric


def canonicalize_labels(labels: Iterable[tuple[str, str]]) -> Labels:
    """Sorts labels by name, and drops empty values."""
    return tuple(sorted(pair for pair in labels if pair[1]))


def estimate_bytes(series: int, interval_ms: int, retention_ms: int) -> int:
    """Estimates the memory for a number of series at that interval."""
    rows = -(-retention_ms // interval_ms)
    plain = min(rows, HEAD_ROWS)
    return int(series * (plain * 9 + (rows - plain) * _SEALED_CELL_BYTES + _SERIES_BYTES))


def _transpose(samples: Iterable[Sample]) -> tuple[tuple[Metric, ...], tuple[Labels, ...], tuple[float, ...]]:
    columns = tuple(zip(*samples, strict=True))
    return columns if columns else ((), (), ())  # type: ignore[return-value]  # zip(*) loses what Sample's fields are


def _count_label_bytes(own_labels: Labels, full_labels: Labels) -> int:
    """Returns the size of a series' labels: its own pairs, which both tuples share, and the two tuples."""
    pairs = sum(sys.getsizeof(pair) + sys.getsizeof(pair[1]) for pair in own_labels)
    return sys.getsizeof(own_labels) + 2 * sys.getsizeof(full_labels) + pairs + sys.getsizeof(SeriesRef) // 8 + 200


def _count_pass_bytes(layout: _PassLayout) -> int:
    return sys.getsizeof(layout.metrics) + sys.getsizeof(layout.labels) + layout.columns.nbytes


__all__ = ["RECORDED_PREFIX", "History", "RowSpan", "canonicalize_labels", "estimate_bytes"]
