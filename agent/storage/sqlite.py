"""Opens the agent's SQLite files: one schema version, write-ahead log, checked, readable by the owner only."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import structlog

_T = TypeVar("_T")


def open_database(path: Path, schema: str, version: int, synchronous: Literal["NORMAL", "FULL"]) -> sqlite3.Connection:
    """
    Opens the file, or creates it. Raises sqlite3.Error where it is damaged or has another version.

    https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous
    """
    # autocommit: `transaction` begins and commits; one thread at a time uses the connection.
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


def open_read_only(path: Path) -> sqlite3.Connection:
    """Opens a file without changing it, as beside a running agent or after its death. Raises sqlite3.Error."""
    return sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=2.0)


def compute_checksum(columns: Iterable[object]) -> int:
    """Returns the checksum of a row, stored beside it; a later read detects a row that was changed or damaged."""
    return zlib.crc32(msgspec.json.encode(list(columns)))


def move_aside(path: Path, database: sqlite3.Connection | None) -> Path:
    """Closes a damaged file and renames it; returns its new path. In a read-only folder the file stays as it is."""
    if database is not None:
        with contextlib.suppress(sqlite3.Error):  # the file is abandoned
            database.close()
    aside = path.with_name(path.name + ".unreadable")
    with contextlib.suppress(OSError):  # then opening fails again, and its writer reports the error
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

    In that case the content is None. The connection is None too if the new file cannot be opened: the caller may try
    again.
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
    """Commits every statement of the block, or none."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except sqlite3.Error:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself, for example on a full disk
            database.execute("ROLLBACK")
        raise
