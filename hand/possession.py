"""
Makes one hand the only one of its state folder and of its socket, and refuses a folder that others can change.

The leases name files and the values to restore. Whoever can write them, or rename a folder on the way to them, has the
hand write any of these values as root.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from pathlib import Path

from hand.errors import HandError
from hand.leases import FILE_NAME

BACKLOG = 64  # connections that wait to be accepted; beyond, connect(2) fails with EAGAIN
LOCK_NAME = "lock"
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


def take_state_folder(folder: Path) -> int:
    """Creates, checks and locks the state folder; returns the lock's descriptor. Raises HandError and OSError."""
    check_owners(folder)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    check_owners(folder)
    check_owners(folder / FILE_NAME)
    return lock_file(folder / LOCK_NAME, f"another hand runs with the state folder {folder}; end it, or set --state")


def check_owners(folder: Path) -> None:
    """
    Raises HandError when a user other than root and this one can change the folder or a folder on the way to it.

    In a folder such as /tmp everybody may write, but rename only what is their own: it is allowed on the way.
    """
    absolute = Path(os.path.abspath(folder))
    for last in dict.fromkeys((absolute, absolute.resolve())):
        for path in (last, *last.parents):
            if reason := _describe_owner(path, is_last=path == last):
                raise HandError(
                    f"the state {folder} can be changed by others, through {path} ({reason}): the hand would "
                    "restore what they write there; choose a folder that only root can change, all the way from /"
                )


def _describe_owner(path: Path, *, is_last: bool) -> str:
    """Returns owner and mode where others can change the path; empty where they cannot, or where it does not exist."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""  # this hand creates it
    is_sticky = bool(status.st_mode & stat.S_ISVTX) and not is_last
    is_shared = bool(status.st_mode & _OTHERS_MAY_WRITE) and not stat.S_ISLNK(status.st_mode) and not is_sticky
    if status.st_uid in (0, os.geteuid()) and not is_shared:
        return ""
    return f"user {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}"


def lock_file(path: Path, reason: str) -> int:
    """Locks a file until this process ends; raises HandError with the reason when another process has locked it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise HandError(reason) from None
    return descriptor


def create_listener(path: Path) -> socket.socket:
    """
    Creates a socket for the owner and its group, in place of one that nobody listens on any more.

    Raises HandError when a hand, or systemd for it, listens there, and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    refusal = f"another hand listens on {path}; end it, or set --socket"
    lock_file(path.with_name(f"{path.name}.lock"), refusal)
    if path.is_socket() and _is_listening(path):  # systemd's, which holds no lock
        raise HandError(refusal)
    if os.path.lexists(path) and not path.is_socket():
        raise HandError(f"{path} is no socket; remove it, or set --socket")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(BACKLOG)
    return listener


def _is_listening(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as caller:
        caller.setblocking(False)
        return caller.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
