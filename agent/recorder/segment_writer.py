"""Writes segments of the flight recorder: appends, begins new ones, and leaves no torn record where it can help it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from agent.recorder.format import MAGIC, framed, packed_heading, packed_rows
from rules.history.rows import Heading, Rows


class Tape:
    """The open segment of one kind; every call may raise OSError, and what it could not write whole is taken back."""

    def __init__(self, folder: Path, kind: str, number: int) -> None:
        """`number` is of the next segment; its file is made when there is something to write."""
        self.size = 0
        self.number = number
        self.first_ms: int | None = None
        self.last_ms = 0
        self._folder = folder
        self._kind = kind
        self._file: int | None = None
        self._headings: dict[str, tuple[Heading, int]] = {}
        self._named = 0

    @property
    def path(self) -> Path:
        """The file of the segment."""
        return self._folder / f"{self._kind}-{self.number:08d}"

    def write(self, blocks: Sequence[Rows], *, before: Sequence[bytes] = (), behind: Sequence[bytes] = ()) -> None:
        """Appends blocks, and other payloads before and behind them, in one write."""
        known = dict(self._headings)
        payloads = [*before, *(payload for rows in blocks for payload in self._payloads(rows)), *behind]
        try:
            self._append(b"".join(map(framed, payloads)))
        except OSError:
            self._headings = known
            raise
        if blocks:
            first = min(int(rows.times[0]) for rows in blocks)
            self.first_ms = first if self.first_ms is None else self.first_ms
            self.last_ms = max(int(rows.times[-1]) for rows in blocks)

    def _payloads(self, rows: Rows) -> list[bytes]:
        # Compared and not hashed: what did not change is the same objects, and that is seen at a glance.
        heading, number = self._headings.get(rows.heading.group, (None, 0))
        if heading == rows.heading:
            return [packed_rows(number, rows)]
        self._named += 1
        self._headings[rows.heading.group] = rows.heading, self._named
        return [packed_heading(self._named, rows.heading), packed_rows(self._named, rows)]

    def _append(self, data: bytes) -> None:
        file = self._opened()
        data = data if self.size else MAGIC + data
        try:
            _write_all(file, data)
        except OSError:
            self._take_back(file)
            raise
        self.size += len(data)

    def _take_back(self, file: int) -> None:
        try:
            os.ftruncate(file, self.size)
            os.lseek(file, self.size, os.SEEK_SET)
        except OSError:  # then the torn record must be the segment's last, where reading stops
            with contextlib.suppress(OSError):
                self.end()

    def _opened(self) -> int:
        if self._file is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        return self._file

    def sync(self) -> None:
        """Has the disk itself hold what was written."""
        if self._file is not None:
            os.fdatasync(self._file)

    def end(self) -> None:
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
        """The wall clock stepped."""
        self.last_ms += delta_ms
        self.first_ms = None if self.first_ms is None else self.first_ms + delta_ms


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
