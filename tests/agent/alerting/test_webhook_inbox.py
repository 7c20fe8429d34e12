"""Posted alerts are accepted once, in whatever order and however often they come, and outlive the process."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.alerting import webhook_inbox
from agent.alerting.webhook_inbox import FILE, FullError, Inbox, PostedAlert

NOW = 1_700_000_000_000
MINUTE = 60_000
FIRING = PostedAlert("aa01", NOW - MINUTE, True, (("alertname", "Hot"), ("instance", "box")))
RESOLVED = FIRING._replace(firing=False)


def run_with_inbox(folder: Path, test: Callable[[Inbox], Awaitable[Any]]) -> Any:
    """Runs a test with an inbox in a folder, and returns its result."""

    async def run() -> Any:
        box = Inbox(folder, NOW)
        try:
            return await test(box)
        finally:
            box.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("posts", "outcomes", "firing"),
    [
        ([FIRING], ["taken"], 1),
        ([FIRING, FIRING], ["taken", "repeated"], 1),
        ([FIRING, RESOLVED], ["taken", "resolved"], 0),
        ([FIRING, RESOLVED, FIRING], ["taken", "resolved", "taken"], 1),
        ([RESOLVED, FIRING], ["resolved", "taken"], 1),
        ([RESOLVED, RESOLVED], ["resolved", "repeated"], 0),
        ([FIRING, RESOLVED, FIRING._replace(starts_ms=NOW)], ["taken", "resolved", "taken"], 1),
    ],
)
def test_each_is_taken_once(tmp_path: Path, posts: list[PostedAlert], outcomes: list[str], firing: int) -> None:
    """Fingerprint, start and status identify an alert; what one Alertmanager posts last is its state."""

    async def test(box: Inbox) -> tuple[list[str], int]:
        results = [next(iter(await box.accept([post], NOW))) for post in posts]
        return results, len(box.firing_alerts(NOW))

    assert run_with_inbox(tmp_path, test) == (outcomes, firing)


@pytest.mark.parametrize(("ends_ms", "firing"), [(NOW, 0), (FIRING.starts_ms, 0), (FIRING.starts_ms - 1, 1), (None, 1)])
@pytest.mark.parametrize("posts", [1, 2])
def test_an_end_is_that_of_every_earlier_start(tmp_path: Path, ends_ms: int | None, firing: int, posts: int) -> None:
    """Two Prometheus servers of different starts: Alertmanager moves the start back, and posts one end."""
    earlier = FIRING._replace(starts_ms=FIRING.starts_ms - 10_000)
    batch = [earlier, earlier._replace(firing=False, ends_ms=ends_ms)]

    async def test(box: Inbox) -> int:
        await box.accept([FIRING, FIRING._replace(fingerprint="bb01")], NOW)
        for alerts in [batch] if posts == 1 else [[each] for each in batch]:
            await box.accept(alerts, NOW)
        return len(box.firing_alerts(NOW)) - 1

    assert run_with_inbox(tmp_path, test) == firing


def test_one_post_may_tell_twice(tmp_path: Path) -> None:
    """Duplicates within one payload are handled as in two payloads."""

    async def test(box: Inbox) -> Mapping[str, int]:
        return await box.accept([FIRING, FIRING, RESOLVED], NOW)

    assert run_with_inbox(tmp_path, test) == {"taken": 1, "repeated": 1, "resolved": 1}


def test_a_posted_alert_says_where_it_is_from(tmp_path: Path) -> None:
    """A posted alert has a label that no own alert has, and no value."""

    async def test(box: Inbox) -> Any:
        await box.accept([FIRING], NOW)
        (alert,) = box.firing_alerts(NOW)
        return alert

    alert = run_with_inbox(tmp_path, test)

    assert alert.name == "Hot"
    assert dict(alert.labels) == {"__source__": "webhook", "alertname": "Hot", "instance": "box"}
    assert alert.value != alert.value


def test_it_expires(tmp_path: Path) -> None:
    """An alert that is not posted again expires; one that is posted again in time does not."""

    async def test(box: Inbox) -> list[int]:
        box.expire_ms = 5 * MINUTE
        await box.accept([FIRING], NOW)
        await box.accept([FIRING], NOW + 4 * MINUTE)
        return [len(box.firing_alerts(NOW + minutes * MINUTE)) for minutes in (8, 10)]

    assert run_with_inbox(tmp_path, test) == [1, 0]


def test_an_expired_one_that_still_fires_begins_anew(tmp_path: Path) -> None:
    """A repeat after Alertmanager's 4 h starts anew, and so does a resolved alert that fires again."""

    async def test(box: Inbox) -> list[Any]:
        results: list[Any] = []
        for hours, post in ((0, FIRING), (4, FIRING), (4, FIRING), (8, RESOLVED), (12, FIRING)):
            now = NOW + hours * 60 * MINUTE
            results.append((*(await box.accept([post], now)), len(box.firing_alerts(now))))
        return results

    assert run_with_inbox(tmp_path, test) == [
        ("taken", 1),
        ("taken", 1),
        ("repeated", 1),
        ("resolved", 0),
        ("taken", 1),
    ]


