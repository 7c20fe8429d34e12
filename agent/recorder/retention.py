"""The flight recorder's folder while it is written: what is kept how long, and what happens when the disk is full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import structlog

from agent.recorder.format import packed_done, packed_step
from agent.recorder.reader import (
    FULL,
    THIN,
    Segment,
    Survey,
    listed,
    newest_ms,
    rows_of,
    rows_since,
    steps_in,
    surveyed,
)
from agent.recorder.segment_writer import Tape
from rules.history.rows import Rows

_MINUTE = 60_000
_HOUR = 60 * _MINUTE
_SHARE = 8  # a segment has at most this part of all bytes, so that dropping one does not drop everything


class Limits(NamedTuple):
    """How much is kept, and how often it is written; times in ms."""

    full: int = 15 * _MINUTE
    thin: int = 24 * _HOUR
    thin_every: int = 15_000
    flush: int = 5_000
    sync: int = 30_000
    full_segment: int = 5 * _MINUTE
    thin_segment: int = 2 * _HOUR
    most_bytes: int = 128 << 20
    """Of the whole folder, but for what one flush adds."""
    backlog: int = 3 * _MINUTE
    """How far back a flush goes that had to wait for the one before."""


class Store:
    """Segments, closed and open; once recording has begun, used by the writing thread only."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self.steps: list[int] = []
        self._trouble = _Trouble(folder)
        self._thinned: dict[str, int] = {}
        self._synced_ms = 0
        names: list[tuple[Path, str, int]] = []
        survey = Survey([], set())
        with contextlib.suppress(OSError):  # not there yet; what else is wrong shows when writing
            names, survey = listed(folder), surveyed(folder)
        self.closed = survey.segments
        for path in {path for path, _, _ in names} - {segment.path for segment in self.closed}:
            _delete(path)
        # A number that a thin segment says it has taken in must not be given again.
        self.full = Tape(folder, FULL, _next((n for _, kind, n in names if kind == FULL), survey.thinned))
        self.thin = Tape(folder, THIN, _next((n for _, kind, n in names if kind == THIN), ()))

    def newest_ms(self) -> int | None:
        """The time of the newest row of the closed segments."""
        return newest_ms(self.closed)

    def rows_since(self, since_ms: int) -> Iterator[Rows]:
        """The rows of the closed segments after that time."""
        return rows_since(self.closed, since_ms)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.full.size + self.thin.size + sum(segment.size for segment in self.closed)

    def take(self, steps: list[int], blocks: list[Rows], now_ms: int) -> None:
        """Writes steps of the clock, then rows; rows that cannot be written are lost, a step is not."""
        self.steps += steps
        well = self._try(lambda: self._write(blocks), sum(len(rows.times) for rows in blocks))
        # Tended in any case: what has outlived its time makes room.
        if self._try(lambda: self._tend(now_ms), 0) and well:
            self._trouble.end()

    def _try(self, write: Callable[[], None], rows: int) -> bool:
        try:
            write()
        except OSError as error:
            self._trouble.begin(error, rows)
            return False
        return True

    def _write(self, blocks: list[Rows]) -> None:
        while self.steps:
            self.full.write((), before=[packed_step(self.steps[0])])
            self._shift(self.steps.pop(0))
        if blocks:
            self.full.write(blocks)

    def _shift(self, delta_ms: int) -> None:
        self.full.shift(delta_ms)
        self.thin.shift(delta_ms)
        self.closed = [_moved(segment, delta_ms) for segment in self.closed]
        self._synced_ms += delta_ms

    def _tend(self, now_ms: int) -> None:
        self._bound()
        for segment in self._past(THIN, now_ms - self.limits.thin):
            self._forget(segment)
        self._rotate(self.full, FULL, now_ms - self.limits.full_segment)
        if now_ms - self._synced_ms >= self.limits.sync:
            self._synced_ms = now_ms
            self.full.sync()
        for segment in self._past(FULL, now_ms - self.limits.full):
            self._thin_out(segment)
        self._rotate(self.thin, THIN, now_ms - self.limits.thin_segment)

    def _bound(self) -> None:
        while self.size > self.limits.most_bytes and self.closed:
            # Not the first of the list: a thin one, however new, is older than every full one.
            self._forget(min(self.closed, key=lambda segment: (segment.kind == FULL, segment.number)))

    def _past(self, kind: str, horizon_ms: int) -> list[Segment]:
        return [
            segment
            for segment in self.closed
            if segment.kind == kind and (segment.last_ms is None or segment.last_ms <= horizon_ms)
        ]

    def _rotate(self, tape: Tape, kind: str, begun_by_ms: int) -> None:
        old = tape.first_ms is not None and tape.first_ms <= begun_by_ms
        if old or tape.size > self.limits.most_bytes // _SHARE:
            self._close(tape, kind)

    def _close(self, tape: Tape, kind: str) -> None:
        last_ms = None if tape.first_ms is None else tape.last_ms
        self.closed.append(Segment(tape.path, kind, tape.number, tape.size, tape.first_ms, last_ms, 0))
        tape.end()

    def _thin_out(self, segment: Segment) -> None:
        """Keeps a row in so many seconds; the full segment goes only when the thin one is on the disk."""
        blocks, stepped = self._thinned_rows(segment), steps_in(segment)
        before = [packed_step(stepped)] if stepped else []
        self.thin.write(blocks, before=before, behind=[packed_done(segment.number)])
        self.thin.sync()
        self._forget(segment)

    def _thinned_rows(self, segment: Segment) -> list[Rows]:
        kept: dict[str, list[Rows]] = {}
        for rows in rows_of(segment):
            few = rows.chosen(self._chosen(rows))
            if len(few.times):
                kept.setdefault(rows.heading.group, []).append(few)
        return [rows for blocks in kept.values() for rows in _joined(blocks)]

    def _chosen(self, rows: Rows) -> npt.NDArray[np.intp]:
        slots = rows.times // self.limits.thin_every
        before = np.concatenate(([self._thinned.get(rows.heading.group, -1)], slots[:-1]))
        self._thinned[rows.heading.group] = int(slots[-1])
        # The row in which everything ends is always kept, or a silence would look like life.
        ends = np.zeros(len(slots), bool) if rows.present is None else ~rows.present.any(axis=0)
        return np.flatnonzero((slots != before) | ends)

    def _forget(self, segment: Segment) -> None:
        self.closed.remove(segment)
        _delete(segment.path)

    def end(self) -> None:
        """Closes what is open."""
        for tape in (self.full, self.thin):
            with contextlib.suppress(OSError):  # we are leaving, and trouble has been told
                tape.end()


