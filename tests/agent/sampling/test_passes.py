"""One pass of a collector: its result, its limits, and the thread it runs in."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.sampling.passes import CollectionResult, Outcome, ThreadRunner, collect_readings
from agent.sampling.plugins import Collector
from collectors import Host, Reading, Sample
from rules.history.history import History
from tests.agent.sampling.fakes import METRIC, make_collector


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


def test_a_read_that_never_returns_costs_one_thread(tmp_path: Path) -> None:
    """A read of a FIFO without a writer blocks its own runner; another runner returns results meanwhile."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_text("7")
    results: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()

    def make_reader(name: str) -> Collector:
        return make_collector(name, collect=lambda host: [METRIC.sample(host.read_int(name))])

    before = threading.active_count()
    stuck = ThreadRunner("fifo", Host(tmp_path), results.put)
    healthy = ThreadRunner("file", Host(tmp_path), results.put)
    stuck.start(make_reader("fifo"), 0.0)
    for _ in range(3):
        healthy.start(make_reader("file"), 0.0)
        assert [sample.value for sample in results.get(timeout=10).samples] == [7.0]

    assert stuck.busy_since == 0.0
    assert threading.active_count() == before + 2
    (tmp_path / "fifo").write_text("1")  # lets the thread go
    assert results.get(timeout=10).collector == "fifo"
