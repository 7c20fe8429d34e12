"""
Accepts the alerts that Alertmanagers post, each once, and stores them in `inbox.db`.

Posts are retried, doubled by a second Alertmanager, and arrive out of order. Two posts mean the same alert if
Alertmanager's fingerprint and the start time are equal; `inbox_row` decides which of them is the newest. A post is
answered when it is on the disk; posts that arrive within WINDOW share one write.

A firing alert that is not posted again for `expire_ms` has expired. If it is then posted as firing, it starts anew,
because Alertmanager posts only what fires now.
https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from agent.alerting.identity import SOURCE
from agent.alerting.inbox_row import Ending, InboxKey, InboxRow, PostedAlert, merge
from agent.runtime.threads import make_loop_callback
from agent.runtime.writer_thread import CLOSE_SECONDS
from agent.storage.sqlite import FAULTS, Opened, describe, open_or_start_clean, transaction
from collectors import Labels
from rules.alerts import Alert, AlertState

FILE = "inbox.db"
WINDOW = 0.005
"""Seconds to gather posts for one write."""

MAX_FIRING = 500
"""Posted alerts that may fire at the same time, of those that a remedy matches."""

MAX_ROWS = 10_000
"""Alerts remembered, so that a late delivery of an ended alert is recognized."""

MAX_POSTS = 1000
"""Posts that may wait for the disk."""

FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 0.5, 10.0
"""Seconds between two tries to open a file that could not be used; Alertmanager waits longer before its next try."""

RETENTION_MS = 7 * 86_400_000
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox
    (fingerprint TEXT, starts_ms INTEGER, firing INTEGER, labels TEXT, told_ms INTEGER, seen_ms INTEGER,
     PRIMARY KEY (fingerprint, starts_ms)) WITHOUT ROWID;
"""


class FullError(Exception):
    """The inbox can accept no more alerts now; the sender should try again."""


class Batch(NamedTuple):
    """The changes of one post, and the callback for its result."""

    rows: Sequence[InboxRow]
    removed: Sequence[InboxKey]
    on_done: Callable[[str | None], None]


def to_alert(posted: PostedAlert) -> Alert:
    """Converts a posted alert to an Alert without a value, with a label that marks its origin."""
    labels = tuple(sorted((*posted.labels, (SOURCE, "webhook"))))
    name = dict(posted.labels).get("alertname", "")
    return Alert(name, labels, (), AlertState.FIRING, math.nan, posted.starts_ms, "", 0, fired_at_ms=posted.starts_ms)


