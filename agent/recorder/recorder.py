"""
The flight recorder: writes History to disk, to explain a crash and to restore History after a restart.

It keeps every row of the last 15 minutes, and one row in 15 seconds of the last 24 hours. A thread writes rows every 5
seconds, so a kill -9 loses at most that. It syncs the disk every 30 seconds, so a power cut loses at most 35. A full or
missing disk stops the recording with one log line; the recording resumes by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.recorder.reader import find_newest_ms, read_rows_since, survey_folder
from agent.recorder.retention import RetentionLimits, SegmentStore
from agent.runtime.writer_thread import CLOSE_SECONDS, WriterThread
from rules.history.history import History
from rules.history.rows import Rows

FOLDER = "recorder"

__all__ = ["FOLDER", "Recorder", "ReplayResult", "RetentionLimits", "read_recording"]


class ReplayResult(NamedTuple):
    """The number of rows restored to History, and the time of the newest row."""

    rows: int
    newest_ms: int | None


class Recorder:
    """Records History in one folder of segments."""

    def __init__(self, folder: Path, limits: RetentionLimits | None = None) -> None:
        self.limits = limits or RetentionLimits()
        self._store = SegmentStore(folder, self.limits)
        self._recorded_until: dict[str, int] = {}
        self._pending_shifts: list[int] = []
        self._flushed_ms: int | None = None
        self.writer_thread = WriterThread("the recording")

    def replay(
        self, history: History, now_ms: int, *, collectors: Collection[str], others: Collection[str]
    ) -> ReplayResult:
        """
        Restores the recorded rows that are within History's retention; called before the first tick.

        Restores only the sampling groups named. Their series end with the last row, so that the time without sampling
        is a gap; the groups of `collectors` are silent until they record again.
        """
        newest = self._store.find_newest_ms()
        excess_ms = 0 if newest is None else max(0, newest - now_ms + 1)  # the clock was set back while no agent ran
        if excess_ms:
            self._pending_shifts.append(-excess_ms)
        count, last_by_group = 0, {}
        for rows in self._store.read_rows_since(now_ms + excess_ms - history.retention_ms):
            if rows.heading.group in collectors or rows.heading.group in others:
                rows = rows._replace(times=rows.times - excess_ms)
                count += history.extend(rows)
                last_by_group[rows.heading.group] = int(rows.times[-1])
        for group, last_ms in last_by_group.items():
            if group in collectors:
                history.silence(group, last_ms + 1)
            else:
                history.record(group, last_ms + 1, ())
            self._recorded_until[group] = last_ms + 1
        return ReplayResult(count, None if newest is None else newest - excess_ms)

    def flush_if_due(self, history: History, now_ms: int) -> None:
        """Hands new rows to the writing thread if a flush is due; called after each tick."""
        if self._flushed_ms is None:
            self._flushed_ms = now_ms
        if now_ms - self._flushed_ms >= self.limits.flush and not self.writer_thread.is_busy:
            self._flush(history, now_ms)

    def _flush(self, history: History, now_ms: int) -> None:
        self._flushed_ms = now_ms
        blocks = [
            rows for rows in history.iter_rows(self._recorded_until, now_ms - self.limits.backlog) if rows.values.size
        ]
        self._recorded_until.update((rows.heading.group, int(rows.times[-1])) for rows in blocks)
        clock_shifts, self._pending_shifts = self._pending_shifts, []
        self.writer_thread.submit(lambda: self._store.write(clock_shifts, blocks, now_ms))

    def shift(self, delta_ms: int) -> None:
        """Moves stored times after a shift of the wall clock, and records the shift."""
        self._recorded_until = {group: at_ms + delta_ms for group, at_ms in self._recorded_until.items()}
        self._flushed_ms = None if self._flushed_ms is None else self._flushed_ms + delta_ms
        self._pending_shifts.append(delta_ms)

    def wait(self, seconds: float) -> bool:
        """Waits until the rows of every flush are written; returns False after `seconds` without that."""
        return self.writer_thread.wait(seconds)

    def close(self, history: History, now_ms: int, seconds: float = CLOSE_SECONDS) -> None:
        """Writes the remaining rows; each step waits at most `seconds`."""
        if self.writer_thread.wait(seconds):
            self._flush(history, now_ms)
            if self.writer_thread.wait(seconds):
                self.writer_thread.submit(self._store.close)
        self.writer_thread.close(seconds)


def read_recording(folder: Path, span_ms: int, name: str | None = None) -> Iterator[Rows]:
    """
    Yields the rows of the newest `span_ms` milliseconds in a recorder's folder, oldest first in each group.

    With a name, yields only the sampling groups that have a metric of that name. Raises OSError.
    """
    segments = survey_folder(folder).segments
    end_ms = find_newest_ms(segments)
    if end_ms is None:
        return iter(())
    return read_rows_since(
        segments, end_ms - span_ms, lambda heading: name is None or any(m.name == name for m in heading.metrics)
    )
