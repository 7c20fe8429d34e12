"""The three users of databases in the state folder, driven alike: what each knows, and that it works again."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.alerting import alert_store, webhook_inbox
from agent.alerting.alert_store import AlertStore
from agent.alerting.webhook_inbox import FullError, Inbox, PostedAlert
from agent.remediation import journal
from agent.remediation.journal import Journal, Timestamp
from agent.remediation.journal_access import JournalAccess
from agent.remediation.model import AuditEntry, RemediationState
from rules.alert_restore import RuleKey, SavedAlert
from rules.alerts import Alert, AlertState

NOW = 1_700_000_000_000
PATIENCE = 60.0  # seconds, generous: a slow machine must not fail
LABELS = (("alertname", "Hot"), ("dimm", "A1"))
KEY = RuleKey("Hot", (), "hot > 80", 1)
Refuse = Callable[[], Callable[[], None]]
"""Makes the machine refuse the file; the result ends that."""

POSTED = PostedAlert("aa01", NOW, True, LABELS)


def _build_alert(name: str) -> SavedAlert:
    labels = (("alertname", "Hot"), ("dimm", name))
    return SavedAlert(KEY, Alert("Hot", labels, (), AlertState.FIRING, 81.0, NOW, "hot > 80", 1000, fired_at_ms=NOW))


def write_content(folder: Path, name: str) -> None:
    """Writes a file with content, as an agent that then ends in order."""
    if name == alert_store.FILE:
        store = AlertStore(folder)
        store.save([_build_alert("A1")], {}, NOW)
        store.close()
    elif name == webhook_inbox.FILE:
        asyncio.run(_post(folder))
    else:
        opened = Journal(folder, lambda: Timestamp(NOW, 1, "boot"))
        faults: list[str | None] = []
        opened.commit(RemediationState(pauses=("night",)), [AuditEntry(NOW, "r", (), "", "did", "")], faults.append)
        opened.close()
        assert faults == [None]


async def _post(folder: Path) -> None:
    box = Inbox(folder, NOW)
    await box.accept([POSTED], NOW)
    box.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it does not come back"
        time.sleep(0.02)


async def wait_on_loop(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it does not come back"
        await asyncio.sleep(0.02)


def use_alerts(folder: Path, refuse: Refuse) -> None:
    """Saves into a file that cannot be used; afterwards what it held and what was saved are both there."""
    mend = refuse()
    store = AlertStore(folder)
    store.save([_build_alert("B2")], {}, NOW)
    assert store.wait(PATIENCE)
    mend()
    known = set(store.saved_state.alerts)

    def is_saved() -> bool:
        late = store.take_late_state()
        known.update(() if late is None else late.alerts)
        store.save([*known, _build_alert("B2")], {}, NOW)
        assert store.wait(PATIENCE)
        return store._database is not None and bool(store._stored_rows)

    wait_for(is_saved)
    store.close()
    assert set(AlertStore(folder).saved_state.alerts) == {_build_alert("A1"), _build_alert("B2")}


def use_inbox(folder: Path, refuse: Refuse) -> None:
    """Posts are refused, so that Alertmanager tries again; afterwards the inbox knows what it held."""

    async def run() -> None:
        mend = refuse()  # in the loop, which needs files of its own
        box = Inbox(folder, NOW)
        with contextlib.suppress(FullError):
            raise AssertionError(f"stored: {await box.accept([POSTED._replace(fingerprint='bb02')], NOW)}")
        mend()
        await wait_on_loop(lambda: box._is_open)
        assert await box.accept([POSTED], NOW) == {"repeated": 1}
        assert await box.accept([POSTED._replace(fingerprint="bb02")], NOW) == {"taken": 1}
        assert len(box.firing_alerts(NOW)) == 2
        box.close()

    asyncio.run(run())


def use_journal(folder: Path, refuse: Refuse) -> None:
    """There is a reason, and no journal; afterwards the state comes back by itself."""

    async def run() -> None:
        mend = refuse()
        access, states = JournalAccess(folder, lambda: Timestamp(NOW, 1, "boot")), list[RemediationState]()
        assert access.journal is None
        assert "is tried again" in access.fault
        mend()

        def is_open() -> bool:
            access.retry_if_due(float("inf") if states else time.monotonic() + PATIENCE, states.append)
            return access.journal is not None

        await wait_on_loop(is_open)
        assert states == [RemediationState(pauses=("night",))]
        assert access.fault == ""
        assert access.journal is not None
        access.journal.close()

    asyncio.run(run())


USERS: Mapping[str, Callable[[Path, Refuse], None]] = {
    alert_store.FILE: use_alerts,
    webhook_inbox.FILE: use_inbox,
    journal.FILE: use_journal,
}