def test_an_expired_one_needs_room_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expired alert does not evade the limit, and making room for others does not lose it."""
    monkeypatch.setattr(webhook_inbox, "MAX_FIRING", 2)
    monkeypatch.setattr(webhook_inbox, "MAX_ROWS", 2)
    later = NOW + 60 * MINUTE

    async def test(box: Inbox) -> int:
        await box.accept([FIRING], NOW)
        await box.accept([FIRING._replace(fingerprint="bb"), FIRING._replace(fingerprint="cc")], later)
        with pytest.raises(FullError, match="2 posted alerts fire already"):
            await box.accept([FIRING], later)
        await box.accept([RESOLVED._replace(fingerprint="bb")], later)
        await box.accept([FIRING], later)
        return len(box.firing_alerts(later))

    assert run_with_inbox(tmp_path, test) == 2


def test_it_outlives_the_process(tmp_path: Path) -> None:
    """An accepted alert still exists after a restart, and its retry is recognized."""

    async def first(box: Inbox) -> None:
        await box.accept([FIRING, FIRING._replace(fingerprint="bb")], NOW)
        await box.accept([FIRING._replace(fingerprint="bb", firing=False)], NOW)

    async def second(box: Inbox) -> tuple[int, Mapping[str, int]]:
        return len(box.firing_alerts(NOW)), await box.accept([FIRING], NOW)

    run_with_inbox(tmp_path, first)

    assert run_with_inbox(tmp_path, second) == (1, {"repeated": 1})


def test_what_is_old_is_gone_after_a_restart(tmp_path: Path) -> None:
    """A week after its last post, an alert is forgotten, on the disk too."""

    async def first(box: Inbox) -> None:
        await box.accept([FIRING], NOW - webhook_inbox.RETENTION_MS)
        await box.accept([FIRING._replace(fingerprint="bb")], NOW)

    async def second(box: Inbox) -> list[webhook_inbox.InboxKey]:
        return list(box._rows)

    run_with_inbox(tmp_path, first)

    assert run_with_inbox(tmp_path, second) == [("bb", FIRING.starts_ms)]


def test_many_posts_share_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Posts that come together share a write, and each is answered after it."""
    monkeypatch.setattr(webhook_inbox, "WINDOW", 0.05)

    async def test(box: Inbox) -> tuple[int, int]:
        statements: list[str] = []
        assert box._database is not None
        box._database.set_trace_callback(statements.append)
        posts = [box.accept([FIRING._replace(fingerprint=f"{number:x}")], NOW) for number in range(200)]
        await asyncio.gather(*posts)
        return len(box.firing_alerts(NOW)), statements.count("COMMIT")

    alerts, commits = run_with_inbox(tmp_path, test)

    assert alerts == 200
    assert commits <= 3


def test_a_full_inbox_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many firing alerts are refused as a whole; an ended alert makes room, and its end is always accepted."""
    monkeypatch.setattr(webhook_inbox, "MAX_FIRING", 3)
    several = [FIRING._replace(fingerprint=each) for each in "abcd"]

    async def test(box: Inbox) -> list[Any]:
        await box.accept(several[:3], NOW)
        with pytest.raises(FullError, match="3 posted alerts fire already"):
            await box.accept(several[3:], NOW)
        again = await box.accept(several[:3], NOW)
        ended = await box.accept([several[0]._replace(firing=False)], NOW)
        return [again, ended, await box.accept(several[3:], NOW), len(box.firing_alerts(NOW))]

    assert run_with_inbox(tmp_path, test) == [{"repeated": 3}, {"resolved": 1}, {"taken": 1}, 3]


def test_what_is_over_is_forgotten_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many alerts come and go, the number of rows is bounded, in memory and on the disk."""
    monkeypatch.setattr(webhook_inbox, "MAX_ROWS", 50)

    async def test(box: Inbox) -> tuple[int, int]:
        await box.accept([FIRING], NOW)
        for number in range(120):
            resolved = FIRING._replace(fingerprint=f"{number:x}", firing=False)
            await box.accept([resolved], NOW + number)
        return len(box._rows), len(box.firing_alerts(NOW + 120))

    rows, firing = run_with_inbox(tmp_path, test)
    (stored,) = sqlite3.connect(tmp_path / FILE).execute("SELECT count(*) FROM inbox").fetchone()

    assert rows <= 50
    assert stored == rows
    assert firing == 1


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    """A post that cannot be written is refused and forgotten, so that its retry is accepted completely."""

    async def test(box: Inbox) -> tuple[int, Mapping[str, int]]:
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FullError, match="cannot be written: database is locked"):
            await box.accept([FIRING], NOW)
        before = len(box.firing_alerts(NOW))
        other.execute("ROLLBACK")
        other.close()
        return before, await box.accept([FIRING], NOW)

    assert run_with_inbox(tmp_path, test) == (0, {"taken": 1})


def test_a_full_disk_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One log line for any number of refused posts, and one for the end of the fault."""

    async def test(box: Inbox) -> None:
        other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert box._database is not None
        box._database.execute("PRAGMA busy_timeout = 1")
        for _ in range(3):
            with pytest.raises(FullError):
                await box.accept([FIRING], NOW)
        other.execute("ROLLBACK")
        other.close()
        for name in ("bb", "cc"):
            await box.accept([FIRING._replace(fingerprint=name)], NOW)

    run_with_inbox(tmp_path, test)
    output = capsys.readouterr()

    assert (output.out + output.err).count("posted alerts are refused") == 1
    assert (output.out + output.err).count("posted alerts are accepted again") == 1


def test_a_file_that_is_none_is_moved_aside(tmp_path: Path) -> None:
    """A damaged file costs its content, but the webhook works."""
    (tmp_path / FILE).write_bytes(b"garbage" * 1000)

    async def test(box: Inbox) -> Mapping[str, int]:
        return await box.accept([FIRING], NOW)

    assert run_with_inbox(tmp_path, test) == {"taken": 1}
    assert (tmp_path / f"{FILE}.unreadable").read_bytes() == b"garbage" * 1000
