"""One pass of a collector: its result, its limits, and the thread it runs in."""

from __future__ import annotations

import itertools
import math
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.sampling.collector_state import CollectorState
from agent.sampling.passes import CollectionResult, Outcome, ThreadRunner, collect_readings
from agent.sampling.plugins import Collector
from collectors import ABSENT_ERRNOS, Host, Note, Reading, Sample
from collectors._host.pending_reads import MAX_ABANDONED
from rules.history.history import History
from tests.agent.sampling.fakes import METRIC, make_collector, make_result


def test_a_raising_collector_keeps_what_it_gave() -> None:
    """An exception becomes the error of the pass; the samples before it stay."""

    def readings() -> Iterator[Reading]:
        yield METRIC.sample(1.0)
        raise KeyError("surprise")

    result = collect_readings("test", readings, Host(), 0.0)

    assert [sample.value for sample in result.samples] == [1.0]
    assert result.error == "KeyError: 'surprise'"
    assert result.outcome is Outcome.FAILED


def test_series_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Series above the cap are dropped, and a note says so."""
    monkeypatch.setattr("agent.sampling.passes.SERIES_CAP", 3)
    result = collect_readings("test", lambda: (METRIC.sample(1.0, n=str(n)) for n in range(10)), Host(), 0.0)

    assert len(result.samples) == 3
    assert "cap of 3 series" in result.notes[0].reason


def test_a_collector_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readings above the cap are not requested: endless readings must not fill the host's memory."""
    monkeypatch.setattr("agent.sampling.passes.SERIES_CAP", 3)
    requested: list[int] = []

    def readings() -> Iterator[Reading]:
        for number in itertools.takewhile(lambda number: number < 1000, itertools.count()):
            requested.append(number)
            yield METRIC.sample(1.0, n=str(number))

    assert len(collect_readings("test", readings, Host(), 0.0).samples) == 3
    assert len(requested) < 10


@pytest.mark.parametrize("wrong", [("x",), (1, 2, 3), "text", Sample(METRIC, (), "warm")])  # type: ignore[arg-type]
def test_what_is_no_sample_is_the_collectors_failure(wrong: Any) -> None:
    """A collector that yields another type has failed, and the wrong value does not reach the history."""
    result = collect_readings("test", lambda: iter([METRIC.sample(1.0), wrong]), Host(), 0.0)
    history = History(3_600_000)

    assert history.record("test", 1, result.samples)
    assert result.error is not None


@pytest.mark.parametrize(
    ("samples", "reasons", "outcome"),
    [
        (1, ["Input/output error"], Outcome.OK),
        (0, ["Input/output error"], Outcome.FAILED),
        (0, [], Outcome.ABSENT),
        (0, ["Permission denied", "Operation not permitted"], Outcome.REFUSED),
        (0, ["Permission denied", "no such file"], Outcome.FAILED),
    ],
)
def test_outcomes(samples: int, reasons: list[str], outcome: Outcome) -> None:
    """Absent hardware and refusals are not failures; a pass with any other note and no sample is one."""
    host = Host()
    for reason in reasons:
        host.note("file", reason)
    result = collect_readings("test", lambda: [METRIC.sample(1.0)] * samples, host, 0.0)

    assert result.outcome is outcome


def test_processor_time_of_other_threads_counts() -> None:
    """CPU time that a collector's own threads spent belongs to that pass, and to no later one."""
    host = Host()

    def readings() -> Iterator[Reading]:
        host.spend(0.25)
        yield METRIC.sample(1.0)

    assert collect_readings("test", readings, host, 0.0).cpu_seconds >= 0.25
    assert collect_readings("test", lambda: (), host, 0.0).cpu_seconds < 0.25


