"""
Reads the kernel's log, /dev/kmsg: a stream of records, one for each read(2).

Under a root that is not `/` the log is a plain file with the same records.
https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from collectors._host.files import means_absent
from collectors._host.host import Host

PATH = "dev/kmsg"
_MAX_RECORD_BYTES = 8192  # bytes; read(2) with a buffer shorter than the record fails with EINVAL
_MAX_RECORDS = 200_000  # records in one pass; a ring of 16 MiB, the largest usual one, holds fewer
_RECORD = re.compile(r"(\d{1,5}),(\d{1,20}),(\d{1,20}),[^;]*;(.*)", re.ASCII | re.DOTALL)
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


class KernelRecord(NamedTuple):
    """One message; `microseconds` counts from boot, `facility` 0 is the kernel itself."""

    facility: int
    sequence: int
    microseconds: int
    text: str


class LogBatch(NamedTuple):
    """New records of the log; `is_backlog` marks those older than the first pass."""

    records: list[KernelRecord]
    is_backlog: bool


class Cursor:
    """The position in the log; closes its descriptor when it is deleted."""

    def __init__(self) -> None:
        self.descriptor: int | None = None
        self.sequence = -1

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)


def parse_record(text: str) -> KernelRecord | None:
    """Parses one record without its continuation lines (` KEY=value`); None where the text is no record."""
    match = _RECORD.fullmatch(text.split("\n", 1)[0])
    if match is None:
        return None
    message = _ESCAPED.sub(lambda escaped: chr(int(escaped[1], 16)), match[4])
    return KernelRecord(int(match[1]) >> 3, int(match[2]), int(match[3]), message)


def read_new(host: Host, cursor: Cursor) -> LogBatch | None:
    """Returns the records since the last call; None, with a note, where the log cannot be read."""
    if not host.live:
        return _read_new_from_file(host, cursor)
    is_backlog = cursor.descriptor is None
    if not _open_log(host, cursor) or cursor.descriptor is None:
        return None
    descriptor = cursor.descriptor
    raw = read_records(lambda: os.read(descriptor, _MAX_RECORD_BYTES), host)
    return LogBatch(_parse_new((text.decode("utf-8", "replace") for text in raw), cursor), is_backlog)


def _open_log(host: Host, cursor: Cursor) -> bool:
    if cursor.descriptor is not None:
        return True
    try:
        cursor.descriptor = os.open(host.path(PATH), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        # A container may have no log of its own. EPERM: kernel.dmesg_restrict=1 asks for CAP_SYSLOG.
        if not means_absent(error):
            host.note_error(PATH, error)
        return False
    return True


def read_records(read: Callable[[], bytes], host: Host) -> Iterator[bytes]:
    """Yields every record that `read` has now; notes where the log was overwritten meanwhile, and continues."""
    for _ in range(_MAX_RECORDS):
        try:
            record = read()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EPIPE:
                host.note(PATH, error.strerror or str(error))
                return
            host.note(PATH, "records were overwritten before they were read")
            continue  # the kernel continues with the oldest record left
        if not record:
            return
        yield record


def _read_new_from_file(host: Host, cursor: Cursor) -> LogBatch | None:
    text = host.read(PATH, optional=True)
    if text is None:
        return None
    lines = [line for line in text.splitlines() if not line.startswith(" ")]
    if not any(map(parse_record, lines)):
        host.note(PATH, f"expected records such as 6,339,5140900,-;text, found {text[:40]!r}")
        return None
    return LogBatch(_parse_new(iter(lines), cursor), is_backlog=False)


def _parse_new(texts: Iterator[str], cursor: Cursor) -> list[KernelRecord]:
    records = []
    for record in map(parse_record, texts):
        if record is not None and record.sequence > cursor.sequence:
            cursor.sequence = record.sequence
            records.append(record)
    return records
