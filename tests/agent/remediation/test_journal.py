"""The journal restores its whole state, with the time away; an unusable journal stops acting."""

from __future__ import annotations

import queue
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.remediation.journal import FILE, Journal, JournalError, Timestamp, read_audit, take_timestamp
from agent.remediation.model import Act, AlertEpisode, Attempt, AuditEntry, Claim, Latch, Phase, RemediationState

LABELS = (("alertname", "Hot"), ("dimm", 'A"1'))
NOW = 1_000_000_000
STATE = RemediationState(
    next_id=8,
    acts=(
        Act(
            id=7,
            remedy="cool",
            resource="pace r1",
            labels=LABELS,
            observed=False,
            reversible=True,
            phase=Phase.HELD,
            began_ms=NOW - 9,
            claims=(Claim("cool", LABELS, 0.7),),
            did_ms=NOW - 5,
            prior="1.0",
            ours=("0.7",),
        ),
    ),
    attempts=(Attempt(7, "cool", "pace r1", NOW - 5, NOW - 9, False),),
    latches=(Latch("drop", LABELS, NOW - 1, "it did not help"),),
    misses={"cool": 2},
    episodes=(AlertEpisode("cool", LABELS, NOW - 20, attempts=1),),
    pauses=("night",),
    resumed_ms={"drop": NOW - 100},
)
ENTRY = AuditEntry(NOW, "cool", LABELS, "pace r1", "did", "it was done", act=7)


class Clock:
    """A wall clock that can be set, and a boot clock that cannot."""

    def __init__(self) -> None:
        self.wall, self.boot, self.name = NOW, 5_000, "boot-a"

    def __call__(self) -> Timestamp:
        return Timestamp(self.wall, self.boot, self.name)


def write_states(folder: Path, clock: Clock, *states: RemediationState) -> str | None:
    """Writes states one after another; returns the last fault."""
    journal, answers = Journal(folder, clock), queue.SimpleQueue[str | None]()
    for state in states:
        journal.commit(state, [ENTRY], answers.put)
    faults = [answers.get(timeout=10) for _ in states]
    journal.close()
    return faults[-1]


def read_state(folder: Path, clock: Clock) -> RemediationState:
    """Returns the state that a new process reads."""
    journal = Journal(folder, clock)
    journal.close()
    return journal.state


def test_everything_comes_back(tmp_path: Path) -> None:
    """State and audit are the same for the next reader; only the owner may read the file."""
    assert write_states(tmp_path, Clock(), RemediationState(), STATE) is None

    assert read_state(tmp_path, Clock()) == STATE
    assert read_audit(tmp_path / FILE, 10) == [ENTRY, ENTRY]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


@settings(max_examples=20)  # each example is a file with four syncs
@given(set_ms=st.integers(-(10**11), 10**11), away_ms=st.integers(0, 10**9))
def test_within_a_boot_no_clock_hides_how_long_we_were_away(
    tmp_path_factory: pytest.TempPathFactory, set_ms: int, away_ms: int
) -> None:
    """A cooldown of nine ms continues with the time away, however the wall clock was set."""
    folder, clock = tmp_path_factory.mktemp("journal"), Clock()
    write_states(folder, clock, STATE)
    clock.boot += away_ms
    clock.wall += away_ms + set_ms

    assert clock.wall - read_state(folder, clock).attempts[0].began_ms == 9 + away_ms


def test_after_a_reboot_a_clock_that_went_back_leaves_nothing_ahead(tmp_path: Path) -> None:
    """Only the wall clock is known then: the newest time counts as now, and the others keep their distance."""
    clock = Clock()
    write_states(tmp_path, clock, STATE)
    clock.boot, clock.name, clock.wall = 10, "boot-b", NOW - 10**9

    state = read_state(tmp_path, clock)
    assert (state.latches[0].since_ms, state.attempts[0].began_ms) == (clock.wall, clock.wall - 8)


@pytest.mark.parametrize("harm", ["no database", "another version", "a bit", "a state that is none"])
def test_a_journal_that_cannot_be_read_is_left_as_it_is(tmp_path: Path, harm: str) -> None:
    """The error says so, and the file keeps its bytes: it knows which acts to undo."""
    path = tmp_path / FILE
    write_states(tmp_path, Clock(), STATE)
    if harm == "no database":
        path.write_bytes(b"x" * 8192)
    else:
        statements = {
            "another version": "PRAGMA user_version = 99",
            "a bit": "UPDATE state SET body = replace(body, 'cool', 'fool')",
            "a state that is none": "UPDATE state SET body = '[]'",
        }
        with sqlite3.connect(path) as database:
            database.execute(statements[harm])
        database.close()
    before = path.read_bytes()

    with pytest.raises(JournalError, match="cannot be read, so no remedy acts"):
        Journal(tmp_path, Clock())
    assert path.read_bytes() == before


def test_a_full_disk_is_told_and_what_was_there_stays(tmp_path: Path) -> None:
    """The callback gets the fault, the state before it stays, and commits go on once there is room."""
    journal, answers = Journal(tmp_path, Clock()), queue.SimpleQueue[str | None]()
    journal.commit(STATE, [ENTRY], answers.put)
    assert answers.get(timeout=10) is None
    journal._database.execute("PRAGMA max_page_count = 1")  # to SQLite the same as a disk with no room
    journal.commit(RemediationState(pauses=("x" * 100_000,)), [ENTRY], answers.put)

    assert "full" in (answers.get(timeout=10) or "")
    journal._database.execute("PRAGMA max_page_count = 1000000")
    journal.commit(RemediationState(next_id=99), [], answers.put)
    assert answers.get(timeout=10) is None
    journal.close()
    assert read_state(tmp_path, Clock()) == RemediationState(next_id=99)
    assert len(read_audit(tmp_path / FILE, 10)) == 1


def test_each_commit_is_synced(tmp_path: Path) -> None:
    """synchronous=FULL (2): a loss of power loses no commit that was confirmed."""
    journal = Journal(tmp_path, Clock())

    assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)
    journal.close()


def test_the_clock_of_this_boot_is_told() -> None:
    """It has the boot's id and a clock that runs through a suspend."""
    now = take_timestamp(7)

    assert (now.wall_ms, now.boot_ms > 0, len(now.boot_id)) == (7, True, 36)
