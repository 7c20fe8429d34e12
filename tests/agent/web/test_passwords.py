"""Strangers who guess passwords keep nobody out who knows one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.web import passwords
from agent.web.passwords import BusyError, Passwords
from agent.web.turns import Turns, group_address
from tests.agent.web.served_site import READ, ServedSite, build_basic_auth, run_test
from tests.structure import HOUSE

USERS = {"alice": bcrypt.hashpw(b"wonderland", bcrypt.gensalt(4)).decode(), "bob": passwords.DUMMY_HASH}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers()), max_size=60))
def test_queues_take_turns(jobs: list[tuple[int, int]]) -> None:
    """A job waits for at most as many others as the jobs before it in its own queue times the number of queues."""
    turns: Turns[tuple[int, int]] = Turns()
    for key, number in jobs:
        assert turns.add(key, (key, number), len(jobs)) is None
    taken = [job for _ in jobs if (job := turns.take()) is not None]

    assert sorted(taken) == sorted(jobs)
    for key in {key for key, _ in jobs}:
        positions = [place for place, job in enumerate(taken) if job[0] == key]

        assert [taken[place] for place in positions] == [job for job in jobs if job[0] == key]
        assert all(place < 4 * (before + 1) for before, place in enumerate(positions))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 8))
def test_a_full_queue_loses_the_oldest_of_the_longest(keys: list[int], limit: int) -> None:
    """Who has one job waiting loses it to nobody who has more."""
    turns: Turns[tuple[int, int]] = Turns()
    waiting: list[tuple[int, int]] = []
    for number, key in enumerate(keys):
        waiting.append((key, number))
        shed = turns.add(key, (key, number), limit)
        if shed is not None:
            lengths = [sum(job[0] == key for job in waiting) for key in range(4)]

            assert lengths[shed[0]] == max(lengths)
            waiting.remove(shed)
        assert len(turns) == len(waiting) <= limit


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::ffff:192.0.2.7", "::ffff:c000:207"),
        ("", ""),
        ("a socket", "a socket"),
    ],
)
def test_a_network_of_addresses_is_one_stranger(address: str, group: str) -> None:
    """IPv6 gives one customer 2^64 addresses."""
    assert group_address(address) == group


def test_a_flood_from_one_address_sheds_its_own_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever an address sends, a user at another one is checked, with an empty cache, and never refused."""
    monkeypatch.setattr(passwords, "MAX_WAITING", 4)

    async def guess(checker: Passwords, number: int) -> bool | str:
        try:
            return await checker.verify(USERS, ("alice", "nobody", f"{number}")[number % 3], f"{number}", "192.0.2.1")
        except BusyError:
            return "busy"

    async def flood() -> list[object]:
        checker = Passwords()  # as after a restart
        guesses = [asyncio.ensure_future(guess(checker, number)) for number in range(100)]
        known = asyncio.ensure_future(checker.verify(USERS, "alice", "wonderland", "192.0.2.2"))
        guesses += [asyncio.ensure_future(guess(checker, number)) for number in range(100, 200)]
        return [await known, *await asyncio.gather(*guesses)]

    known, *guessed = asyncio.run(flood())

    assert known is True
    assert set(guessed) == {False, "busy"}


def test_a_stop_in_the_middle_of_guesses_is_clean(tmp_path: Path) -> None:
    """A checker that closes ends its thread: a thread in native code made the interpreter abort at its end."""
    script = (
        "import asyncio, threading\n"
        "from agent.web.passwords import Passwords\n"
        "async def guess():\n"
        "    checker = Passwords()\n"
        "    checks = [asyncio.ensure_future(checker.verify({}, 'a', str(n))) for n in range(50)]\n"
        "    await asyncio.wait(checks, return_when=asyncio.FIRST_COMPLETED)\n"
        "    checker.close()\n"
        "    assert not any(thread.name == 'passwords' for thread in threading.enumerate())\n"
        "asyncio.run(guess())\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, cwd=HOUSE)

    assert (result.returncode, result.stderr) == (0, "")


def test_guessers_in_flight_lock_nobody_out(tmp_path: Path) -> None:
    """With 60 guesses in flight after a start, from the same address too, who knows the password gets 200."""
    path = tmp_path / "web.yml"
    path.write_text(f"basic_auth_users: {{alice: '{bcrypt.hashpw(b'wonderland', bcrypt.gensalt(8)).decode()}'}}\n")

    async def test(site: ServedSite) -> None:
        guesses = [site.ask("GET", READ, build_basic_auth("alice", f"guess {number}")) for number in range(60)]
        known = site.ask("GET", READ, build_basic_auth("alice", "wonderland"))
        *guessed, (status, _, _) = await asyncio.gather(*guesses, known)

        assert status == 200
        assert {each[0] for each in guessed} == {401}

    run_test(tmp_path, test, config=str(path))
