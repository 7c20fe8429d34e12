"""
`journal.db`: the state of the remedies and the audit, written and synced before anything is touched.

One thread writes, in order; callers that depend on a commit wait for its callback. A damaged journal, or one that was
emptied, stops all acting and is left unchanged: a clean start would forget the acts to undo. A full disk stops all
acting until it has room. https://www.sqlite.org/pragma.html#pragma_synchronous (FULL: each commit is synced)
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent.remediation.model import AuditEntry, RemediationState
from agent.runtime.errors import describe_fault
from agent.runtime.writer_thread import CLOSE_SECONDS
from agent.storage.sqlite import (
    CONTENT_FAULTS,
    FAULTS,
    compute_checksum,
    describe,
    is_damage,
    open_database,
    open_read_only,
    transaction,
)

FILE = "journal.db"
MAX_ENTRIES = 100_000  # lines of the audit: some 20 MB, years of an ordinary host
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NEWEST = 2**63 - 1  # above the number of every line
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state
    (id INTEGER PRIMARY KEY CHECK (id = 1), body TEXT, wall_ms INTEGER, boot_ms INTEGER, boot TEXT, crc INTEGER);
CREATE TABLE IF NOT EXISTS audit (id INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT);
"""

# The names of fields in the file, where they differ. They never change: after a failed upgrade the version before
# reads the file again, to undo the acts that are held.
_STATE_NAMES = {"episodes": "sessions"}
_ACT_NAMES = {"undo_recipe": "means", "pending_tightening": "trial"}
_EPISODE_NAMES = {"last_reason": "told"}

CommitCallback = Callable[[str | None], None]


