"""
The rows of one sampling group: one time for each pass, one column for each series.

The newest rows are plain, [column, row], so that a window over time is contiguous; older rows are sealed into blocks.
Before a cell without a value there is always a stale mark or another such cell, so the last row alone shows which
series live.
"""

from __future__ import annotations

import copy
from collections import deque
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from collectors import Labels, Metric
from rules.history.blocks import ABSENT, STALE, VALUE, Block, Floats, Integers, States, Times

SEAL_ROWS = 128
"""Rows in a sealed block."""

HEAD_ROWS = 900 + SEAL_ROWS
"""The most plain rows: rules over 15 minutes at one second never unseal a block."""

NEVER_MS = -(1 << 62)
ALIVE_MS = 1 << 62
_FIRST_ROWS = 16
_SLIDE_COLUMNS = 128  # columns moved at a time, so that sliding needs no second copy of the head

Columns = Integers | slice


class RowSpan(NamedTuple):
    """Consecutive rows of chosen columns; `states` is None if every cell has a value."""

    times: Times
    values: Floats
    states: States | None


class SampleGroup:
    """One sampling group: its columns, its plain head and its sealed blocks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.silent = False
        self.last_ms = NEVER_MS
        self.metrics: list[Metric | None] = []
        self.labels: list[Labels] = []
        self.blocks: deque[Block] = deque()
        self.ended_ms = np.empty(0, np.int64)  # when the column's series ended; ALIVE_MS while it lives
        self.hole_ms = np.empty(0, np.int64)  # the newest row in which the column had no value
        self._free_slots: list[int] = []
        self._times = np.empty(_FIRST_ROWS, np.int64)
        self._values = np.zeros((0, _FIRST_ROWS))
        self._states = np.zeros((0, _FIRST_ROWS), np.uint8)
        self._first = self._end = 0
        self._shared = False

    def freeze(self) -> SampleGroup:
        """
        Returns the group as it is now, for another thread to read; the rows are not copied.

        Later rows are only appended behind the frozen ones; a change or move of rows first makes new arrays.
        """
        frozen = copy.copy(self)
        frozen.blocks, frozen.metrics, frozen.labels = self.blocks.copy(), self.metrics.copy(), self.labels.copy()
        frozen.ended_ms, frozen.hole_ms = self.ended_ms.copy(), self.hole_ms.copy()
        self._shared = True
        return frozen

    @property
    def width(self) -> int:
        """The number of columns, including free ones."""
        return len(self.metrics)

    def get_last_states(self) -> States:
        """Returns the state of each column in the newest row."""
        if self._end == self._first:
            return np.zeros(self.width, np.uint8)
        return self._states[: self.width, self._end - 1]

    def get_last_values(self) -> Floats:
        """Returns the value of each column in the newest row; meaningless for a column without one."""
        if self._end == self._first:
            return np.zeros(self.width)
        return self._values[: self.width, self._end - 1]

    def add_columns(self, keys: list[tuple[Metric, Labels]]) -> list[int]:
        """Returns a column for each new series, first from the slots of series long gone."""
        slots = []
        missing = len(keys) - len(self._free_slots)
        if missing > 0:
            self._widen(missing)
        for metric, labels in keys:
            slot = self._free_slots.pop()
            self.metrics[slot], self.labels[slot] = metric, labels
            self.ended_ms[slot], self.hole_ms[slot] = ALIVE_MS, self.last_ms
            slots.append(slot)
        return slots

    def _widen(self, count: int) -> None:
        old_width, new_width = self.width, self.width + count
        self.metrics.extend([None] * count)
        self.labels.extend([()] * count)
        self.ended_ms = np.concatenate([self.ended_ms, np.full(count, NEVER_MS)])
        self.hole_ms = np.concatenate([self.hole_ms, np.full(count, NEVER_MS)])
        self._free_slots.extend(range(new_width - 1, old_width - 1, -1))
        if new_width > len(self._values):
            self._reshape(
                new_width if not old_width else max(new_width, old_width + old_width // 8 + 8), self._values.shape[1]
            )

    def _reshape(self, columns: int, rows: int) -> None:
        used, width = slice(self._first, self._end), min(len(self._values), columns)
        count = self._end - self._first
        times, values, states = np.empty(rows, np.int64), np.zeros((columns, rows)), np.zeros((columns, rows), np.uint8)
        times[:count] = self._times[used]
        values[:width, :count] = self._values[:width, used]
        states[:width, :count] = self._states[:width, used]
        self._times, self._values, self._states = times, values, states
        self._first, self._end = 0, count
        self._shared = False

    def append(self, at_ms: int, columns: Integers, numbers: Floats) -> None:
        """Appends a row: `numbers` in `columns`, and a stale mark in every other column that was alive."""
        self._make_room()
        row, width = self._end, self.width
        previous = self.get_last_states()
        states = self._states[:width, row]
        # A cell without a value repeats the previous one, so that sealing finds nothing to store.
        self._values[:width, row] = self.get_last_values()
        self._values[columns, row] = numbers
        states[:] = ABSENT
        states[columns] = VALUE
        states[(previous == VALUE) & (states == ABSENT)] = STALE
        self._end_row(at_ms, states)

    def _end_row(self, at_ms: int, states: States) -> None:
        ended = states == STALE
        if ended.any():
            self.ended_ms[ended] = at_ms
        alive = states == VALUE
        if not alive.all():
            self.hole_ms[~alive] = at_ms
        self.ended_ms[alive] = ALIVE_MS
        self._times[self._end] = self.last_ms = at_ms
        self._end += 1

    def _make_room(self) -> None:
        capacity = self._values.shape[1]
        if self._end < capacity:
            return
        if 4 * self._first < capacity:
            if capacity < HEAD_ROWS:
                self._reshape(len(self._values), min(2 * capacity, HEAD_ROWS))
                return
            self._seal()
        self._slide()

    def _seal(self) -> None:
        rows, width = slice(self._first, self._first + SEAL_ROWS), self.width
        self.blocks.append(Block(self._times[rows], self._values[:width, rows], self._states[:width, rows]))
        self._first += SEAL_ROWS

    def _slide(self) -> None:
        if self._shared:
            self._reshape(*self._values.shape)
            return
        used, count = slice(self._first, self._end), self._end - self._first
        self._times[:count] = self._times[used].copy()
        for first in range(0, self.width, _SLIDE_COLUMNS):
            chunk = slice(first, first + _SLIDE_COLUMNS)
            self._values[chunk, :count] = self._values[chunk, used].copy()
            self._states[chunk, :count] = self._states[chunk, used].copy()
        self._first, self._end = 0, count

    def shift(self, delta_ms: int) -> None:
        """Moves every stored time with the wall clock."""
        self._times = self._times + delta_ms
        self.ended_ms[np.abs(self.ended_ms) < ALIVE_MS] += delta_ms
        self.hole_ms[np.abs(self.hole_ms) < ALIVE_MS] += delta_ms
        self.blocks = deque(block.shift(delta_ms) for block in self.blocks)
        if self.last_ms != NEVER_MS:
            self.last_ms += delta_ms

    def forget(self, horizon_ms: int) -> list[int]:
        """Drops rows older than the horizon, blocks only as a whole; returns the columns that have nothing left."""
        while self.blocks and self.blocks[0].last_ms < horizon_ms:
            self.blocks.popleft()
        if not self.blocks:
            times = self._times[self._first : self._end]
            self._first += int(np.searchsorted(times, horizon_ms))
        expired = np.flatnonzero((self.ended_ms <= self.get_oldest_ms(horizon_ms)) & (self.ended_ms != NEVER_MS))
        return [int(slot) for slot in expired]

    def get_oldest_ms(self, horizon_ms: int = NEVER_MS) -> int:
        """Returns the time of the oldest row, or the horizon if there is none."""
        if self.blocks:
            return self.blocks[0].first_ms
        return int(self._times[self._first]) if self._end > self._first else horizon_ms

    def free_slot(self, slot: int) -> None:
        """Frees the slot of a series that has nothing left."""
        self.metrics[slot], self.labels[slot] = None, ()
        self.ended_ms[slot] = NEVER_MS
        self._free_slots.append(slot)

    def get_head_times(self) -> Times:
        """Returns the times of the plain rows, as a view."""
        return self._times[self._first : self._end]

    def read_row(self, columns: Columns, index: int) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Returns one plain row: its values, and which columns have one."""
        position = self._first + index
        return self._values[columns, position], self._states[columns, position] == VALUE

    def count_rows(self, after_ms: int, until_ms: int) -> int:
        """Returns how many rows `read_span` would read."""
        low, high = self.get_head_times().searchsorted((after_ms, until_ms), "right")
        sealed = (block.row_count for block in self.blocks if block.last_ms > after_ms and block.first_ms <= until_ms)
        return int(high - low) + sum(sealed)

    def read_span(self, columns: Columns, after_ms: int, until_ms: int) -> RowSpan:
        """
        Returns the rows with after < time <= until; a view if they are all in the head and the columns are a slice.
        """
        head_times = self.get_head_times()
        low, high = head_times.searchsorted((after_ms, until_ms), "right")
        rows = slice(self._first + int(low), self._first + int(high))
        times, values = self._times[rows], self._values[columns, rows]
        if not self.blocks or after_ms >= self.blocks[-1].last_ms:
            complete = not len(times) or self._find_newest_hole(columns) < times[0]
            return RowSpan(times, values, None if complete else self._states[columns, rows])
        return self._read_blocks(columns, after_ms, until_ms, RowSpan(times, values, self._states[columns, rows]))

    def _find_newest_hole(self, columns: Columns) -> int:
        return int(self.hole_ms[columns].max(initial=NEVER_MS))

    def _read_blocks(self, columns: Columns, after_ms: int, until_ms: int, head: RowSpan) -> RowSpan:
        chosen = np.arange(self.width)[columns]
        parts = [
            _read_block(block, chosen, after_ms, until_ms)
            for block in self.blocks
            if block.last_ms > after_ms and block.first_ms <= until_ms
        ]
        parts.append(head)
        states = np.concatenate([part.states for part in parts if part.states is not None], axis=1)
        times = np.concatenate([part.times for part in parts])
        values = np.concatenate([part.values for part in parts], axis=1)
        return RowSpan(times, values, None if (states == VALUE).all() else states)

    def nbytes(self) -> int:
        """Returns the size of the arrays, including unused capacity."""
        head = self._times.nbytes + self._values.nbytes + self._states.nbytes + 2 * self.ended_ms.nbytes
        return head + sum(block.nbytes() for block in self.blocks)


def _read_block(block: Block, columns: Integers, after_ms: int, until_ms: int) -> RowSpan:
    times = block.times()
    low, high = np.searchsorted(times, (after_ms, until_ms), "right")
    values, states = block.read(columns)
    return RowSpan(times[low:high], values[:, low:high], states[:, low:high])
