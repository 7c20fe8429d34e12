"""
The series of one metric name, found by label values, and the record of which came and went.

A thousand rules may each select one of four thousand series of a name. Testing every series for every rule took half a
second, at each tick in which one series came or more rules had selected than a cache could hold.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Protocol

from collectors import Labels
from rules.history.selection import Selection, SeriesRef
from rules.matchers import NAME, Matchers, build_labels_test, matches_name

MIN_INDEXED_SERIES = 32
"""Fewer series are tested one by one: postings would take more memory than they save time."""

_RECENT_CHANGES = 128


class ChangeLog:
    """Counts the series that came or went, and knows the last ones."""

    __slots__ = ("_recent", "count")

    def __init__(self) -> None:
        self.count = 0
        self._recent: deque[SeriesRef] = deque(maxlen=_RECENT_CHANGES)

    def add(self, ref: SeriesRef) -> None:
        """Adds a series that came or went."""
        self.count += 1
        self._recent.append(ref)

    def forget(self) -> None:
        """Drops the last changes, but not their count, so that they do not hold series long gone."""
        self._recent.clear()

    def list_since(self, count: int) -> list[SeriesRef] | None:
        """Returns the series that came or went since the log had that count; None if they are too many."""
        missed = self.count - count
        return list(islice(reversed(self._recent), missed)) if missed <= len(self._recent) else None


class SeriesIndex:
    """The series of one metric name by their other labels, with postings: the series that have a label value."""

    __slots__ = ("_postings", "series")

    def __init__(self) -> None:
        self.series: dict[Labels, SeriesRef] = {}
        self._postings: dict[str, dict[str, dict[Labels, SeriesRef]]] = {}

    def add(self, key: Labels, ref: SeriesRef) -> None:
        """Adds a series; `key` has its labels without the name."""
        self.series[key] = ref
        for label, value in key:
            if label in self._postings:
                self._postings[label].setdefault(value, {})[key] = ref

    def remove(self, key: Labels) -> SeriesRef:
        """Removes a series and returns it."""
        ref = self.series.pop(key)
        for label, value in key:
            if label in self._postings:
                members = self._postings[label][value]
                del members[key]
                if not members:
                    del self._postings[label][value]
        return ref

    def find_candidates(self, matchers: Matchers) -> Collection[SeriesRef]:
        """Returns the fewest series known to contain all that match; the caller tests each."""
        candidates: Collection[SeriesRef] = self.series.values()
        for matcher in matchers:
            if len(candidates) < MIN_INDEXED_SERIES:
                break
            if matcher.op == "=" and matcher.value and matcher.label != NAME:
                members = self._get_postings(matcher.label).get(matcher.value)
                if members is None:
                    return ()
                if len(members) < len(candidates):
                    candidates = members.values()
        return candidates

    def _get_postings(self, label: str) -> dict[str, dict[Labels, SeriesRef]]:
        """Returns the postings of a label, which are built when a selector first names it and kept up from then on."""
        if label not in self._postings:
            postings: dict[str, dict[Labels, SeriesRef]] = {}
            for key, ref in self.series.items():
                for name, value in key:
                    if name == label:
                        postings.setdefault(value, {})[key] = ref
            self._postings[label] = postings
        return self._postings[label]


class SelectionOwner(Protocol):
    """The History that a selection was made from."""

    def find_selection(self, matchers: Matchers) -> Selection: ...


class KeptSelection:
    """
    A selection that is made anew only after a series that matches came or went.

    It lives as long as a selector of a compiled query holds it, so there is no cache that could be too small.
    """

    __slots__ = ("__weakref__", "_count", "_log", "_matchers", "_matches", "_selection", "owner")

    def __init__(self, owner: SelectionOwner, matchers: Matchers, log: ChangeLog) -> None:
        self.owner = owner
        self._matchers = matchers
        self._matches = _build_series_test(matchers)
        self._log = log
        self._count = log.count
        self._selection = owner.find_selection(matchers)

    def refresh(self) -> Selection:
        """Returns the selection as it is now; it is the same object until the set of its series changes."""
        if self._count != self._log.count:
            changed = self._log.list_since(self._count)
            if changed is None or any(self._matches(ref.labels) for ref in changed):
                self._selection = _keep_labels(self._selection, self.owner.find_selection(self._matchers))
            self._count = self._log.count
        return self._selection


class SelectionKeeper:
    """Holds the kept selection of one selector of a plan."""

    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept: KeptSelection | None = None


def _build_series_test(matchers: Matchers) -> Callable[[Labels], bool]:
    matches = build_labels_test(matchers)
    if sum(matcher.label == NAME for matcher in matchers) == 1 and any(
        matcher.label == NAME and matcher.op == "=" for matcher in matchers
    ):
        return matches  # its log has no series of other names
    return lambda labels: matches_name(matchers, dict(labels)[NAME]) and matches(labels)


def _keep_labels(previous: Selection, current: Selection) -> Selection:
    """Returns the current selection, with the labels of the previous one if they are equal: much is made from them."""
    return current._replace(labels=previous.labels) if current.labels == previous.labels else current
