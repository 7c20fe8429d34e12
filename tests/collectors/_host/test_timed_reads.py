"""Places with their own time budget: one that never returns is left behind, and costs one thread and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collectors import Host
from collectors._host.timed_reads import TimedReader

AMPLE = 30.0  # seconds; a place that returns is never late, however busy the machine
SHORT = 1.0
PLACES = ("a", "b", "c", "d")
Until = Callable[[Callable[[], bool]], None]


class Bus:
    """Places that answer with their name, but for those whose gate is shut."""

    def __init__(self) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.asked: list[str] = []
        self.threads: set[int] = set()

    def shut(self, *places: str) -> None:
        self.gates |= {place: threading.Event() for place in places}

    def open(self, *places: str) -> None:
        for place in places:
            self.gates.pop(place).set()

    def read(self, host: Host, place: str) -> str:
        self.asked.append(place)
        self.threads.add(threading.get_ident())
        if gate := self.gates.get(place):
            gate.wait()
        host.note(place, "read")
        return place.upper()


@pytest.fixture(name="bus")
def _bus() -> Iterator[Bus]:
    bus = Bus()
    yield bus
    bus.open(*bus.gates)


@pytest.fixture(name="host")
def _host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture(name="until")
def _until() -> Until:
    def until(condition: Callable[[], bool]) -> None:
        end = time.monotonic() + AMPLE
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.005)

    return until


def _since(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


def _reasons(host: Host) -> dict[str, str]:
    return {note.path: note.reason for note in host.take_notes()}


def test_one_worker_reads_all_places_in_order(bus: Bus, host: Host) -> None:
    """While every place returns one thread is enough for all passes, and its notes are the pass's."""
    patience = TimedReader(AMPLE, AMPLE)
    passes = [list(patience.read_each(host, PLACES, bus.read)) for _ in range(5)]

    assert passes == [[("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")]] * 5
    assert len(bus.threads) == 1
    assert bus.threads != {threading.get_ident()}
    assert [note.path for note in host.take_notes()] == [*PLACES] * 5


def test_a_stuck_place_is_left_behind_and_not_asked_again(bus: Bus, host: Host, until: Until) -> None:
    """Its thread is the only one more; when that has returned the place is asked again, and nothing late is told."""
    before = set(threading.enumerate())
    patience = TimedReader(SHORT, AMPLE)
    bus.shut("b")
    first = list(patience.read_each(host, PLACES, bus.read))
    reasons = _reasons(host)
    threads = _since(before)
    later = [list(patience.read_each(host, PLACES, bus.read)) for _ in range(5)]
    reasons_later = _reasons(host)

    assert [place for place, _ in first] == ["a", "c", "d"]
    assert reasons["b"] == "did not return within 1 s"
    assert [[place for place, _ in one] for one in later] == [["a", "c", "d"]] * 5
    assert reasons_later["b"] == "a read of an earlier pass has not returned yet"
    assert _since(before) == threads
    assert len(threads) == 2
    assert bus.asked.count("b") == 1

    bus.open("b")
    until(lambda: len(_since(before)) == 1)

    assert dict(patience.read_each(host, PLACES, bus.read)) == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert _reasons(host)["b"] == "read"
    assert _since(before) < threads


def test_a_pass_that_is_over_goes_on_where_it_ended(bus: Bus, host: Host) -> None:
    """What a pass did not reach is noted, and is first in the next one: no place is hidden for ever."""
    patience = TimedReader(AMPLE, SHORT)
    bus.shut("b")
    first = [place for place, _ in patience.read_each(host, PLACES, bus.read)]
    reasons = _reasons(host)
    second = [place for place, _ in patience.read_each(host, PLACES, bus.read)]

    assert first == ["a"]
    assert reasons["b"].startswith("did not return within its time")
    assert reasons["c"] == reasons["d"] == "not read: the pass was over after 1 s, and begins here next time"
    assert second == ["c", "d", "a"]


def test_what_a_read_raises_is_raised_after_what_had_come(bus: Bus, host: Host) -> None:
    """A fault of the code is not taken for a slow place, and the worker outlives it."""

    def read(own: Host, place: str) -> str:
        if place == "c":
            raise ZeroDivisionError
        return bus.read(own, place)

    patience = TimedReader(AMPLE, AMPLE)
    came = []
    with pytest.raises(ZeroDivisionError):
        came += [place for place, _ in patience.read_each(host, ("c",), read)]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            for place, _answer in patience.read_each(host, PLACES, read):
                came.append(place)

    assert came == ["a", "b", "a", "b"]
    assert len(bus.threads) == 1


def test_nobody_left_and_nothing_to_read_cost_no_thread(bus: Bus, host: Host, until: Until) -> None:
    """Without places no thread is begun, and the worker ends with whoever had it."""
    before = set(threading.enumerate())
    patience = TimedReader(AMPLE, AMPLE)
    nothing = list(patience.read_each(host, (), bus.read))
    idle = _since(before)
    list(patience.read_each(host, PLACES, bus.read))
    working = _since(before)
    del patience
    until(lambda: not _since(before))

    assert (nothing, idle, len(working)) == ([], set(), 1)
