"""
Reads the files that people and the agent itself write, at whose path anything may be: a pipe, a device, a folder, a
file without end. Each of those is an error at once; none is waited for.

Files of the kernel have doors of their own, since they have no size and may answer in parts.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time

OPEN_TO_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP
"""Permissions that a file with a secret must not have: its group may read it, as with root:steadytok and mode 640."""

_CHUNK = 1 << 16  # bytes requested from one read(2)
_KINDS = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a disk"))

FilePath = str | os.PathLike[str]


class NotRegularFileError(OSError):
    """At the path is no file that can be read to its end; trying again does not help, unlike with other OSErrors."""


def read_regular_file(path: FilePath, largest: int) -> bytes:
    """Returns the content of a regular file of at most `largest` bytes. Raises OSError for everything else, at once."""
    check_regular_file(path, largest)
    # Between the check and this line the path may have become a pipe, whose opening would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_status(os.fstat(descriptor), path, largest)
        parts, size = [], 0
        while part := os.read(descriptor, _CHUNK):
            size += len(part)
            if size > largest:  # a file that grows, and files of the kernel, which have no size
                raise _build_size_error(path, largest)
            parts.append(part)
    finally:
        os.close(descriptor)
    return b"".join(parts)


def check_regular_file(path: FilePath, largest: int) -> os.stat_result:
    """
    Returns the status of a regular file of at most `largest` bytes, without opening it. Raises OSError.

    For files that a library opens, and before any opening: to open a watchdog or a tape already acts on it.
    """
    return _check_status(os.stat(path), path, largest)


def read_regular_file_or_pipe(path: FilePath, largest: int, seconds: float) -> bytes:
    """Like `read_regular_file`; a pipe, as `<(command)` in a shell is one, is read to its end for so many seconds."""
    if not stat.S_ISFIFO(os.stat(path).st_mode):
        return read_regular_file(path, largest)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _read_pipe(descriptor, path, largest, time.monotonic() + seconds)
    finally:
        os.close(descriptor)


def _read_pipe(descriptor: int, path: FilePath, largest: int, deadline: float) -> bytes:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    parts: list[bytes] = []
    size = 0
    while size <= largest:
        if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise OSError(errno.ETIMEDOUT, "it is a pipe, and nothing has written to it to the end", os.fspath(path))
        part = os.read(descriptor, _CHUNK)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise _build_size_error(path, largest)


def _check_status(status: os.stat_result, path: FilePath, largest: int) -> os.stat_result:
    if stat.S_ISDIR(status.st_mode):
        raise NotRegularFileError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(status.st_mode)), "another kind of file")
        raise NotRegularFileError(errno.EINVAL, f"expected a regular file, found {kind}", os.fspath(path))
    if status.st_size > largest:
        raise _build_size_error(path, largest)
    return status


def _build_size_error(path: FilePath, largest: int) -> NotRegularFileError:
    return NotRegularFileError(errno.EFBIG, f"expected at most {largest} bytes, found more", os.fspath(path))
