"""Detects that a file was written, replaced, or given other permissions, without reading it."""

from __future__ import annotations

import os

FileStamp = tuple[int, ...]
"""Differs after a file was written, replaced, or given other permissions; empty where there is no file."""


def read_file_stamp(path: str | os.PathLike[str]) -> FileStamp:
    """Returns the times (ns) at which the content and the inode of the file changed, its size and its inode."""
    try:
        status = os.stat(path)
    except OSError:
        return ()  # missing, or not readable by this user: reading it raises the error
    return (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
