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
from rules.history.rows import Rows, append_rows, rows_after
from rules.history.sample_group import HEAD_ROWS, NEVER_MS, Group, Span
from rules.history.selection import NAME, Matchers, Owner, Part, Selection, exact_name, labels_test, name_matches
from rules.history.snapshot import Index, Snapshot, as_columns

_SELECTIONS = 1024  # remembered selectors; a page that invents new ones must not grow the agent
_SEALED_CELL_BYTES = 4.5  # of one sealed cell: 0.1 (constant) to 8 (noise), 2.1 measured on a mixed host
_SERIES_BYTES = 900  # labels, keys and per-column arrays of one series

RECORDED = "rule:"
"""
How the groups begin that rules record under.

It was `rules:` when rules saw no identity. What they recorded then are other series, and are not gone on with after an
upgrade: each would have been there twice in every window of an hour.
"""


class _Pass(NamedTuple):
    """What the last pass of a group looked like; the next one is nearly always the same."""

    metrics: tuple[Metric, ...]
    labels: tuple[Labels, ...]
    columns: Integers
    taken: Integers | None  # which samples are recorded; None: all of them


class History:
    """What was sampled within `keep_ms`: groups of series, each series owned by the group that first recorded it."""

    def __init__(
        self, keep_ms: int, *, series_cap: int = 20_000, identity: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.keep_ms = keep_ms
        self.series_cap = series_cap
        self.identity = tuple(sorted(identity.items()))
        self.conflicts = 0
        self.dropped_series = 0
        self._groups: dict[str, Group] = {}
        self._passes: dict[str, _Pass] = {}
        self._owners: dict[str, dict[Labels, Owner]] = {}  # by the labels that it is seen with, without the name
        self._ever: dict[str, set[str]] = {}
        self._made_of: dict[str, frozenset[str]] = {}
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
        owner = self._group(group)
        if at_ms <= owner.last_ms:
            return False
        owner.silent = False
        metrics, labels, values = _columns_of(samples)
        known = self._passes.get(group)
        if known is None or labels != known.labels or metrics != known.metrics:
            known = self._passes[group] = self._resolve(owner, metrics, labels)
        numbers = np.array(values, np.float64)
        owner.append(at_ms, known.columns, numbers if known.taken is None else numbers[known.taken])
        return True

    def rows(self, after: Mapping[str, int], at_least_ms: int = NEVER_MS) -> Iterator[Rows]:
        """The rows of each group that are newer than its time in `after`, and than `at_least_ms`."""
        for group in self._groups.values():
            since = max(after.get(group.name, NEVER_MS), at_least_ms)
            if group.last_ms > since:
                yield rows_after(group, since, group.last_ms)

    def extend(self, rows: Rows) -> int:
        """Takes in rows that were written down; those not newer than the group's last are left. Returns how many."""
        owner = self._group(rows.heading.group)
        rows = rows.newer(owner.last_ms).without_empty_columns()
        heading = rows.heading
        known = self._passes.get(heading.group)
        if known is None or (known.labels, known.metrics) != (heading.labels, heading.metrics):
            known = self._passes[heading.group] = self._resolve(owner, heading.metrics, heading.labels)
        if known.taken is not None:
            present = None if rows.present is None else rows.present[known.taken]
            rows = rows._replace(values=rows.values[known.taken], present=present)
        append_rows(owner, rows, known.columns)
        return len(rows.times)

    def _group(self, name: str) -> Group:
        if name not in self._groups:
            self._groups[name] = Group(name)
        return self._groups[name]

    def _resolve(self, group: Group, metrics: tuple[Metric, ...], labels: tuple[Labels, ...]) -> _Pass:
        recorded = [canonical(pairs) for pairs in labels]
        keys = [(metric.name, self._seen(group, own)) for metric, own in zip(metrics, recorded, strict=True)]
        self._admit(group, list(zip(metrics, recorded, strict=True)), keys)
        columns, taken, seen = [], [], set()
        for position, (name, pairs) in enumerate(keys):
            owner = self._owners.get(name, {}).get(pairs)
            if owner is None:
                continue
            if owner.group is not group or owner.column in seen:
                self.conflicts += 1
                continue
            seen.add(owner.column)
            columns.append(owner.column)
            taken.append(position)
            group.metrics[owner.column] = metrics[position]
        whole = len(taken) == len(keys)
        return _Pass(metrics, labels, np.array(columns, np.intp), None if whole else np.array(taken, np.intp))

    def _seen(self, group: Group, own: Labels) -> Labels:
        """The labels that a series is known by: its own, and what it lacks of the identity."""
        if not self.identity or group.name.startswith(RECORDED):
            return own
        names = dict(own)
        return tuple(sorted(own + tuple([pair for pair in self.identity if pair[0] not in names])))

    def _admit(self, group: Group, series: list[tuple[Metric, Labels]], keys: list[tuple[str, Labels]]) -> None:
        new: dict[tuple[str, Labels], tuple[Metric, Labels]] = {}
        for each, (name, pairs) in zip(series, keys, strict=True):
            if pairs not in self._owners.get(name, ()):
                new.setdefault((name, pairs), each)
        room = max(0, self.series_cap - self.series_count())
        self.dropped_series += max(0, len(new) - room)
        wanted = list(new.items())[:room]
        slots = group.add_columns([each for _, each in wanted])
        for ((name, pairs), (_, own)), slot in zip(wanted, slots, strict=True):
            full = tuple(sorted([*pairs, (NAME, name)]))
            self._owners.setdefault(name, {})[pairs] = Owner(group, slot, full)
            self._ever.setdefault(name, set()).add(group.name)
            self._label_bytes += _label_bytes(own, full)
        self._changed({name for (name, _), _ in wanted})

    def _changed(self, names: set[str]) -> None:
        for name in names:
            self._epochs[name] = self._epochs.get(name, 0) + 1
            self._changes += 1

    def silence(self, group: str, at_ms: int) -> None:
        """Ends every live series of the group; it is silent until it records again."""
        owner = self._group(group)
        if (owner.last_states() == VALUE).any():
            owner.append(max(at_ms, owner.last_ms + 1), np.empty(0, np.intp), np.empty(0))
        owner.silent = True

    def silent(self, group: str) -> bool:
        """Whether the group was silenced and has not recorded since."""
        return group in self._groups and self._groups[group].silent

    def derive(self, name: str, sources: Iterable[str]) -> None:
        """
        Says that whoever records series of this name makes them of the sources' newest values.

        They are then only as alive as what they are made of: a source that is silent makes them silent, and one that
        has not been heard since a restart leaves them unheard, however often their own group records.
        """
        self._made_of[name] = frozenset(sources)

    def _origins(self, name: str) -> set[str]:
        """The name, and those of all that it is made of, directly or not."""
        found, to_see = {name}, [name]
        while to_see:
            new = self._made_of.get(to_see.pop(), frozenset()) - found
            found |= new
            to_see += new
        return found

    def heard(self, name: str, since_ms: int) -> bool:
        """Whether each of what it is made of, and itself, was recorded by a group of its at or after that time."""
        return all(
            any(self._groups[group].last_ms >= since_ms for group in self._ever.get(origin, ()))
            for origin in self._origins(name)
        )

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped: every stored time moves with it."""
        for group in self._groups.values():
            group.shift(delta_ms)

    def forget(self, now_ms: int) -> None:
        """Drops what is older than `keep_ms` (sealed rows by whole blocks); a series with nothing left disappears."""
        for group in self._groups.values():
            gone = group.forget(now_ms - self.keep_ms)
            if gone:
                self._remove(group, gone)

    def _remove(self, group: Group, slots: list[int]) -> None:
        names = set()
        for slot in slots:
            metric = group.metrics[slot]
            assert metric is not None  # a column that ended was somebody's, and is freed once
            owner = self._owners[metric.name].pop(self._seen(group, group.labels[slot]))
            self._label_bytes -= _label_bytes(group.labels[slot], owner.labels)
            group.free(slot)
            names.add(metric.name)
            if not self._owners[metric.name]:
                del self._owners[metric.name]
        self._changed(names)
        # Columns changed hands, and a series refused at the cap may find room now.
        self._passes.clear()

    def latest(self) -> Iterator[tuple[Metric, Labels, float, int]]:
        """The live series as they were recorded, with their newest value and its time in ms, by groups and columns."""
        return chain.from_iterable(map(_latest, self._groups.values()))

    def value(self, name: str, **labels: str) -> float | None:
        """The newest value of one live series; None where it is not there or has ended."""
        owner = self._owners.get(name, {}).get(canonical(({**dict(self.identity), **labels}).items()))
        if owner is None or owner.group.last_states()[owner.column] != VALUE:
            return None
        return float(owner.group.last_values()[owner.column])

    def names(self) -> list[str]:
        """The metric names that have series, sorted."""
        return sorted(self._owners)

    def series_count(self) -> int:
        """How many series are held, those that ended within `keep_ms` included."""
        return sum(len(series) for series in self._owners.values())

    def bytes(self) -> int:
        """Memory really held: arrays with their unused capacity, labels and index."""
        arrays = sum(group.nbytes() for group in self._groups.values())
        passes = sum(_pass_bytes(known) for known in self._passes.values())
        return arrays + passes + self._label_bytes

    def epoch(self, name: str) -> int:
        """A number that changes when the set of series of that metric name changes."""
        return self._epochs.get(name, 0)

    def select(self, matchers: Matchers) -> Selection:
        """The series that meet all matchers; remembered until the set of series of that name changes."""
        name = exact_name(matchers)
        epoch = self._changes if name is None else self.epoch(name)
        kept = self._selections.get(matchers)
        if kept is not None and kept[0] == epoch:
            return kept[1]
        if len(self._selections) >= _SELECTIONS:
            self._selections.clear()
        selection = self._choose(matchers, self._owners if name is None else [name])
        self._selections[matchers] = (epoch, selection)
        return selection

    def snapshot(self, identity: Mapping[str, str]) -> Snapshot:
        """Everything as it is now, for a query in another thread; every series carries that identity."""
        if self._index[0] != self._changes:
            self._index = (self._changes, {name: series.copy() for name, series in self._owners.items()})
        return Snapshot({group.name: group.frozen() for group in self._groups.values()}, self._index[1], identity)

    def _choose(self, matchers: Matchers, names: Iterable[str]) -> Selection:
        meets = labels_test(matchers)
        chosen = [
            owner
            for name in names
            if name_matches(matchers, name)
            for owner in self._owners.get(name, {}).values()
            if meets(owner.labels)
        ]
        chosen.sort(key=lambda owner: (owner.group.name, owner.column))
        parts, start = [], 0
        for _, members in groupby(chosen, attrgetter("group.name")):
            columns = list(members)
            rows = slice(start, start + len(columns))
            parts.append(Part(columns[0].group, as_columns([owner.column for owner in columns]), rows))
            start = rows.stop
        return Selection(tuple(owner.labels for owner in chosen), tuple(parts))

    def owners(self, matchers: Matchers) -> set[str]:
        """The groups that own, or once owned, a series of a name that the matchers ask for, or that it is made of."""
        name = exact_name(matchers)
        names = self._ever if name is None else [name]
        origins = {origin for known in names if name_matches(matchers, known) for origin in self._origins(known)}
        return {group for origin in origins for group in self._ever.get(origin, ())}


def _latest(group: Group) -> Iterable[tuple[Metric, Labels, float, int]]:
    lives = group.last_states() == VALUE
    metrics, labels, values = group.metrics, group.labels, group.last_values()
    if not lives.all():
        flags = lives.tolist()
        metrics, labels, values = [*compress(metrics, flags)], [*compress(labels, flags)], values[lives]
    return zip(metrics, labels, values.tolist(), repeat(group.last_ms))  # type: ignore[arg-type]  # a live column has its metric


def canonical(labels: Iterable[tuple[str, str]]) -> Labels:
    """Labels sorted by name, without empty values."""
    return tuple(sorted(pair for pair in labels if pair[1]))


def bytes_needed(series: int, interval_ms: int, keep_ms: int) -> int:
    """An estimate of the memory that so many series at that interval need."""
    rows = -(-keep_ms // interval_ms)
    plain = min(rows, HEAD_ROWS)
    return int(series * (plain * 9 + (rows - plain) * _SEALED_CELL_BYTES + _SERIES_BYTES))


def _columns_of(samples: Iterable[Sample]) -> tuple[tuple[Metric, ...], tuple[Labels, ...], tuple[float, ...]]:
    columns = tuple(zip(*samples, strict=True))
    return columns if columns else ((), (), ())  # type: ignore[return-value]  # zip(*) loses what Sample's fields are


def _label_bytes(own: Labels, full: Labels) -> int:
    """What a series' labels take: its own pairs, which both share, and the tuples of them."""
    pairs = sum(sys.getsizeof(pair) + sys.getsizeof(pair[1]) for pair in own)
    return sys.getsizeof(own) + 2 * sys.getsizeof(full) + pairs + sys.getsizeof(Owner) // 8 + 200


def _pass_bytes(known: _Pass) -> int:
    return sys.getsizeof(known.metrics) + sys.getsizeof(known.labels) + known.columns.nbytes


__all__ = ["RECORDED", "History", "Span", "bytes_needed", "canonical"]
