"""
Stores pending, firing and recently resolved alerts in `alerts.db`, with the time each was last sent.

A thread of its own writes, and only changes, so a quiet host writes nothing. The database has a write-ahead log: a kill
loses no committed change, a power failure loses at most the last moments, and neither damages the file.
https://www.sqlite.org/wal.html, https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import structlog

from agent.runtime.writer_thread import CLOSE_SECONDS, WriterThread
from agent.storage.sqlite import FAULTS, compute_checksum, describe, is_damage, open_or_start_clean, transaction
from collectors import Labels
from rules.alert_restore import RuleKey, SavedAlert
from rules.alerts import Alert, AlertState

FILE = "alerts.db"
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alerts
    (rule TEXT, labels TEXT, sent_ms INTEGER, alert TEXT, crc INTEGER, PRIMARY KEY (rule, labels)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS saved (at_ms INTEGER);
"""


class SavedState(NamedTuple):
    """The state that a restart resumes from, and when it was saved."""

    alerts: tuple[SavedAlert, ...]
    last_sent_ms: Mapping[Labels, int]
    saved_ms: int


class _AlertRecord(msgspec.Struct):
    """An alert as stored in the file; the value is text because JSON has no NaN."""

    name: str
    annotations: Labels
    state: AlertState
    value: str
    active_at_ms: int
    fired_at_ms: int | None
    resolved_at_ms: int | None
    keep_firing_since_ms: int | None
    lost_since_ms: int | None
    interval_ms: int
    fresh: bool


_Key = tuple[RuleKey, Labels]
_Row = tuple[SavedAlert, int | None]


