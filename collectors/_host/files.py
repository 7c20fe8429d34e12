"""Reads a whole file, up to a maximum size, decodes its text, and tells an absent file from a failing one."""

from __future__ import annotations

import errno
import os
import string
from collections.abc import Callable

MAX_BYTES = 4 << 20  # bytes; /proc/vmstat has 4 KiB, an exposition of 5,000 series 400 KiB
PAGE = 4096  # bytes; one read of a file in /sys that returns fewer has returned the whole file
CHUNK = 1 << 16  # bytes requested from one read(2); a sysfs attribute has at most one page
ABSENT_ERRNOS = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ESRCH,  # a process that has ended
        errno.ENODEV,  # the file outlives its device, or its driver finds no hardware
        errno.ENXIO,
        errno.EOPNOTSUPP,  # the feature is switched off, as PSI is on RHEL 8 without psi=1: node_exporter#1961
        errno.ENOTTY,  # the device does not have this ioctl
        errno.ENOSYS,
    }
)
"""
The errors that mean "this machine does not have it", a state and no failure.

EINVAL, ENODATA, EIO, EBUSY and EAGAIN are none of them: drivers also give these for readings that will come back.
"""
_BLANK = string.whitespace + "\0"
_CONTROLS = frozenset(map(chr, range(32))) - frozenset(string.whitespace)


def means_absent(error: OSError) -> bool:
    """Returns True where an error means that the machine does not have the file, its device or its feature."""
    return error.errno in ABSENT_ERRNOS


def read_all(path: str, whole_below: int, largest: int = MAX_BYTES, on_progress: Callable[[], object] = int) -> bytes:
    """
    Returns the file's bytes. One read of fewer than `whole_below` bytes counts as the whole file. Raises OSError.

    Calls `on_progress` after each system call that has returned.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts, size = [], 0
        # seq_files in /proc may return short reads before their end, so only an empty read ends the loop.
        while part := os.read(descriptor, CHUNK):
            on_progress()
            parts.append(part)
            size += len(part)
            if size < whole_below:
                return part
            if size > largest:
                raise OSError(0, f"larger than {largest >> 20} MiB")
    finally:
        os.close(descriptor)
    return b"".join(parts)


def decode_text(raw: bytes) -> tuple[str, str]:
    """
    Returns the text without surrounding white space and NULs, and what is wrong with it, if anything.

    One line that is not text hides no other line. Bytes that are not UTF-8 become U+FFFD, since the path of a mapping
    or a process's name may hold any bytes; beside them a line with control characters is binary, and left out.
    Linux 5.15 ended the lists of CPUs with a NUL: https://github.com/cilium/cilium/issues/17394
    """
    try:
        return raw.decode("utf-8").strip(_BLANK), ""
    except UnicodeDecodeError:
        lines = raw.decode("utf-8", "replace").strip(_BLANK).split("\n")
    whole = [line for line in lines if _CONTROLS.isdisjoint(line)]
    damaged = len(lines) - sum("\ufffd" not in line for line in whole)
    return "\n".join(whole).strip(_BLANK), f"not text in {damaged} of {len(lines)} lines"
