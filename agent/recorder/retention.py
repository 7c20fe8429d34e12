"""Writes the flight recorder's folder: rotates and thins out segments, bounds their size, and survives a full disk."""

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

from agent.recorder.format import pack_clock_shift, pack_thinned_marker
from agent.recorder.reader import (
    FULL,
    THIN,
    Segment,
    Survey,
    find_newest_ms,
    list_segment_files,
    read_rows,
    read_rows_since,
    sum_clock_shifts,
    survey_folder,
)
from agent.recorder.segment_writer import SegmentWriter
from rules.history.rows import Rows

_MINUTE = 60_000
_HOUR = 60 * _MINUTE
_SEGMENT_SHARE = 8  # a segment has at most 1/8 of all bytes, so that dropping one keeps the others


class RetentionLimits(NamedTuple):
    """The bounds of a recording; times in ms."""

    full: int = 15 * _MINUTE
    thin: int = 24 * _HOUR
    thin_every: int = 15_000
    flush: int = 5_000
    sync: int = 30_000
    full_segment: int = 5 * _MINUTE
    thin_segment: int = 2 * _HOUR
    max_bytes: int = 128 << 20
    """The size of the folder, except for the bytes that one flush adds."""
    backlog: int = 3 * _MINUTE
    """The reach into the past of a flush that had to wait for the previous one."""


class SegmentStore:
    """The closed and open segments; once recording has begun, only the writing thread uses them."""

    def __init__(self, folder: Path, limits: RetentionLimits) -> None:
        self.folder = folder
        self.limits = limits
        self.pending_shifts: list[int] = []
        self._failure = _WriteFailure(folder)
        self._last_slots: dict[str, int] = {}
        self._synced_ms = 0
        self.closed_segments: list[Segment] = []
        self.full_writer, self.thin_writer = SegmentWriter(folder, FULL, 1), SegmentWriter(folder, THIN, 1)
        self._is_surveyed = False
        self._try(self._survey, 0)

    def _survey(self) -> None:
        """Finds the segments of earlier processes. Nothing is written before: it might replace one of them."""
        if self._is_surveyed:
            return
        files: list[tuple[Path, str, int]] = []
        survey = Survey([], set())
        with contextlib.suppress(FileNotFoundError):  # no folder yet
            files, survey = list_segment_files(self.folder), survey_folder(self.folder)
        self.closed_segments = survey.segments
        for path in {path for path, _, _ in files} - {segment.path for segment in self.closed_segments}:
            _delete(path)
        # The number of a full segment that was thinned out must not be used again.
        self.full_writer.number = _next_number((n for _, kind, n in files if kind == FULL), survey.thinned)
        self.thin_writer.number = _next_number((n for _, kind, n in files if kind == THIN), ())
        self._is_surveyed = True

    def find_newest_ms(self) -> int | None:
        """Returns the time of the newest row of the closed segments."""
        return find_newest_ms(self.closed_segments)

    def read_rows_since(self, since_ms: int) -> Iterator[Rows]:
        """Yields the rows of the closed segments after `since_ms`."""
        return read_rows_since(self.closed_segments, since_ms)

    @property
    def size(self) -> int:
        """The bytes on disk."""
        return self.full_writer.size + self.thin_writer.size + sum(segment.size for segment in self.closed_segments)

    def write(self, clock_shifts: list[int], blocks: list[Rows], now_ms: int) -> None:
        """Writes clock shifts, then rows. Rows that cannot be written are lost; shifts are tried again."""
        self.pending_shifts += clock_shifts
        if not self._try(self._survey, sum(len(rows.times) for rows in blocks)):
            return
        is_written = self._try(lambda: self._write_blocks(blocks), sum(len(rows.times) for rows in blocks))
        # Also after a failed write: dropping old segments frees space.
        if self._try(lambda: self._apply_retention(now_ms), 0) and is_written:
            self._failure.clear()

    def _try(self, write: Callable[[], None], rows: int) -> bool:
        try:
            write()
        except OSError as error:
            self._failure.report(error, rows)
            return False
        return True

    def _write_blocks(self, blocks: list[Rows]) -> None:
        while self.pending_shifts:
            self.full_writer.write((), before=[pack_clock_shift(self.pending_shifts[0])])
            self._shift(self.pending_shifts.pop(0))
        if blocks:
            self.full_writer.write(blocks)

    def _shift(self, delta_ms: int) -> None:
        self.full_writer.shift(delta_ms)
        self.thin_writer.shift(delta_ms)
        self.closed_segments = [_shift_segment(segment, delta_ms) for segment in self.closed_segments]
        self._synced_ms += delta_ms

    def _apply_retention(self, now_ms: int) -> None:
        self._enforce_size_limit()
        for segment in self._find_expired(THIN, now_ms - self.limits.thin):
            self._drop_segment(segment)
        self._rotate(self.full_writer, FULL, now_ms - self.limits.full_segment)
        if now_ms - self._synced_ms >= self.limits.sync:
            self._synced_ms = now_ms
            self.full_writer.sync()
        for segment in self._find_expired(FULL, now_ms - self.limits.full):
            self._thin_segment(segment)
        self._rotate(self.thin_writer, THIN, now_ms - self.limits.thin_segment)

    def _enforce_size_limit(self) -> None:
        while self.size > self.limits.max_bytes and self.closed_segments:
            # Not the first of the list: a thin segment, however new, is older than every full one.
            self._drop_segment(min(self.closed_segments, key=lambda segment: (segment.kind == FULL, segment.number)))

    def _find_expired(self, kind: str, horizon_ms: int) -> list[Segment]:
        return [
            segment
            for segment in self.closed_segments
            if segment.kind == kind and (segment.last_ms is None or segment.last_ms <= horizon_ms)
        ]

    def _rotate(self, writer: SegmentWriter, kind: str, started_before_ms: int) -> None:
        is_old = writer.first_ms is not None and writer.first_ms <= started_before_ms
        if is_old or writer.size > self.limits.max_bytes // _SEGMENT_SHARE:
            self._close_segment(writer, kind)

    def _close_segment(self, writer: SegmentWriter, kind: str) -> None:
        last_ms = None if writer.first_ms is None else writer.last_ms
        self.closed_segments.append(Segment(writer.path, kind, writer.number, writer.size, writer.first_ms, last_ms, 0))
        writer.close()

    def _thin_segment(self, segment: Segment) -> None:
        """Writes one row per `thin_every`, and deletes the full segment once the thin one is on disk."""
        blocks, shift_ms = self._thin_rows(segment), sum_clock_shifts(segment)
        before = [pack_clock_shift(shift_ms)] if shift_ms else []
        self.thin_writer.write(blocks, before=before, after=[pack_thinned_marker(segment.number)])
        self.thin_writer.sync()
        self._drop_segment(segment)

    def _thin_rows(self, segment: Segment) -> list[Rows]:
        rows_by_group: dict[str, list[Rows]] = {}
        for rows in read_rows(segment):
            selected = rows.select_rows(self._select_rows(rows))
            if len(selected.times):
                rows_by_group.setdefault(rows.heading.group, []).append(selected)
        return [rows for blocks in rows_by_group.values() for rows in _join_blocks(blocks)]

    def _select_rows(self, rows: Rows) -> npt.NDArray[np.intp]:
        slots = rows.times // self.limits.thin_every
        previous_slots = np.concatenate(([self._last_slots.get(rows.heading.group, -1)], slots[:-1]))
        self._last_slots[rows.heading.group] = int(slots[-1])
        # The row in which every series ends is always kept; without it a silence would look like readings.
        ends = np.zeros(len(slots), bool) if rows.present is None else ~rows.present.any(axis=0)
        return np.flatnonzero((slots != previous_slots) | ends)

    def _drop_segment(self, segment: Segment) -> None:
        self.closed_segments.remove(segment)
        _delete(segment.path)

    def close(self) -> None:
        """Closes the open segments."""
        for writer in (self.full_writer, self.thin_writer):
            with contextlib.suppress(OSError):  # the agent is ending, and the failure was logged
                writer.close()


