"""Remedies wait for a journal that cannot be used now, and go on from what it holds; a lost one stays a reason."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.remediation.journal import FILE, Journal, take_timestamp
from agent.remediation.model import RemediationState
from tests.agent.remediation.test_remediator_at_work import RemediatorBench, drive

PATIENCE = 60.0  # seconds


def write_journal(folder: Path, state: RemediationState) -> None:
    journal, faults = Journal(folder, lambda: take_timestamp(1_700_000_000_000)), list[str | None]()
    journal.commit(state, (), faults.append)
    journal.close()
    assert faults == [None]


@contextlib.contextmanager
def lock_journal(folder: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(folder / FILE, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        yield


def tick(bench: RemediatorBench) -> None:
    bench.seconds += 1.0
    now_ms = bench.remedies.context.clock.now_ms()
    bench.rules.evaluate(bench.history, now_ms)
    bench.remedies.tick(now_ms)


async def tick_until_open(bench: RemediatorBench) -> None:
    async with asyncio.timeout(PATIENCE):
        while bench.remedies._journal is None or bench.remedies.halted:
            tick(bench)
            await asyncio.sleep(0.01)


def test_a_locked_journal_is_waited_for(tmp_path: Path) -> None:
    """Nothing begins meanwhile; then pauses from before and of meanwhile hold, and without them remedies act."""
    write_journal(tmp_path, RemediationState(pauses=("night",)))
    locked = contextlib.ExitStack()
    locked.enter_context(lock_journal(tmp_path))
    with capture_logs() as lines:
        bench = RemediatorBench(tmp_path, "pace")

    async def play() -> None:
        assert "is tried again" in bench.remedies.halted
        for _ in range(3):
            tick(bench)
            await asyncio.sleep(0.01)
        bench.remedies.pause("day", "an operator")
        assert bench.actions["pace"].planned == []
        locked.close()
        await tick_until_open(bench)
        assert bench.remedies.state.pauses == ("night", "day")
        await bench.pass_ticks(3)
        assert bench.actions["pace"].planned == []
        bench.remedies.resume(None, "an operator")
        await bench.pass_ticks(40, lambda: bench.actions["pace"].planned != [])
        assert bench.actions["pace"].planned != []

    with capture_logs() as later_lines:
        drive(bench, play)

    assert [line["event"] for line in (*lines, *later_lines)].count("no remedy acts") == 1
    assert "the journal can be used again; remedies act" in [line["event"] for line in later_lines]


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_a_lost_journal_stays_a_reason(tmp_path: Path, content: bytes) -> None:
    """An emptied journal is no clean start: nothing acts, and the log says what is known of the hand's leases."""
    write_journal(tmp_path, RemediationState())
    (tmp_path / FILE).write_bytes(content)
    with capture_logs() as lines:
        bench = RemediatorBench(tmp_path, "pace")

        async def play() -> None:
            bench.remedies.recover()
            for _ in range(5):
                tick(bench)
            async with asyncio.timeout(PATIENCE):
                while not any("leases" in line["event"] for line in lines):
                    await asyncio.sleep(0.01)
            assert bench.actions["pace"].planned == []
            assert "so no remedy acts" in bench.remedies.halted

        drive(bench, play)

    assert (tmp_path / FILE).read_bytes() == content
