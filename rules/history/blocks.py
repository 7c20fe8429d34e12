"""
Older rows of a sampling group, sealed into compact blocks that give back every bit.

Kernel values are nearly all whole numbers of some unit (kB, ticks, milli-degrees, micro-seconds), so a column is kept
as the differences between whole numbers wherever that reproduces it bit by bit, and as it is wherever not.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
States = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.intp]

ABSENT, VALUE, STALE = 0, 1, 2
"""What a cell holds: nothing, a value (NaN is one), or the mark that its series ended here."""

SCALES = (1 / 1024, 1.0, 100.0, 1e3, 1e6, 1e9)
"""Units per whole number: kibibytes, counts, clock ticks and percent, milli, micro, nano."""

_EXACT = float(1 << 53)  # whole numbers up to here survive a float64
_WIDTHS = (np.int8, np.int16, np.int32)


class Constants(NamedTuple):
    """Columns that did not change within the block."""

    values: Floats

    def rows(self, slots: Integers, count: int) -> Floats:
        return np.broadcast_to(self.values[slots, None], (len(slots), count))

    def nbytes(self) -> int:
        return self.values.nbytes


class Deltas(NamedTuple):
    """Columns of whole numbers at one scale: the first of each, then the differences."""

    scale: float
    first: npt.NDArray[np.int64]
    steps: npt.NDArray[np.signedinteger]

    def rows(self, slots: Integers, count: int) -> Floats:
        whole = np.empty((len(slots), count), np.int64)
        whole[:, 0] = self.first[slots]
        whole[:, 1:] = self.steps[slots]
        np.cumsum(whole, axis=1, out=whole)
        return whole / self.scale

    def nbytes(self) -> int:
        return self.first.nbytes + self.steps.nbytes


class Plain(NamedTuple):
    """Columns that nothing shorter reproduces."""

    values: Floats

    def rows(self, slots: Integers, count: int) -> Floats:
        return self.values[slots]

    def nbytes(self) -> int:
        return self.values.nbytes


Store = Constants | Deltas | Plain
_Put = Callable[[Integers, Store], None]


class Block:
    """Consecutive rows of one group: time x columns, read-only."""

    __slots__ = ("_holed", "_kinds", "_offsets", "_slots", "_states", "_stores", "base_ms")

    def __init__(self, times: Times, values: Floats, states: States) -> None:
        """`times` [rows] in ms; `values`, `states` [columns, rows]."""
        self.base_ms = int(times[0])
        self._offsets = times - self.base_ms
        if self._offsets[-1] < 1 << 31:
            self._offsets = self._offsets.astype(np.int32)
        self._kinds, self._slots, self._stores = _stored(values)
        holed = np.flatnonzero((states != VALUE).any(axis=1))
        self._holed: Integers = holed
        self._states: States = states[holed]

    @property
    def first_ms(self) -> int:
        """Time of the oldest row."""
        return self.base_ms

    @property
    def last_ms(self) -> int:
        """Time of the newest row."""
        return self.base_ms + int(self._offsets[-1])

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self._offsets)

    def moved(self, delta_ms: int) -> Block:
        """The same rows at other times; the block itself stays, for a snapshot may hold it."""
        other = copy.copy(self)
        other.base_ms += delta_ms
        return other

    def times(self) -> Times:
        """Times of the rows, in ms."""
        return self._offsets.astype(np.int64) + self.base_ms

    def read(self, columns: Integers) -> tuple[Floats, States]:
        """Values and states [columns, rows]; a column younger than the block is absent."""
        count = len(self._offsets)
        values = np.zeros((len(columns), count))
        states = np.full((len(columns), count), ABSENT, np.uint8)
        known = columns < len(self._kinds)
        states[known] = VALUE
        kinds = np.full(len(columns), 255, np.uint8)
        kinds[known] = self._kinds[columns[known]]
        for kind, store in enumerate(self._stores):
            here = np.flatnonzero(kinds == kind)
            if len(here):
                values[here] = store.rows(self._slots[columns[here]].astype(np.intp), count)
        self._write_holes(columns, states)
        return values, states

    def _write_holes(self, columns: Integers, states: States) -> None:
        if len(self._holed):
            at = np.minimum(np.searchsorted(self._holed, columns), len(self._holed) - 1)
            here = self._holed[at] == columns
            states[here] = self._states[at[here]]

    def nbytes(self) -> int:
        """Memory held by the arrays of the block."""
        own = self._offsets.nbytes + self._kinds.nbytes + self._slots.nbytes + self._holed.nbytes + self._states.nbytes
        return own + sum(store.nbytes() for store in self._stores)


def _stored(values: Floats) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], tuple[Store, ...]]:
    columns = len(values)
    kinds = np.empty(columns, np.uint8)
    slots = np.empty(columns, np.int32)
    stores: list[Store] = []

    def put(where: Integers, store: Store) -> None:
        kinds[where] = len(stores)
        slots[where] = np.arange(len(where))
        stores.append(store)

    values = np.ascontiguousarray(values)
    bits = values.view(np.int64)
    constant = (bits == bits[:, :1]).all(axis=1)
    if constant.any():
        put(np.flatnonzero(constant), Constants(values[constant, 0]))
    left = np.flatnonzero(~constant)
    for scale in SCALES:
        left = _store_deltas(values, left, scale, put)
    if len(left):
        put(left, Plain(values[left]))
    return kinds, slots, tuple(stores)


def _store_deltas(values: Floats, left: Integers, scale: float, put: _Put) -> Integers:
    # The first row decides cheaply for most columns; only its survivors are looked at as a whole.
    likely = left[_reproduced(np.ascontiguousarray(values[left, :1]), scale)]
    likely = likely[_reproduced(values[likely], scale)]
    if not len(likely):
        return left
    whole = np.rint(values[likely] * scale).astype(np.int64)
    steps = np.diff(whole, axis=1)
    largest = np.abs(steps).max(axis=1)
    taken = np.zeros(len(likely), bool)
    for width in _WIDTHS:
        fits = ~taken & (largest <= np.iinfo(width).max)
        if fits.any():
            put(likely[fits], Deltas(scale, whole[fits, 0], steps[fits].astype(width)))
            taken |= fits
    return np.setdiff1d(left, likely[taken], assume_unique=True)


def _reproduced(values: Floats, scale: float) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore", over="ignore"):
        whole = np.rint(values * scale)
        exact = np.abs(whole) < _EXACT
        # Through an integer and back, so that -0.0 and NaN payloads are told apart.
        back = np.where(exact, whole, 0.0).astype(np.int64) / scale
    same: npt.NDArray[np.bool_] = (exact & (back.view(np.int64) == values.view(np.int64))).all(axis=1)
    return same
