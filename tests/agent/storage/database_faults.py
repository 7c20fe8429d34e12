"""
Makes the machine refuse a database for a while, as it really happens, and lets one of its users go through that.

Run in a process of its own, since limits and users are a process's:
`python -m tests.agent.storage.database_faults FOLDER FAULT`.
"""

from __future__ import annotations

import _sqlite3
import contextlib
import ctypes
import functools
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.agent.storage.database_users import USERS, write_content

NOBODY = 65_534
Mend = Callable[[], None]


def limit_file_size(folder: Path, name: str) -> Mend:
    """No file may have more than 100 bytes: write(2) fails, as on a full disk or beyond a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fill_disk(folder: Path, name: str) -> Mend:
    """The file system of the folder has not one block left."""
    ballast = folder / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):
        while True:
            os.write(descriptor, bytes(4096))
    os.close(descriptor)
    return ballast.unlink


def exhaust_descriptors(folder: Path, name: str) -> Mend:
    """The process may open no further file (EMFILE)."""
    previous = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(int(number) for number in os.listdir("/proc/self/fd")) + 1
    fillers = [os.dup(0) for _ in range(lowest - len(os.listdir("/proc/self/fd")) + 1)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, previous[1]))

    def mend() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, previous)
        for descriptor in fillers:
            os.close(descriptor)

    return mend


def exhaust_memory(folder: Path, name: str) -> Mend:
    """SQLite gets no memory (SQLITE_NOMEM, which Python raises as a MemoryError)."""
    set_limit = ctypes.CDLL(_sqlite3.__file__).sqlite3_hard_heap_limit64
    set_limit.argtypes, set_limit.restype = [ctypes.c_int64], ctypes.c_int64
    set_limit(20_000)
    return lambda: set_limit(0) and None


def lock(folder: Path, name: str) -> Mend:
    """Another program has locked the file, as a copy of it with `sqlite3 .backup` may."""
    program = (
        "import sqlite3, sys; d = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "d.execute('PRAGMA locking_mode = EXCLUSIVE'); d.execute('BEGIN EXCLUSIVE');"
        "print('locked', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, str(folder / name)]
    other = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"locked\n"

    def mend() -> None:
        other.communicate()

    return mend


def _become_nobody(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        os.setegid(NOBODY)
        os.seteuid(NOBODY)


def forbid_folder(folder: Path, name: str) -> Mend:
    """The user may read the folder, and make no file in it: SQLite can make no write-ahead log."""
    _become_nobody(folder)
    folder.chmod(0o500)
    return lambda: folder.chmod(0o700)


def forbid_passage(folder: Path, name: str) -> Mend:
    """The user may not even enter the folder."""
    _become_nobody(folder)
    folder.chmod(0o000)
    return lambda: folder.chmod(0o700)


def forbid_file(folder: Path, name: str) -> Mend:
    """Root owns the file, as after a copy by hand: this user may not read it, nor change that."""
    os.chown(folder, NOBODY, NOBODY)
    os.setegid(NOBODY)
    os.seteuid(NOBODY)

    def mend() -> None:
        os.seteuid(0)
        os.chown(folder / name, NOBODY, NOBODY)
        os.seteuid(NOBODY)

    return mend


FAULTS: Mapping[str, Callable[[Path, str], Mend]] = {
    "file size": limit_file_size,
    "full disk": fill_disk,
    "descriptors": exhaust_descriptors,
    "memory": exhaust_memory,
    "locked": lock,
    "folder read-only": forbid_folder,
    "folder closed": forbid_passage,
    "file of root": forbid_file,
}


def main() -> None:
    """Goes through one fault with each database; an exception is what was wrong."""
    parent, fault = Path(sys.argv[1]), sys.argv[2]
    for name, use in USERS.items():
        folder = parent / name.partition(".")[0]
        folder.mkdir(mode=0o700)
        if fault == "full disk":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "steadytok-test", str(folder)], check=True)
        write_content(folder, name)
        use(folder, functools.partial(FAULTS[fault], folder, name))
        names = {path.name for path in folder.iterdir()}
        assert name in names, names
        assert not any("unreadable" in each for each in names), names
        os.seteuid(os.getuid())
        os.setegid(os.getgid())


if __name__ == "__main__":
    main()
