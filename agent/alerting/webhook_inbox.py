"""
`inbox.db`: the alerts that Alertmanagers have posted here, each taken once.

What counts as the same is Alertmanager's fingerprint, the moment the alert began, and whether it fires: deliveries are
tried again, doubled by a second Alertmanager, and arrive out of order. A post is answered when it is on the disk; all
that come within WINDOW share one write. An alert that is not told again for so long has expired; told once more that
it fires, it begins anew, for Alertmanager tells only of what fires now. One that has resolved never does.
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
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from agent.alerting.labels import SOURCE
from agent.runtime.threads import make_loop_callback
from agent.storage.sqlite import open_database, open_or_start_clean, transaction
from collectors import Labels
from rules.alerts import Alert, AlertState

FILE = "inbox.db"
WINDOW = 0.005
"""Seconds in which posts are gathered for one write."""

MAX_FIRING = 500
"""Posted alerts that may fire at a time, of those that a remedy wants."""

MAX_ROWS = 10_000
"""Alerts remembered, so that a late delivery of one that is over is known."""

MAX_POSTS = 1000
"""Posts that may wait for the disk."""

RETENTION_MS = 7 * 86_400_000
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox
    (fingerprint TEXT, starts_ms INTEGER, firing INTEGER, labels TEXT, told_ms INTEGER, seen_ms INTEGER,
     PRIMARY KEY (fingerprint, starts_ms)) WITHOUT ROWID;
"""


class FullError(Exception):
    """No more can be taken now; whoever posted is to try again."""


class PostedAlert(NamedTuple):
    """One alert of a post."""

    fingerprint: str
    starts_ms: int
    firing: bool
    labels: Labels


InboxKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class InboxRow:
    """What is remembered of an alert."""

    alert: PostedAlert
    first_seen_ms: int
    """When it was first told."""
    last_seen_ms: int
    """When it was last told while it counted as firing."""

    @property
    def key(self) -> InboxKey:
        """What it is known by."""
        return (self.alert.fingerprint, self.alert.starts_ms)

    def shift(self, delta_ms: int) -> InboxRow:
        """The same after the wall clock stepped."""
        return replace(self, first_seen_ms=self.first_seen_ms + delta_ms, last_seen_ms=self.last_seen_ms + delta_ms)


class Batch(NamedTuple):
    """What one post writes, and who waits for it."""

    rows: Sequence[InboxRow]
    removed: Sequence[InboxKey]
    on_done: Callable[[str | None], None]


def to_alert(posted: PostedAlert) -> Alert:
    """A posted alert as remedies see it: without a value, and with a label that tells where it is from."""
    labels = tuple(sorted((*posted.labels, (SOURCE, "webhook"))))
    name = dict(posted.labels).get("alertname", "")
    return Alert(name, labels, (), AlertState.FIRING, math.nan, posted.starts_ms, "", 0, fired_at_ms=posted.starts_ms)