@pytest.fixture(autouse=True)
def _patient_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves it to the test which reads are abandoned, however slow the machine is."""
    monkeypatch.setattr("agent.sampling.read_watch.READ_BUDGET", math.inf)


def _read_files(names: Sequence[str]) -> Collector:
    """Makes a collector that reads one number from each file."""
    return make_collector(collect=lambda host: [METRIC.sample(host.read_int(name), file=name) for name in names])


def _abandon_next(runner: ThreadRunner, name: str) -> bool:
    """Abandons the read of a FIFO once it is under way; returns False if the runner keeps waiting for it."""
    while runner.path_being_read != name:
        time.sleep(0.001)
    return runner.abandon_stuck_read(0.0)


def test_a_read_that_never_returns_is_left_behind(tmp_path: Path) -> None:
    """A FIFO without a writer costs its pass that reading alone; the next passes skip it, and it is noted."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("7")
    results: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()
    runner, collector = ThreadRunner("test", Host(tmp_path), results.put), _read_files(["fifo", "file"])
    runner.start(collector, 0.0)
    assert _abandon_next(runner, "fifo")
    first = results.get(timeout=50)
    runner.start(collector, 1.0)
    second = results.get(timeout=50)
    os.close(os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK))  # lets the thread go

    for result, began in ((first, 0.0), (second, 1.0)):
        assert [(sample.labels, sample.value) for sample in result.samples] == [((("file", "file"),), 7.0)]
        assert result.notes == (Note("fifo", "a read has not returned; the file is skipped meanwhile"),)
        assert result.began == began


def test_a_returned_read_ends_its_thread_and_gives_nothing(tmp_path: Path) -> None:
    """When a read that was left behind returns, no second result comes of it, and its thread ends."""
    os.mkfifo(tmp_path / "fifo")
    results: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()
    runner = ThreadRunner("left behind", Host(tmp_path), results.put)
    runner.start(_read_files(["fifo"]), 0.0)
    assert _abandon_next(runner, "fifo")
    results.get(timeout=50)
    (tmp_path / "fifo").write_text("1")
    while sum(thread.name == "collect left behind" for thread in threading.enumerate()) > 1:
        time.sleep(0.001)

    assert results.empty()


def test_stuck_threads_are_bounded(tmp_path: Path) -> None:
    """Where too many reads do not return, the pass waits for the next one: no thread more, and other runners go on."""
    names = [f"fifo{number}" for number in range(MAX_ABANDONED + 2)]
    for name in names:
        os.mkfifo(tmp_path / name)
    results: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()
    runner = ThreadRunner("stuck", Host(tmp_path), results.put)
    runner.start(_read_files(names), 0.0)
    assert all(_abandon_next(runner, name) for name in names[:MAX_ABANDONED])
    assert not _abandon_next(runner, names[MAX_ABANDONED])
    assert runner.busy_since == 0.0
    for name in names:
        (tmp_path / name).write_text("1")  # lets the threads go, one after the other

    assert results.get(timeout=50).samples[-1].labels == (("file", names[-1]),)


def test_a_series_counts_once() -> None:
    """Of a series that a pass gives twice the first value stays, and a note names it: tt-kmd#25."""
    readings = [METRIC.sample(1.0, chip="a"), METRIC.sample(2.0, chip="a"), METRIC.sample(3.0, chip="b")]
    result = collect_readings("test", lambda: readings, Host(), 0.0)

    assert [sample.value for sample in result.samples] == [1.0, 3.0]
    assert [note.path for note in result.notes] == ["steadytok_test_value{chip='a'}"]


@pytest.mark.parametrize("errno", sorted(ABSENT_ERRNOS))
def test_devices_that_vanish_have_failed(errno: int) -> None:
    """A device that was never there is absent; one that gave readings before and says that it is gone is a failure."""
    gone = CollectionResult("test", 0.0, 0.0, 0.0, (), (Note("temp1_input", os.strerror(errno)),))
    state, never = CollectorState(make_collector(), 0.0), CollectorState(make_collector(), 0.0)
    state.record_result(make_result("test", 0.0))
    for each in (state, never):
        each.record_result(gone)

    assert state.outcome is Outcome.FAILED
    assert (never.outcome is Outcome.ABSENT) == (gone.outcome is Outcome.ABSENT)
    assert state.last_good_at == 0.0
