"""Opens a SQLite file of ours: of one version, with a write-ahead log, sound, and its owner's alone."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import structlog

_T = TypeVar("_T")


def open_database(path: Path, schema: str, version: int, synchronous: Literal["NORMAL", "FULL"]) -> sqlite3.Connection:
    """
    The open file, made where there is none; sqlite3.Error where it cannot be read or has another version.

    https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous
    """
    # autocommit: transactions are begun by hand; used by one thread at a time.
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
        (file_version,) = database.execute("PRAGMA user_version").fetchone()
        if file_version not in (0, version):
            raise sqlite3.DatabaseError(f"it has version {file_version}, this agent knows {version}")
        (check_result,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if check_result != "ok":
            raise sqlite3.DatabaseError(check_result)
        if file_version == 0:
            database.executescript(f"{schema} PRAGMA user_version = {version};")
        os.chmod(path, 0o600)
    except BaseException:
        database.close()
        raise
    return database


def move_aside(path: Path, database: sqlite3.Connection | None) -> Path:
    """Closes a file that is unsound and takes it out of the way; where it is then. It may have stayed, unwritable."""
    if database is not None:
        with contextlib.suppress(sqlite3.Error):  # it is given up
            database.close()
    aside = path.with_name(path.name + ".unreadable")
    with contextlib.suppress(OSError):  # then opening it fails again, and whoever writes is told
        os.replace(path, aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    return aside


def open_or_start_clean(
    path: Path,
    schema: str,
    version: int,
    synchronous: Literal["NORMAL", "FULL"],
    load: Callable[[sqlite3.Connection], _T],
) -> tuple[sqlite3.Connection | None, _T | None]:
    """
    Opens a database and loads its content; a file that cannot be read is moved aside, and a new one begun.

    Returns no content then, and no connection either if the new file cannot be opened: the caller may try again.
    """
    database = None
    try:
        database = open_database(path, schema, version, synchronous)
        return database, load(database)
    except (sqlite3.Error, msgspec.DecodeError, ValueError, TypeError) as error:
        aside = move_aside(path, database)
        event = f"{path.name} cannot be read; moved aside, starting clean"
        structlog.get_logger().warning(event, reason=str(error), aside=str(aside))
    try:
        return open_database(path, schema, version, synchronous), None
    except sqlite3.Error:
        return None, None


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself, a full disk for one
            database.execute("ROLLBACK")
        raise
