"""Writes the segments of the flight recorder, and removes a record that could not be written completely."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from agent.recorder.format import MAGIC, frame_payload, pack_heading, pack_rows
from rules.history.rows import Heading, Rows


class SegmentWriter:
    """The open segment of one kind. Every call may raise OSError; an incomplete write is undone."""

    def __init__(self, folder: Path, kind: str, number: int) -> None:
        """`number` is that of the next segment, whose file is created at the first write."""
        self.size = 0
        self.number = number
        self.first_ms: int | None = None
        self.last_ms = 0
        self._folder = folder
        self._kind = kind
        self._file: int | None = None
        self._headings: dict[str, tuple[Heading, int]] = {}
        self._heading_count = 0

    @property
    def path(self) -> Path:
        """The file of the open segment."""
        return self._folder / f"{self._kind}-{self.number:08d}"

    def write(self, blocks: Sequence[Rows], *, before: Sequence[bytes] = (), after: Sequence[bytes] = ()) -> None:
        """Appends blocks, with other payloads before and after them, in one write."""
        previous_headings = dict(self._headings)
        payloads = [*before, *(payload for rows in blocks for payload in self._pack_block(rows)), *after]
        try:
            self._append(b"".join(map(frame_payload, payloads)))
        except OSError:
            self._headings = previous_headings
            raise
        if blocks:
            first_ms = min(int(rows.times[0]) for rows in blocks)
            self.first_ms = first_ms if self.first_ms is None else self.first_ms
            self.last_ms = max(int(rows.times[-1]) for rows in blocks)

    def _pack_block(self, rows: Rows) -> list[bytes]:
        # Compared, not hashed: an unchanged heading is the same object, which compares at once.
        heading, number = self._headings.get(rows.heading.group, (None, 0))
        if heading == rows.heading:
            return [pack_rows(number, rows)]
        self._heading_count += 1
        self._headings[rows.heading.group] = rows.heading, self._heading_count
        return [pack_heading(self._heading_count, rows.heading), pack_rows(self._heading_count, rows)]

    def _append(self, data: bytes) -> None:
        file = self._open_file()
        data = data if self.size else MAGIC + data
        try:
            _write_all(file, data)
        except OSError:
            self._undo_append(file)
            raise
        self.size += len(data)

    def _undo_append(self, file: int) -> None:
        try:
            os.ftruncate(file, self.size)
            os.lseek(file, self.size, os.SEEK_SET)
        except OSError:  # then the torn record must be the last one, where readers stop
            with contextlib.suppress(OSError):
                self.close()

    def _open_file(self) -> int:
        if self._file is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            # O_EXCL: no segment has this number, so that a file of its name is a stranger's, such as a pipe.
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        return self._file

    def sync(self) -> None:
        """Syncs the written data to the disk."""
        if self._file is not None:
            os.fdatasync(self._file)

    def close(self) -> None:
        """Closes the segment; the next write begins a new one."""
        if self._file is None:
            return
        file, self._file = self._file, None
        self.number += 1
        self.size, self.first_ms = 0, None
        self._headings = {}
        try:
            os.fdatasync(file)
        finally:
            os.close(file)

    def shift(self, delta_ms: int) -> None:
        """Moves the segment's times after a shift of the wall clock."""
        self.last_ms += delta_ms
        self.first_ms = None if self.first_ms is None else self.first_ms + delta_ms


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
