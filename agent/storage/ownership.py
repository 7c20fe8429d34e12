"""
Finds out who else can change a folder, for an agent that acts as root on what its state says.

The hand checks its own folder in the same way (`hand/possession.py`), and imports nothing from here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def find_changeable(folder: Path) -> str:
    """
    Describes the first path, the folder or one above it, that users besides root and this one can change; else "".

    Whoever can rename a folder on the way can put another in its place. In /tmp everybody may write, but rename only
    what is their own: such a folder is allowed on the way.
    """
    absolute = Path(os.path.abspath(folder))
    for last in dict.fromkeys((absolute, absolute.resolve())):
        for path in (last, *last.parents):
            if reason := _describe_owner(path, is_last=path == last):
                return f"{path} ({reason})"
    return ""


def _describe_owner(path: Path, *, is_last: bool) -> str:
    """Returns owner and mode where others can change the path; empty where they cannot, or where it does not exist."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    is_sticky = bool(status.st_mode & stat.S_ISVTX) and not is_last
    is_shared = bool(status.st_mode & _OTHERS_MAY_WRITE) and not stat.S_ISLNK(status.st_mode) and not is_sticky
    if status.st_uid in (0, os.geteuid()) and not is_shared:
        return ""
    return f"user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}"