class AlertStore:
    """The open database, its writer thread, and the content at the start."""

    def __init__(self, folder: Path) -> None:
        """
        Opens the database; moves a damaged file aside, logs that, and starts a new one.

        A file that cannot be used now stays as it is; its alerts come back with `take_late_state` once it can be used.
        """
        self.path = folder / FILE
        self._log = structlog.get_logger()
        self._is_failing = False
        opened = open_or_start_clean(self.path, _SCHEMA, _VERSION, "NORMAL", _read_state)
        self._database = opened.database
        self.saved_state = opened.content or SavedState((), {}, 0)
        self._is_loaded = opened.database is not None or opened.content is not None
        self._late_state: SavedState | None = None
        if opened.fault:
            self._report_failure(opened.fault)
        # The fields in the file that decide whether an alert is written again; None: unknown, so all alerts are
        # written.
        self._stored_rows: dict[_Key, tuple[Any, ...]] | None = None
        self._writer = WriterThread("alerts.db")

    def save(self, alerts: Iterable[SavedAlert], last_sent_ms: Mapping[Labels, int], now_ms: int) -> bool:
        """Submits the changes since the last write; returns False if there are none or the disk is still busy."""
        if self._writer.is_busy:
            return False
        rows = {
            (saved_alert.rule, saved_alert.alert.labels): (saved_alert, last_sent_ms.get(saved_alert.alert.labels))
            for saved_alert in alerts
        }
        if not rows and self._stored_rows == {}:
            return False
        current = {key: _select_significant_fields(row) for key, row in rows.items()}
        if current == self._stored_rows:
            return False
        previous = self._stored_rows
        removed = None if previous is None else [key for key in previous if key not in current]
        changed = [row for key, row in rows.items() if previous is None or previous.get(key) != current[key]]
        self._stored_rows = current
        return self._writer.submit(lambda: self._write(removed, changed, now_ms))

    def take_late_state(self) -> SavedState | None:
        """Returns, once, the content of a file that could not be read at the start."""
        state, self._late_state = self._late_state, None
        return state

    def _write(self, removed: list[_Key] | None, changed: list[_Row], now_ms: int) -> None:
        try:
            if self._database is None and not self._open_again():
                self._stored_rows = None
                return
            assert self._database is not None
            _write_changes(self._database, removed, changed, now_ms)
        except FAULTS as error:
            self._stored_rows = None
            self._report_failure(describe(error))
            if is_damage(error):  # then opening it anew moves it aside, and the next write has every alert
                self._close()
            return
        if self._is_failing:
            self._log.info("alerts are saved again", file=str(self.path))
        self._is_failing = False

    def _open_again(self) -> bool:
        """Returns True once the file is open and this process knows its content; until then nothing is written."""
        opened = open_or_start_clean(self.path, _SCHEMA, _VERSION, "NORMAL", _read_state)
        self._database = opened.database
        if opened.fault:
            self._report_failure(opened.fault)
            return False
        if self._is_loaded or opened.content is None:
            return True
        self._is_loaded = True
        self._late_state = opened.content  # the write of now would replace it; the next one has both
        return False

    def _report_failure(self, reason: str) -> None:
        if not self._is_failing:
            hint = "the file stays as it is, and is tried again; until then a restart resets the alerts' `for`"
            self._log.warning("alerts cannot be saved", file=str(self.path), reason=reason, hint=hint)
        self._is_failing = True

    def wait(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Waits until every submitted change is written; returns False after the timeout."""
        return self._writer.wait(seconds)

    def close(self) -> None:
        """Writes the submitted changes, then closes the database, which ends its write-ahead log."""
        if self._writer.wait(CLOSE_SECONDS):
            self._writer.submit(self._close)
        self._writer.close()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def _read_state(database: sqlite3.Connection) -> SavedState:
    alerts, last_sent_ms = [], {}
    for *row, crc in database.execute("SELECT rule, labels, sent_ms, alert, crc FROM alerts"):
        if compute_checksum(row) != crc:
            raise ValueError("an alert has a wrong checksum")
        rule, labels, sent_ms, alert = row
        key = msgspec.json.decode(rule, type=RuleKey)
        stored = msgspec.json.decode(alert, type=_AlertRecord)
        alerts.append(SavedAlert(key, _build_alert(stored, key, msgspec.json.decode(labels, type=Labels))))
        if sent_ms is not None:
            last_sent_ms[alerts[-1].alert.labels] = int(sent_ms)
    (saved_ms,) = database.execute("SELECT max(at_ms) FROM saved").fetchone()
    return SavedState(tuple(alerts), last_sent_ms, int(saved_ms or 0))


def _build_alert(record: _AlertRecord, key: RuleKey, labels: Labels) -> Alert:
    fields = {field: getattr(record, field) for field in record.__struct_fields__}
    return Alert(**{**fields, "value": float(record.value)}, labels=labels, expr=key.expr)


def _select_significant_fields(row: _Row) -> tuple[Any, ...]:
    """Returns the fields whose change is worth a write; the value changes each second and is not one of them."""
    alert, sent_ms = row[0].alert, row[1]
    times = (alert.active_at_ms, alert.fired_at_ms, alert.resolved_at_ms, alert.keep_firing_since_ms)
    return (alert.state, *times, alert.lost_since_ms, sent_ms)


def _write_changes(database: sqlite3.Connection, removed: list[_Key] | None, changed: list[_Row], now_ms: int) -> None:
    with transaction(database):
        if removed is None:
            database.execute("DELETE FROM alerts")
        else:
            database.executemany(
                "DELETE FROM alerts WHERE rule = ? AND labels = ?", [_encode_key(key) for key in removed]
            )
        database.executemany("INSERT OR REPLACE INTO alerts VALUES (?, ?, ?, ?, ?)", map(_to_columns, changed))
        database.execute("DELETE FROM saved")
        database.execute("INSERT INTO saved VALUES (?)", (now_ms,))


def _encode_key(key: _Key) -> tuple[str, str]:
    return msgspec.json.encode(key[0]).decode(), msgspec.json.encode(key[1]).decode()


def _to_columns(row: _Row) -> tuple[str | int | None, ...]:
    alert = row[0].alert
    fields = {field: getattr(alert, field) for field in _AlertRecord.__struct_fields__ if field != "value"}
    text = msgspec.json.encode(_AlertRecord(**fields, value=repr(alert.value))).decode()
    columns = (*_encode_key((row[0].rule, alert.labels)), row[1], text)
    return (*columns, compute_checksum(columns))