class Inbox:
    """The open file, and all of it in memory."""

    def __init__(self, folder: Path, now_ms: int) -> None:
        """Opens it; one that cannot be read is moved aside, with a log line, and a new one begun."""
        self.path = folder / FILE
        self.expire_ms = 900_000
        self._log = structlog.get_logger()
        self._pending: dict[InboxKey, InboxRow] = {}
        self._waiting_posts = 0
        self._fault: str | None = None
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._database, rows = open_or_start_clean(
            self.path, _SCHEMA, _VERSION, "FULL", lambda database: _read_rows(database, now_ms - RETENTION_MS)
        )
        self._rows: dict[InboxKey, InboxRow] = {row.key: row for row in rows or ()}
        self._firing = {key for key, row in self._rows.items() if row.alert.firing}
        self._thread = threading.Thread(target=self._write_for_ever, name=f"write {FILE}", daemon=True)
        self._thread.start()

    def firing_alerts(self, now_ms: int) -> list[Alert]:
        """Those that count as firing."""
        self._firing = {key for key in self._firing if self._is_firing(self._rows[key], now_ms)}
        return [to_alert(self._rows[key].alert) for key in sorted(self._firing)]

    def _is_firing(self, row: InboxRow, now_ms: int) -> bool:
        return row.alert.firing and now_ms - row.last_seen_ms < self.expire_ms

    async def accept(self, posted: Iterable[PostedAlert], now_ms: int) -> Mapping[str, int]:
        """
        Takes alerts, and returns when they are on the disk, with how many were what: `taken`, `resolved`, `repeated`.

        Raises FullError where there is no room, or the disk does not take them.
        """
        outcomes: Counter[str] = Counter()
        rows: dict[InboxKey, InboxRow] = {}
        for alert in posted:
            previous = rows.get((alert.fingerprint, alert.starts_ms)) or self._find_row(
                (alert.fingerprint, alert.starts_ms)
            )
            row, outcome = self._merge(previous, alert, now_ms)
            rows[row.key] = row
            outcomes[outcome] += 1
        if not rows:
            return outcomes
        self._ensure_room(rows.values(), now_ms)
        fault = await self._write_batch(list(rows.values()), self._choose_evictions(rows, now_ms))
        if fault is not None:
            raise FullError(fault)
        return outcomes

    def _find_row(self, key: InboxKey) -> InboxRow | None:
        return self._pending.get(key) or self._rows.get(key)

    def _merge(self, previous: InboxRow | None, alert: PostedAlert, now_ms: int) -> tuple[InboxRow, str]:
        if previous is None:
            return InboxRow(alert, now_ms, now_ms), "taken" if alert.firing else "resolved"
        if not previous.alert.firing:  # what has resolved is over: whatever else comes of it is late
            return previous, "repeated"
        if not alert.firing:
            return replace(previous, alert=previous.alert._replace(firing=False), last_seen_ms=now_ms), "resolved"
        # An expired one is news: with the 4 h that Alertmanager repeats after, it would be lost after its first 15 min.
        return replace(previous, last_seen_ms=now_ms), "repeated" if self._is_firing(previous, now_ms) else "taken"

    def _ensure_room(self, rows: Iterable[InboxRow], now_ms: int) -> None:
        if self._waiting_posts >= MAX_POSTS:
            raise FullError(f"{MAX_POSTS} posts wait for the disk")
        firing = {key for key in self._firing if self._is_firing(self._rows[key], now_ms)}
        firing |= {key for key, row in self._pending.items() if row.alert.firing}
        new = {row.key for row in rows if row.alert.firing} - firing
        if new and len(firing | new) > MAX_FIRING:
            raise FullError(f"{MAX_FIRING} posted alerts fire already")

    def _choose_evictions(self, incoming: Collection[InboxKey], now_ms: int) -> list[InboxKey]:
        """What must be forgotten for others: of those that are over, the oldest."""
        if len(self._rows) + len(incoming) <= MAX_ROWS:
            return []
        needed = {*self._pending, *incoming}
        expired = [row for row in self._rows.values() if not self._is_firing(row, now_ms) and row.key not in needed]
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
                self._firing.discard(key)
            if not future.done():  # whoever posted has gone
                future.set_result(fault)

        self._waiting_posts += 1
        self._pending.update({row.key: row for row in rows})
        self._batches.put(Batch(rows, removed, make_loop_callback(finish)))
        return await future

    def _store_row(self, row: InboxRow) -> None:
        self._rows[row.key] = row
        if row.alert.firing:
            self._firing.add(row.key)
        else:
            self._firing.discard(row.key)

    def shift(self, delta_ms: int) -> None:
        """The wall clock stepped."""
        self._rows = {key: row.shift(delta_ms) for key, row in self._rows.items()}

    def close(self) -> None:
        """Ends, when what was posted is written."""
        self._batches.put(None)
        self._thread.join(2.0)

    def _write_for_ever(self) -> None:
        closing = False
        while not closing:
            batches = [self._batches.get()]
            if batches[0] is not None:
                time.sleep(WINDOW)
            with contextlib.suppress(queue.Empty):  # all that came meanwhile
                while True:
                    batches.append(self._batches.get_nowait())
            closing = None in batches
            self._commit([batch for batch in batches if batch is not None])
        if self._database is not None:
            self._database.close()

    def _commit(self, batches: Sequence[Batch]) -> None:
        if not batches:
            return
        fault = None
        try:
            if self._database is None:
                self._database = open_database(self.path, _SCHEMA, _VERSION, "FULL")
            _write(self._database, batches)
        except (sqlite3.Error, OSError) as error:
            fault = f"{FILE} cannot be written: {error}"
        self._log_fault(fault)
        for batch in batches:
            batch.on_done(fault)

    def _log_fault(self, fault: str | None) -> None:
        """Says once that the disk takes nothing, and once that it does again: there may be 200 writes in a second."""
        if fault != self._fault and fault is not None:
            self._log.error("posted alerts are not taken; free the disk of the state folder", reason=fault)
        elif fault != self._fault:
            self._log.info("posted alerts are taken again")
        self._fault = fault


def _read_rows(database: sqlite3.Connection, oldest_ms: int) -> list[InboxRow]:
    """Deletes rows last seen at or before `oldest_ms`, and reads the others."""
    database.execute("DELETE FROM inbox WHERE seen_ms <= ?", (oldest_ms,))
    rows = []
    for fingerprint, starts_ms, firing, labels, first_seen_ms, last_seen_ms in database.execute(
        "SELECT fingerprint, starts_ms, firing, labels, told_ms, seen_ms FROM inbox"
    ):
        alert = PostedAlert(fingerprint, starts_ms, bool(firing), msgspec.json.decode(labels, type=Labels))
        rows.append(InboxRow(alert, first_seen_ms, last_seen_ms))
    return rows


def _write(database: sqlite3.Connection, batches: Iterable[Batch]) -> None:
    with transaction(database):
        for batch in batches:
            database.executemany("DELETE FROM inbox WHERE fingerprint = ? AND starts_ms = ?", batch.removed)
            database.executemany("INSERT OR REPLACE INTO inbox VALUES (?, ?, ?, ?, ?, ?)", map(_to_columns, batch.rows))


def _to_columns(row: InboxRow) -> tuple[str | int, ...]:
    alert = row.alert
    labels = msgspec.json.encode(alert.labels).decode()
    return (alert.fingerprint, alert.starts_ms, int(alert.firing), labels, row.first_seen_ms, row.last_seen_ms)
