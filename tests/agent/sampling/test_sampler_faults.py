"""Runaway, late and wrong collectors. For tests/agent/sampling/test_sampler.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from agent.sampling.plugins import Collector
from agent.sampling.sampler import CollectionResult, Sampler, collect_readings
from collectors import Host, Reading, Sample, gauge
from rules.history.history import History

METRIC = gauge("steadytok_test_value", "A value.")


class HeldLane:
    """A lane whose passes end when the test says so."""

    def __init__(self) -> None:
        self.busy_since: float | None = None

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began


def collector(name: str = "test") -> Collector:
    return Collector(name, "", (METRIC,), lambda host: (), 1.0, 0.5, isolated=False)


def test_a_collector_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is above the cap is not even asked for: readings without an end must not take the host's memory."""
    monkeypatch.setattr("agent.sampling.sampler.SERIES_CAP", 3)
    asked: list[int] = []

    def readings() -> Iterator[Reading]:
        for number in itertools.takewhile(lambda number: number < 1000, itertools.count()):
            asked.append(number)
            yield METRIC.sample(1.0, n=str(number))

    assert len(collect_readings("test", readings, Host(), 0.0).samples) == 3
    assert len(asked) < 10


@pytest.mark.parametrize("wrong", [("x",), (1, 2, 3), "text", Sample(METRIC, (), "warm")])  # type: ignore[arg-type]
def test_what_is_no_sample_is_the_collectors_failure(wrong: Any) -> None:
    """A collector that yields anything else has failed, and nothing of it reaches History."""
    result = collect_readings("test", lambda: iter([METRIC.sample(1.0), wrong]), Host(), 0.0)
    history = History(3_600_000)

    assert history.record("test", 1, result.samples)
    assert result.error is not None


def test_a_read_slower_than_its_interval_is_late_and_not_silent() -> None:
    """A collector that always takes four intervals is shown with its age, not hidden the moment it arrives."""
    lane = HeldLane()
    gather = Sampler(lambda _: lane, [collector()], 0.0)
    gather.start_due(0.0)
    lane.busy_since = None
    gather.record_result(CollectionResult("test", 0.0, 4.0, 0.01, (Sample(METRIC, (), 1.0),), ()))

    assert gather.find_silent(4.0, 3) == []
    assert gather.find_silent(30.0, 3) == ["test"]


def test_a_read_under_way_is_not_stacked_by_a_reload() -> None:
    """A collector that is removed while it reads and comes back gets its old lane, not a second read."""
    lanes: list[HeldLane] = []

    def lane_of(_: Collector) -> HeldLane:
        lanes.append(HeldLane())
        return lanes[-1]

    gather = Sampler(lane_of, [collector()], 0.0)
    gather.start_due(0.0)
    gather.remove("test")
    gather.add(collector(), 1.0)

    assert gather.start_due(1.0) == set()
    assert len(lanes) == 1
