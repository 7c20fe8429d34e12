"""
The flight recorder: what History held, on disk, so that a crash can be explained and a restart goes on where it was.

Every row of the last 15 minutes, and one in 15 seconds of the last 24 hours. Rows are written every 5 seconds by a
thread of their own: that is what a kill -9 costs at most. The disk is made to hold them every 30 seconds, so a host
that loses power loses 35. A disk that is full or gone ends the recording with one log line; it goes on by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.recorder.reader import find_newest_ms, read_rows_since, survey_folder
from agent.recorder.retention import RetentionLimits, SegmentStore
from agent.runtime.writer_thread import WriterThread
from rules.history.history import History
from rules.history.rows import Rows

FOLDER = "recorder"

__all__ = ["FOLDER", "Recorder", "ReplayResult", "RetentionLimits", "read_recording"]


class ReplayResult(NamedTuple):
    """What came back into History."""

    rows: int
    newest_ms: int | None


class Recorder:
    """One folder of segments, and what History held as it was told last."""

    def __init__(self, folder: Path, limits: RetentionLimits | None = None) -> None:
        self.limits = limits or RetentionLimits()
        self._store = SegmentStore(folder, self.limits)
        self._recorded_until: dict[str, int] = {}
        self._pending_shifts: list[int] = []
        self._flushed_ms: int | None = None
        self.writer = WriterThread("the recording")

    def replay(
        self, history: History, now_ms: int, *, collectors: Collection[str], others: Collection[str]
    ) -> ReplayResult:
        """
        Takes what was recorded within History's time back into it; before the first tick.

        Only the sampling groups named are taken. Their series end with the last row, so that the time that nothing was
        sampled is a gap; those of `collectors` are silent until they record again.
        """
        newest = self._store.find_newest_ms()
        excess_ms = 0 if newest is None else max(0, newest - now_ms + 1)  # the clock went back while nobody ran
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
        """After a tick: hands over what is new when it is time to."""
        if self._flushed_ms is None:
            self._flushed_ms = now_ms
        if now_ms - self._flushed_ms >= self.limits.flush and not self.writer.is_busy:
            self._flush(history, now_ms)

    def _flush(self, history: History, now_ms: int) -> None:
        self._flushed_ms = now_ms
        blocks = [
            rows for rows in history.iter_rows(self._recorded_until, now_ms - self.limits.backlog) if rows.values.size
        ]
        self._recorded_until.update((rows.heading.group, int(rows.times[-1])) for rows in blocks)
        clock_shifts, self._pending_shifts = self._pending_shifts, []
        self.writer.submit(lambda: self._store.write(clock_shifts, blocks, now_ms))

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped, and History with it."""
        self._recorded_until = {group: at_ms + delta_ms for group, at_ms in self._recorded_until.items()}
        self._flushed_ms = None if self._flushed_ms is None else self._flushed_ms + delta_ms
        self._pending_shifts.append(delta_ms)

    def wait(self, seconds: float) -> bool:
        """Waits until everything handed over is written."""
        return self.writer.wait(seconds)

    def close(self, history: History, now_ms: int, seconds: float = 2.0) -> None:
        """Writes what is left, and waits so long for that."""
        if self.writer.wait(seconds):
            self._flush(history, now_ms)
            if self.writer.wait(seconds):
                self.writer.submit(self._store.close)
        self.writer.close(seconds)


def read_recording(folder: Path, span_ms: int, name: str | None = None) -> Iterator[Rows]:
    """
    What a recorder's folder holds of its newest `since_ms` milliseconds, oldest first in each group.

    With a name only the sampling groups that have such a metric. OSError where the folder cannot be read.
    """
    segments = survey_folder(folder).segments
    end_ms = find_newest_ms(segments)
    if end_ms is None:
        return iter(())
    return read_rows_since(
        segments, end_ms - span_ms, lambda heading: name is None or any(m.name == name for m in heading.metrics)
    )
