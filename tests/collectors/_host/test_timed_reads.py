"""Reads with a time budget each: a stuck read costs one thread and blocks no other path."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collectors import Host
from collectors._host.timed_reads import TimedReader

AMPLE = 30.0  # seconds; a read that returns is never late, however busy the machine
SHORT = 1.0
PATHS = ("a", "b", "c", "d")
Until = Callable[[Callable[[], bool]], None]


class Bus:
    """Paths whose read returns their name in capitals, unless their gate is shut."""

    def __init__(self) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.read_paths: list[str] = []
        self.threads: set[int] = set()

    def shut(self, *paths: str) -> None:
        self.gates |= {path: threading.Event() for path in paths}

    def open(self, *paths: str) -> None:
        for path in paths:
            self.gates.pop(path).set()

    def read(self, host: Host, path: str) -> str:
        self.read_paths.append(path)
        self.threads.add(threading.get_ident())
        if gate := self.gates.get(path):
            gate.wait()
        host.note(path, "read")
        return path.upper()


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


def _find_new_threads(before: set[threading.Thread]) -> set[threading.Thread]:
    return set(threading.enumerate()) - before


def _take_reasons(host: Host) -> dict[str, str]:
    return {note.path: note.reason for note in host.take_notes()}


def test_one_worker_reads_all_places_in_order(bus: Bus, host: Host) -> None:
    """While every read returns, one thread serves all passes, and its notes belong to the pass."""
    reader = TimedReader(AMPLE, AMPLE)
    passes = [list(reader.read_each(host, PATHS, bus.read)) for _ in range(5)]

    assert passes == [[("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")]] * 5
    assert len(bus.threads) == 1
    assert bus.threads != {threading.get_ident()}
    assert [note.path for note in host.take_notes()] == [*PATHS] * 5


def test_a_stuck_place_is_left_behind_and_not_asked_again(bus: Bus, host: Host, until: Until) -> None:
    """
    A stuck read costs one additional thread; once it has returned its path is read again, and its late result is
    dropped.
    """
    before = set(threading.enumerate())
    reader = TimedReader(SHORT, AMPLE)
    bus.shut("b")
    first = list(reader.read_each(host, PATHS, bus.read))
    reasons = _take_reasons(host)
    threads = _find_new_threads(before)
    later = [list(reader.read_each(host, PATHS, bus.read)) for _ in range(5)]
    reasons_later = _take_reasons(host)

    assert [path for path, _ in first] == ["a", "c", "d"]
    assert reasons["b"] == "did not return within 1 s"
    assert [[path for path, _ in one] for one in later] == [["a", "c", "d"]] * 5
    assert reasons_later["b"] == "a read of an earlier pass has not returned yet"
    assert _find_new_threads(before) == threads
    assert len(threads) == 2
    assert bus.read_paths.count("b") == 1

    bus.open("b")
    until(lambda: len(_find_new_threads(before)) == 1)

    assert dict(reader.read_each(host, PATHS, bus.read)) == {"a": "A", "b": "B", "c": "C", "d": "D"}
    assert _take_reasons(host)["b"] == "read"
    assert _find_new_threads(before) < threads


def test_a_pass_that_is_over_goes_on_where_it_ended(bus: Bus, host: Host) -> None:
    """Paths that a pass did not reach are noted, and come first in the next pass."""
    reader = TimedReader(AMPLE, SHORT)
    bus.shut("b")
    first = [path for path, _ in reader.read_each(host, PATHS, bus.read)]
    reasons = _take_reasons(host)
    second = [path for path, _ in reader.read_each(host, PATHS, bus.read)]

    assert first == ["a"]
    assert reasons["b"].startswith("did not return within its time")
    assert reasons["c"] == reasons["d"] == "not read: the pass was over after 1 s, and begins here next time"
    assert second == ["c", "d", "a"]


def test_what_a_read_raises_is_raised_after_what_had_come(bus: Bus, host: Host) -> None:
    """An exception in a read is raised after the earlier results, and the worker survives it."""

    def read(worker_host: Host, path: str) -> str:
        if path == "c":
            raise ZeroDivisionError
        return bus.read(worker_host, path)

    reader = TimedReader(AMPLE, AMPLE)
    results = []
    with pytest.raises(ZeroDivisionError):
        results += [path for path, _ in reader.read_each(host, ("c",), read)]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            for path, _answer in reader.read_each(host, PATHS, read):
                results.append(path)

    assert results == ["a", "b", "a", "b"]
    assert len(bus.threads) == 1


def test_nobody_left_and_nothing_to_read_cost_no_thread(bus: Bus, host: Host, until: Until) -> None:
    """Without paths no thread starts, and the worker ends together with its TimedReader."""
    before = set(threading.enumerate())
    reader = TimedReader(AMPLE, AMPLE)
    nothing = list(reader.read_each(host, (), bus.read))
    idle = _find_new_threads(before)
    list(reader.read_each(host, PATHS, bus.read))
    working = _find_new_threads(before)
    del reader
    until(lambda: not _find_new_threads(before))

    assert (nothing, idle, len(working)) == ([], set(), 1)
