"""
Opens the agent's SQLite files: one schema version, write-ahead log, checked, readable by the owner only.

A file that is damaged and a file that cannot be used now are different faults. Only a damaged one may be moved aside: a
full disk, an exhausted limit or a backup that locks the file passes, and the content is sound.
https://www.sqlite.org/rescode.html
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

import msgspec
import structlog

from agent.runtime.errors import describe_reason
from collectors import NotRegularFileError, check_regular_file

_T = TypeVar("_T")

_COMPANIONS = ("-wal", "-shm", "-journal")
"""The files that SQLite puts beside a database, with its content and its permissions."""

_DAMAGES = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_ERROR,  # a table or a column is missing
    )
)
_HINTS = {
    sqlite3.SQLITE_FULL: "free disk space",
    sqlite3.SQLITE_IOERR: "look at the disk: it is full, or it fails (dmesg)",
    sqlite3.SQLITE_CANTOPEN: "let the agent's user write its state folder, and free disk space",
    sqlite3.SQLITE_BUSY: "another program has locked it",
    sqlite3.SQLITE_LOCKED: "another program has locked it",
    sqlite3.SQLITE_PERM: "let the agent's user write it",
    sqlite3.SQLITE_READONLY: "let the agent's user write it",
    sqlite3.SQLITE_NOMEM: "free memory",
}
MAX_DATABASE_BYTES = 1 << 40
"""Far more than any of the agent's; a sparse file may claim more than any disk has."""

FAULTS = (sqlite3.Error, OSError, MemoryError)
"""What opening, reading and writing a database raises; Python has MemoryError for SQLITE_NOMEM."""

CONTENT_FAULTS = (msgspec.MsgspecError, ValueError, TypeError)
"""What decoding the rows of a damaged database raises."""


class DamagedError(sqlite3.DatabaseError):
    """The content is damaged or lost; trying again does not help."""


class Opened(NamedTuple, Generic[_T]):
    """A database that was opened, or why it cannot be used now."""

    database: sqlite3.Connection | None
    content: _T | None
    """None if it was damaged, or cannot be read now."""
    fault: str
    """Why the file cannot be used now; it stays as it is, and its opening can be tried again."""


def is_damage(error: BaseException) -> bool:
    """True if the content of the file is at fault; False if the disk, the memory or another program is, for now."""
    if isinstance(error, MemoryError | OSError):
        return False
    code = getattr(
        error, "sqlite_errorcode", None
    )  # absent in our own errors and in Python's, as for text not in UTF-8
    return code is None or code & 0xFF in _DAMAGES


def describe(error: BaseException) -> str:
    """Describes a fault for a person, with what to do where that is known."""
    if isinstance(error, MemoryError):
        return f"no memory; {_HINTS[sqlite3.SQLITE_NOMEM]}"
    reason = describe_reason(error)
    hint = _HINTS.get(getattr(error, "sqlite_errorcode", -1) & 0xFF)
    return reason if hint is None else f"{reason}; {hint}"