class Inbox:
    """The open database, its writer thread, and all rows in memory."""

    def __init__(self, folder: Path, now_ms: int) -> None:
        """
        Opens the database; moves a damaged file aside, logs that, and starts a new one.

        While a file cannot be used, it stays as it is, posts are refused, and its opening is tried again.
        """
        self.path = folder / FILE
        self.expire_ms = 900_000
        self._log = structlog.get_logger()
        self._pending: dict[InboxKey, InboxRow] = {}
        self._waiting_posts = 0
        self._fault: str | None = None
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._rows: dict[InboxKey, InboxRow] = {}
        self._alive: set[InboxKey] = set()
        self._oldest_ms = now_ms - RETENTION_MS
        opened = self._open()
        self._database = opened.database
        self._adopt_rows(opened)
        adopt = self._adopt_rows if self._is_open else make_loop_callback(self._adopt_rows)
        self._thread = threading.Thread(target=self._run_writer, args=(adopt,), name=f"write {FILE}", daemon=True)
        self._thread.start()

    def _open(self) -> Opened[list[InboxRow]]:
        return open_or_start_clean(
            self.path, _SCHEMA, _VERSION, "FULL", lambda database: _read_rows(database, self._oldest_ms)
        )

    def _adopt_rows(self, opened: Opened[list[InboxRow]]) -> None:
        """Takes over the content of the file; `_is_open` is True once posts can be stored."""
        for row in opened.content or ():
            self._store_row(row)
        self._is_open = opened.database is not None
        self._log_fault(f"{FILE} cannot be used: {opened.fault}" if opened.fault else None)

    def firing_alerts(self, now_ms: int) -> list[Alert]:
        """Returns the posted alerts that count as firing."""
        self._alive = {key for key in self._alive if self._rows[key].is_alive(now_ms, self.expire_ms)}
        rows = (self._rows[key] for key in sorted(self._alive))
        return [to_alert(row.alert) for row in rows if row.is_firing(now_ms, self.expire_ms)]

    async def accept(self, posted: Iterable[PostedAlert], now_ms: int) -> Mapping[str, int]:
        """
        Stores alerts; returns when they are on the disk, with the number of `taken`, `resolved` and `repeated` ones.

        Raises FullError if there is no room or the disk fails.
        """
        outcomes: Counter[str] = Counter()
        rows: dict[InboxKey, InboxRow] = {}
        firing = self._list_firing()
        for alert in posted:
            key = (alert.fingerprint, alert.starts_ms)
            row, outcome = merge(rows.get(key) or self._find_row(key), alert, now_ms, self.expire_ms)
            rows[key] = row
            outcomes[outcome] += 1
            if alert.firing:
                firing[alert.fingerprint].add(key)
                continue
            for other_key in firing[alert.fingerprint] - {key}:
                other = rows.get(other_key) or self._find_row(other_key)
                if other is not None and other.is_ended_by(alert):
                    rows[other_key] = merge(other, alert, now_ms, self.expire_ms)[0]
        if not rows:
            return outcomes
        if not self._is_open:
            raise FullError(self._fault or f"{FILE} is being opened")
        self._ensure_room(rows.values(), now_ms)
        fault = await self._write_batch(list(rows.values()), self._choose_evictions(rows, now_ms))
        if fault is not None:
            raise FullError(fault)
        return outcomes

    def _list_firing(self) -> defaultdict[str, set[InboxKey]]:
        """Returns the keys of firing alerts by fingerprint; a fingerprint can have several starts."""
        firing: defaultdict[str, set[InboxKey]] = defaultdict(set)
        for key in (*self._alive, *self._pending):
            firing[key[0]].add(key)
        return firing

    def _find_row(self, key: InboxKey) -> InboxRow | None:
        return self._pending.get(key) or self._rows.get(key)

    def _ensure_room(self, rows: Iterable[InboxRow], now_ms: int) -> None:
        if self._waiting_posts >= MAX_POSTS:
            raise FullError(f"{MAX_POSTS} posts wait for the disk")
        firing = {key for key in self._alive if self._rows[key].is_alive(now_ms, self.expire_ms)}
        firing |= {key for key, row in self._pending.items() if row.alert.firing}
        new = {row.key for row in rows if row.alert.firing} - firing
        if new and len(firing | new) > MAX_FIRING:
            raise FullError(f"{MAX_FIRING} posted alerts fire already")

    def _choose_evictions(self, incoming: Collection[InboxKey], now_ms: int) -> list[InboxKey]:
        """Returns the rows to delete so that the incoming ones fit: the oldest of the ended alerts."""
        if len(self._rows) + len(incoming) <= MAX_ROWS:
            return []
        needed = {*self._pending, *incoming}
        expired = [
            row for row in self._rows.values() if row.key not in needed and not row.is_alive(now_ms, self.expire_ms)
        ]
        expired.sort(key=lambda row: row.last_seen_ms)
        return [row.key for row in expired[: len(incoming) + MAX_ROWS // 10]]

    async def _write_batch(self, rows: list[InboxRow], removed: list[InboxKey]) -> str | None:
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

        def finish(fault: str | None) -> None:
            self._waiting_posts -= 1
            for row in rows:
                if self._pending.get(row.key) is row:
                    del self._pending[row.key]
                if fault is None:
                    self._store_row(row)
            for key in removed if fault is None else ():
                self._rows.pop(key, None)
                self._alive.discard(key)
            if not future.done():  # the sender has disconnected
                future.set_result(fault)

        self._waiting_posts += 1
        self._pending.update({row.key: row for row in rows})
        self._batches.put(Batch(rows, removed, make_loop_callback(finish)))
        return await future

    def _store_row(self, row: InboxRow) -> None:
        self._rows[row.key] = row
        if row.alert.firing:
            self._alive.add(row.key)
        else:
            self._alive.discard(row.key)

    def shift(self, delta_ms: int) -> None:
        """Moves the stored times with the wall clock."""
        self._rows = {key: row.shift(delta_ms) for key, row in self._rows.items()}

    def close(self) -> None:
        """Writes the waiting posts, then closes the database, which ends its write-ahead log."""
        self._batches.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run_writer(self, adopt: Callable[[Opened[list[InboxRow]]], None]) -> None:
        if self._database is None and not self._open_later(adopt):
            return
        closing = False
        while not closing:
            batches = [self._batches.get()]
            if batches[0] is not None:
                time.sleep(WINDOW)
            with contextlib.suppress(queue.Empty):  # the posts that arrived meanwhile
                while True:
                    batches.append(self._batches.get_nowait())
            closing = None in batches
            self._commit([batch for batch in batches if batch is not None])
        assert self._database is not None
        self._database.close()

    def _open_later(self, adopt: Callable[[Opened[list[InboxRow]]], None]) -> bool:
        """Tries to open the file until that succeeds; returns False if the inbox is closed before."""
        delay = FIRST_RETRY_SECONDS
        while self._database is None:
            with contextlib.suppress(queue.Empty):
                if self._batches.get(timeout=delay) is None:
                    return False
            delay = min(2 * delay, LAST_RETRY_SECONDS)
            opened = self._open()
            self._database = opened.database
            adopt(opened)
        return True

    def _commit(self, batches: Sequence[Batch]) -> None:
        if not batches:
            return
        fault = None
        try:
            assert self._database is not None
            _write(self._database, batches, self._oldest_ms)
        except FAULTS as error:
            fault = f"{FILE} cannot be written: {describe(error)}"
        self._log_fault(fault)
        for batch in batches:
            batch.on_done(fault)

    def _log_fault(self, fault: str | None) -> None:
        """Logs the first failed write and the first success after it: there may be 200 writes in a second."""
        if fault != self._fault and fault is not None:
            self._log.error("posted alerts are refused until the inbox can be written", reason=fault)
        elif fault != self._fault:
            self._log.info("posted alerts are accepted again")
        self._fault = fault


def _read_rows(database: sqlite3.Connection, oldest_ms: int) -> list[InboxRow]:
    """Reads the rows last seen after `oldest_ms`, and changes nothing."""
    rows = []
    for fingerprint, starts_ms, firing, labels, first_seen_ms, last_seen_ms in database.execute(
        "SELECT fingerprint, starts_ms, firing, labels, told_ms, seen_ms FROM inbox WHERE seen_ms > ?", (oldest_ms,)
    ):
        alert = PostedAlert(fingerprint, starts_ms, bool(firing), msgspec.json.decode(labels, type=Labels))
        ending = None if alert.firing else Ending(frozenset(), None, last_seen_ms)
        rows.append(InboxRow(alert, first_seen_ms, last_seen_ms, ending))
    return rows


def _write(database: sqlite3.Connection, batches: Iterable[Batch], oldest_ms: int) -> None:
    with transaction(database):
        database.execute("DELETE FROM inbox WHERE seen_ms <= ?", (oldest_ms,))
        for batch in batches:
            database.executemany("DELETE FROM inbox WHERE fingerprint = ? AND starts_ms = ?", batch.removed)
            database.executemany("INSERT OR REPLACE INTO inbox VALUES (?, ?, ?, ?, ?, ?)", map(_to_columns, batch.rows))


def _to_columns(row: InboxRow) -> tuple[str | int, ...]:
    alert = row.alert
    labels = msgspec.json.encode(alert.labels).decode()
    return (alert.fingerprint, alert.starts_ms, int(alert.firing), labels, row.first_seen_ms, row.last_seen_ms)