class _Trouble:
    """Tells of the beginning and the end of a trouble, and of nothing between."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._lasts = False
        self._lost = 0

    def begin(self, error: OSError, rows: int) -> None:
        self._lost += rows
        if not self._lasts:
            hint = "free its disk, or set state.dir to another folder; recording goes on by itself when it can"
            structlog.get_logger().warning("recording stopped", folder=self._folder, reason=error.strerror, hint=hint)
        self._lasts = True

    def end(self) -> None:
        if self._lasts:
            structlog.get_logger().info("recording goes on", folder=self._folder, lost_rows=self._lost)
        self._lasts, self._lost = False, 0


def _joined(blocks: list[Rows]) -> Iterator[Rows]:
    """Blocks of one group as few as its headings allow."""
    for _, same in groupby(blocks, lambda rows: rows.heading):
        yield _concatenated(list(same))


def _concatenated(blocks: list[Rows]) -> Rows:
    times = np.concatenate([rows.times for rows in blocks])
    values = np.concatenate([rows.values for rows in blocks], axis=1)
    if all(rows.present is None for rows in blocks):
        return Rows(blocks[0].heading, times, values, None)
    present = [np.ones(rows.values.shape, bool) if rows.present is None else rows.present for rows in blocks]
    return Rows(blocks[0].heading, times, values, np.concatenate(present, axis=1))


def _moved(segment: Segment, delta_ms: int) -> Segment:
    if segment.first_ms is None or segment.last_ms is None:
        return segment
    return segment._replace(first_ms=segment.first_ms + delta_ms, last_ms=segment.last_ms + delta_ms)


def _next(*numbers: Iterable[int]) -> int:
    return max(chain.from_iterable(numbers), default=0) + 1


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone already, or it cannot be: the bytes are counted no more, reading skips it
        os.unlink(path)
