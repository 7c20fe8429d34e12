"""
Seals older rows of a sampling group into compact blocks that reproduce every bit.

Nearly all kernel values are whole numbers of some unit (kB, ticks, milli-degrees, microseconds). A column is stored as
differences of whole numbers if that reproduces it bit by bit, and unchanged otherwise.
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
"""The states of a cell: nothing, a value (which may be NaN), or the mark that its series ended here."""

SCALES = (1 / 1024, 1.0, 100.0, 1e3, 1e6, 1e9)
"""Units per whole number: kibibytes, counts, clock ticks and percent, milli, micro, nano."""

_MAX_EXACT = float(1 << 53)  # a float64 represents all whole numbers up to here
_WIDTHS = (np.int8, np.int16, np.int32)


class Constants(NamedTuple):
    """Columns that do not change within the block."""

    values: Floats

    def read_rows(self, slots: Integers, count: int) -> Floats:
        return np.broadcast_to(self.values[slots, None], (len(slots), count))

    def nbytes(self) -> int:
        return self.values.nbytes


class Deltas(NamedTuple):
    """Columns of whole numbers at one scale: the first number of each, then the differences."""

    scale: float
    first: npt.NDArray[np.int64]
    differences: npt.NDArray[np.signedinteger]

    def read_rows(self, slots: Integers, count: int) -> Floats:
        integers = np.empty((len(slots), count), np.int64)
        integers[:, 0] = self.first[slots]
        integers[:, 1:] = self.differences[slots]
        np.cumsum(integers, axis=1, out=integers)
        return integers / self.scale

    def nbytes(self) -> int:
        return self.first.nbytes + self.differences.nbytes


class Plain(NamedTuple):
    """Columns that no shorter form reproduces."""

    values: Floats

    def read_rows(self, slots: Integers, count: int) -> Floats:
        return self.values[slots]

    def nbytes(self) -> int:
        return self.values.nbytes


Store = Constants | Deltas | Plain
_AddStore = Callable[[Integers, Store], None]


class Block:
    """Consecutive rows of one group, time x columns; read-only."""

    __slots__ = ("_holed_columns", "_kinds", "_offsets", "_slots", "_states", "_stores", "base_ms")

    def __init__(self, times: Times, values: Floats, states: States) -> None:
        """Compresses `times` [rows] in ms, and `values` and `states` [columns, rows]."""
        self.base_ms = int(times[0])
        self._offsets = times - self.base_ms
        if self._offsets[-1] < 1 << 31:
            self._offsets = self._offsets.astype(np.int32)
        self._kinds, self._slots, self._stores = _compress_columns(values)
        holed_columns = np.flatnonzero((states != VALUE).any(axis=1))
        self._holed_columns: Integers = holed_columns
        self._states: States = states[holed_columns]

    @property
    def first_ms(self) -> int:
        """The time of the oldest row."""
        return self.base_ms

    @property
    def last_ms(self) -> int:
        """The time of the newest row."""
        return self.base_ms + int(self._offsets[-1])

    @property
    def row_count(self) -> int:
        """The number of rows."""
        return len(self._offsets)

    def shift(self, delta_ms: int) -> Block:
        """Returns the same rows at other times; the block does not change, because a snapshot may hold it."""
        shifted = copy.copy(self)
        shifted.base_ms += delta_ms
        return shifted

    def times(self) -> Times:
        """Returns the times of the rows, in ms."""
        return self._offsets.astype(np.int64) + self.base_ms

    def read(self, columns: Integers) -> tuple[Floats, States]:
        """Returns values and states [columns, rows]; columns added after the block was sealed are absent."""
        count = len(self._offsets)
        values = np.zeros((len(columns), count))
        states = np.full((len(columns), count), ABSENT, np.uint8)
        existing = columns < len(self._kinds)
        states[existing] = VALUE
        kinds = np.full(len(columns), 255, np.uint8)
        kinds[existing] = self._kinds[columns[existing]]
        for kind, store in enumerate(self._stores):
            selected = np.flatnonzero(kinds == kind)
            if len(selected):
                values[selected] = store.read_rows(self._slots[columns[selected]].astype(np.intp), count)
        self._write_holes(columns, states)
        return values, states

    def _write_holes(self, columns: Integers, states: States) -> None:
        if len(self._holed_columns):
            positions = np.minimum(np.searchsorted(self._holed_columns, columns), len(self._holed_columns) - 1)
            has_holes = self._holed_columns[positions] == columns
            states[has_holes] = self._states[positions[has_holes]]

    def nbytes(self) -> int:
        """Returns the size of the block's arrays."""
        array_bytes = (
            self._offsets.nbytes
            + self._kinds.nbytes
            + self._slots.nbytes
            + self._holed_columns.nbytes
            + self._states.nbytes
        )
        return array_bytes + sum(store.nbytes() for store in self._stores)


def _compress_columns(values: Floats) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], tuple[Store, ...]]:
    columns = len(values)
    kinds = np.empty(columns, np.uint8)
    slots = np.empty(columns, np.int32)
    stores: list[Store] = []

    def add_store(indexes: Integers, store: Store) -> None:
        kinds[indexes] = len(stores)
        slots[indexes] = np.arange(len(indexes))
        stores.append(store)

    values = np.ascontiguousarray(values)
    bits = values.view(np.int64)
    constant = (bits == bits[:, :1]).all(axis=1)
    if constant.any():
        add_store(np.flatnonzero(constant), Constants(values[constant, 0]))
    remaining = np.flatnonzero(~constant)
    for scale in SCALES:
        remaining = _store_deltas(values, remaining, scale, add_store)
    if len(remaining):
        add_store(remaining, Plain(values[remaining]))
    return kinds, slots, tuple(stores)


def _store_deltas(values: Floats, remaining: Integers, scale: float, add_store: _AddStore) -> Integers:
    # The first row excludes most columns cheaply; only the others are checked completely.
    candidates = remaining[_is_exact(np.ascontiguousarray(values[remaining, :1]), scale)]
    candidates = candidates[_is_exact(values[candidates], scale)]
    if not len(candidates):
        return remaining
    integers = np.rint(values[candidates] * scale).astype(np.int64)
    differences = np.diff(integers, axis=1)
    largest = np.abs(differences).max(axis=1)
    stored = np.zeros(len(candidates), bool)
    for width in _WIDTHS:
        fits = ~stored & (largest <= np.iinfo(width).max)
        if fits.any():
            add_store(candidates[fits], Deltas(scale, integers[fits, 0], differences[fits].astype(width)))
            stored |= fits
    return np.setdiff1d(remaining, candidates[stored], assume_unique=True)


def _is_exact(values: Floats, scale: float) -> npt.NDArray[np.bool_]:
    with np.errstate(invalid="ignore", over="ignore"):
        integers = np.rint(values * scale)
        exact = np.abs(integers) < _MAX_EXACT
        # Through an integer and back, which distinguishes -0.0 and the payloads of NaN.
        restored = np.where(exact, integers, 0.0).astype(np.int64) / scale
    matches: npt.NDArray[np.bool_] = (exact & (restored.view(np.int64) == values.view(np.int64))).all(axis=1)
    return matches