def open_database(path: Path, schema: str, version: int, synchronous: Literal["NORMAL", "FULL"]) -> sqlite3.Connection:
    """
    Opens the file, or creates it. Raises one of FAULTS; `is_damage` tells its two kinds apart.

    https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous
    """
    if not _check_files(path):
        _create_database(path, schema, version)
    # mode=rw: SQLite itself would create an empty file, readable by everybody.
    database = _connect(f"{path.absolute().as_uri()}?mode=rw", timeout=1.0)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {synchronous}")
        (file_version,) = database.execute("PRAGMA user_version").fetchone()
        if file_version not in (0, version):
            raise DamagedError(f"it has version {file_version}, this agent knows {version}")
        (check_result,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if check_result != "ok":
            raise DamagedError(check_result)
        if file_version == 0:  # an agent of an older version was killed while it created the file
            database.executescript(f"{schema} PRAGMA user_version = {version};")
    except BaseException:
        database.close()
        raise
    return database


def _check_files(path: Path) -> bool:
    """
    Makes the database and its companions private; returns False where there is none yet.

    SQLite creates companions with the permissions of the database. A database that is empty, or gone while its log is
    there, was emptied by somebody: `_create_database` leaves no such file, even where it is killed.
    """
    sizes = {suffix: _make_private(path.with_name(path.name + suffix)) for suffix in ("", *_COMPANIONS)}
    if sizes[""] == 0:
        raise DamagedError("it is empty, as no agent leaves it: its content was lost")
    if sizes[""] is None and sizes["-wal"]:
        raise DamagedError("it is gone, and its write-ahead log is still there")
    return sizes[""] is not None


def _make_private(path: Path) -> int | None:
    """Takes the file's permissions from everybody but its owner; returns its size, None where there is no file."""
    try:
        status = check_regular_file(path, MAX_DATABASE_BYTES)
        if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            os.chmod(path, 0o600)
    except FileNotFoundError:  # also between the two calls: another program closed the database
        return None
    except NotRegularFileError as error:
        raise DamagedError(f"{path.name}: {error.strerror}") from error
    return status.st_size


def _create_database(path: Path, schema: str, version: int) -> None:
    """Creates the file whole or not at all, and readable by its owner from the first moment."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)  # of a creation that was killed
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with contextlib.closing(_connect(f"{unfinished.absolute().as_uri()}?mode=rw", timeout=1.0)) as database:
            database.executescript(f"BEGIN; {schema} PRAGMA user_version = {version}; COMMIT;")
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the next creation removes it
            unfinished.unlink()
        raise


def _connect(uri: str, timeout: float) -> sqlite3.Connection:
    # autocommit: `transaction` begins and commits; one thread at a time uses the connection.
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=timeout)


def open_read_only(path: Path) -> sqlite3.Connection:
    """Opens a file without changing it, as beside a running agent or after its death. Raises sqlite3.Error."""
    try:
        check_regular_file(path, MAX_DATABASE_BYTES)
    except OSError as error:  # SQLite would wait for the writer of a pipe
        raise sqlite3.OperationalError(error.strerror or str(error)) from error
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)


def compute_checksum(columns: Iterable[object]) -> int:
    """Returns the checksum of a row, stored beside it; a later read detects a row that was changed or damaged."""
    return zlib.crc32(msgspec.json.encode(list(columns)))


def move_aside(path: Path) -> Path:
    """
    Renames a damaged file, with its companions; returns its new path. In a read-only folder all stay as they are.

    The companions go with it, since a repair needs the write-ahead log: `sqlite3 FILE.unreadable .recover`.
    """
    aside = path.with_name(path.name + ".unreadable")
    for suffix in ("", *_COMPANIONS):
        source, target = path.with_name(path.name + suffix), aside.with_name(aside.name + suffix)
        with contextlib.suppress(OSError):  # of an earlier damage; a folder stays, and then the rename fails
            target.unlink()
        with contextlib.suppress(OSError):  # then opening fails again, and its caller reports the error
            os.replace(source, target)
    return aside


def open_or_start_clean(
    path: Path,
    schema: str,
    version: int,
    synchronous: Literal["NORMAL", "FULL"],
    load: Callable[[sqlite3.Connection], _T],
) -> Opened[_T]:
    """
    Opens a database and loads its content, which `load` reads without changing it.

    A damaged file is moved aside, and a new one begun, without content. A file that cannot be used now stays as it is;
    its content is loaded where that needs no writing, as on a full disk after a clean end.
    """
    database = None
    try:
        database = open_database(path, schema, version, synchronous)
        return Opened(database, load(database), "")
    except (*FAULTS, *CONTENT_FAULTS) as error:
        if database is not None:
            database.close()
        if not is_damage(error):
            return Opened(None, _load_unchanged(path, load), describe(error))
        aside = move_aside(path)
        event = f"{path.name} cannot be read; moved aside, starting clean"
        structlog.get_logger().warning(event, reason=str(error), aside=str(aside))
    try:
        return Opened(open_database(path, schema, version, synchronous), None, "")
    except FAULTS as error:
        return Opened(None, None, describe(error))


def _load_unchanged(path: Path, load: Callable[[sqlite3.Connection], _T]) -> _T | None:
    """
    Loads the content of a file that cannot be opened for writing; None where that is not possible.

    Opening a database with a write-ahead log creates its index, even to read it. Without a log the file is complete.
    Nobody else writes it: the state folder is locked. https://www.sqlite.org/uri.html#uriimmutable
    """
    log = path.with_name(f"{path.name}-wal")
    try:
        if log.exists() and log.stat().st_size:
            return None
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        with contextlib.closing(_connect(uri, timeout=0.0)) as database:
            return load(database)
    except (*FAULTS, *CONTENT_FAULTS):
        return None  # the caller has the first fault already, and tries again later


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