class _WriteFailure:
    """Logs when writing begins to fail, and when it works again."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._is_reported = False
        self._lost_rows = 0

    def report(self, error: OSError, rows: int) -> None:
        self._lost_rows += rows
        if not self._is_reported:
            hint = "free its disk, or set state.dir to another folder; recording resumes by itself when it can"
            structlog.get_logger().warning("recording stopped", folder=self._folder, reason=error.strerror, hint=hint)
        self._is_reported = True

    def clear(self) -> None:
        if self._is_reported:
            structlog.get_logger().info("recording resumed", folder=self._folder, lost_rows=self._lost_rows)
        self._is_reported, self._lost_rows = False, 0


def _join_blocks(blocks: list[Rows]) -> Iterator[Rows]:
    """Joins adjacent blocks of one group that have the same heading."""
    for _, group_blocks in groupby(blocks, lambda rows: rows.heading):
        yield _concatenate(list(group_blocks))


def _concatenate(blocks: list[Rows]) -> Rows:
    times = np.concatenate([rows.times for rows in blocks])
    values = np.concatenate([rows.values for rows in blocks], axis=1)
    if all(rows.present is None for rows in blocks):
        return Rows(blocks[0].heading, times, values, None)
    present = [np.ones(rows.values.shape, bool) if rows.present is None else rows.present for rows in blocks]
    return Rows(blocks[0].heading, times, values, np.concatenate(present, axis=1))


def _shift_segment(segment: Segment, delta_ms: int) -> Segment:
    if segment.first_ms is None or segment.last_ms is None:
        return segment
    return segment._replace(first_ms=segment.first_ms + delta_ms, last_ms=segment.last_ms + delta_ms)


def _next_number(*numbers: Iterable[int]) -> int:
    return max(chain.from_iterable(numbers), default=0) + 1


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # already deleted, or not deletable: then its bytes are not counted
        os.unlink(path)