class JournalError(Exception):
    """The journal cannot be used; the message gives the reason and the remedy."""

    def __init__(self, message: str, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing
        """True if the content is sound, as far as is known, and opening may succeed later."""


class Timestamp(NamedTuple):
    """One moment: the wall clock, the clock that runs through a suspend, and the boot of that clock."""

    wall_ms: int
    boot_ms: int
    boot_id: str


def take_timestamp(wall_ms: int) -> Timestamp:
    """Returns the moment at which the agent's clock shows wall_ms."""
    try:
        boot_id = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # no /proc: then only the wall clock is known
        boot_id = ""
    return Timestamp(wall_ms, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000, boot_id)


class Journal:
    """The open file and its thread."""

    def __init__(self, folder: Path, read_clock: Callable[[], Timestamp]) -> None:
        """Opens and reads the file; raises JournalError if that fails."""
        self.path = folder / FILE
        self._read_clock = read_clock
        database = None
        try:
            database = open_database(self.path, _SCHEMA, _VERSION, "FULL")
            self.state = _load_state(database, read_clock())
        except (*FAULTS, *CONTENT_FAULTS) as error:
            if database is not None:
                database.close()
            raise _describe_fault(self.path, error) from error
        self._database = database
        self._jobs: queue.SimpleQueue[tuple[RemediationState, tuple[AuditEntry, ...], CommitCallback] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._write_commits, name="write journal.db", daemon=True)
        self._thread.start()

    def commit(self, state: RemediationState, entries: Iterable[AuditEntry], on_committed: CommitCallback) -> None:
        """Queues a commit; `on_committed` is called in the thread, with a fault or None."""
        self._jobs.put((state, tuple(entries), on_committed))

    def _write_commits(self) -> None:
        while (job := self._jobs.get()) is not None:
            state, entries, on_committed = job
            try:
                _write_commit(self._database, state, entries, self._read_clock())
            except FAULTS as error:
                on_committed(f"{self.path} cannot be written: {describe(error)}")
            except Exception as error:  # whatever the fault: without a commit nothing is done
                on_committed(f"{self.path} cannot be written: {describe_fault(error)}")
            else:
                on_committed(None)
        self._database.close()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Ends once all is written, or after so many seconds."""
        self._jobs.put(None)
        self._thread.join(seconds)


def _describe_fault(path: Path, error: BaseException) -> JournalError:
    if not is_damage(error):
        return JournalError(
            f"{path} cannot be used now, so no remedy acts: {describe(error)}; it stays as it is, and is tried again",
            is_passing=True,
        )
    return JournalError(
        f"{path} cannot be read, so no remedy acts: {error}; undo the held values by hand (`sqlite3 {path} 'SELECT "
        f"body FROM state'` lists them where it can), move {path.name}* away and restart"
    )


def read_stored_state(folder: Path) -> RemediationState:
    """Reads the state without changing the file, as after the agent's death; raises JournalError."""
    path = folder / FILE
    try:
        with contextlib.closing(open_read_only(path)) as database:
            return _load_state(database, take_timestamp(round(time.time() * 1000)))
    except (*FAULTS, *CONTENT_FAULTS) as error:
        raise JournalError(f"{path} cannot be read: {describe(error)}") from error


def read_audit(path: Path, limit: int) -> list[AuditEntry]:
    """Returns the newest lines of the audit, oldest first; raises JournalError."""
    return [entry for _, entry in read_audit_page(path, limit)]


def read_audit_page(path: Path, limit: int, before: int = _NEWEST) -> list[tuple[int, AuditEntry]]:
    """Returns the newest lines below the number `before`, oldest first, with their numbers; raises JournalError."""
    try:
        with contextlib.closing(open_read_only(path)) as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0:  # the file is just being made
                return []
            query = "SELECT id, body FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?"  # id is the table's own index
            rows = database.execute(query, (before, limit)).fetchall()
    except sqlite3.Error as error:
        raise JournalError(f"{path} cannot be read: {error}") from error
    return [(number, msgspec.json.decode(body, type=AuditEntry)) for number, body in reversed(rows)]


def _load_state(database: sqlite3.Connection, current: Timestamp) -> RemediationState:
    row = database.execute("SELECT body, wall_ms, boot_ms, boot, crc FROM state").fetchone()
    if row is None:
        if database.execute("SELECT 1 FROM audit LIMIT 1").fetchone():  # each commit writes both
            raise ValueError("its audit is there, and the state of the remedies is not")
        return RemediationState()
    body, *saved, crc = row
    if compute_checksum([body, *saved]) != crc:
        raise ValueError("wrong checksum")
    return _adjust_times(_decode_state(body), Timestamp(*saved), current)


def _encode_state(state: RemediationState) -> str:
    """Encodes a state with the stored names."""
    fields: dict[str, Any] = _rename_keys(msgspec.to_builtins(state), _STATE_NAMES)
    fields["acts"] = [_rename_keys(act, _ACT_NAMES) for act in fields["acts"]]
    fields["sessions"] = [_rename_keys(episode, _EPISODE_NAMES) for episode in fields["sessions"]]
    return msgspec.json.encode(fields).decode()


def _decode_state(body: str) -> RemediationState:
    """Decodes a state with the stored names; msgspec.ValidationError if the body is another thing."""
    fields = _rename_keys(msgspec.json.decode(body, type=dict[str, Any]), _invert(_STATE_NAMES))
    for key, names in (("acts", _ACT_NAMES), ("episodes", _EPISODE_NAMES)):
        items = msgspec.convert(fields.get(key, []), list[dict[str, Any]])
        fields[key] = [_rename_keys(item, _invert(names)) for item in items]
    return msgspec.convert(fields, RemediationState)


def _rename_keys(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(key, key): value for key, value in fields.items()}


def _invert(names: Mapping[str, str]) -> dict[str, str]:
    return {stored: name for name, stored in names.items()}


def _adjust_times(state: RemediationState, saved: Timestamp, current: Timestamp) -> RemediationState:
    """Within one boot the time away is known, however the wall clock was set meanwhile."""
    if saved.boot_id and saved.boot_id == current.boot_id:
        state = state.shift((current.wall_ms - current.boot_ms) - (saved.wall_ms - saved.boot_ms))
    return state.clamp_times(current.wall_ms)


def _write_commit(
    database: sqlite3.Connection, state: RemediationState, entries: tuple[AuditEntry, ...], timestamp: Timestamp
) -> None:
    body = _encode_state(state)
    row: tuple[Any, ...] = (body, *timestamp, compute_checksum([body, *timestamp]))
    with transaction(database):
        database.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?, ?, ?, ?)", row)
        database.executemany(
            "INSERT INTO audit (body) VALUES (?)", [(msgspec.json.encode(entry).decode(),) for entry in entries]
        )
        if entries:
            database.execute("DELETE FROM audit WHERE id <= (SELECT max(id) FROM audit) - ?", (MAX_ENTRIES,))
