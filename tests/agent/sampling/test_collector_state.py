"""The interval of one collector, as its passes ask for it and as they cost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.sampling.collector_state import CollectorState
from agent.sampling.passes import collect_readings
from collectors import Host, Reading
from tests.agent.sampling.fakes import METRIC, make_collector, make_result


def test_a_collector_may_ask_for_a_longer_time_to_its_next_pass() -> None:
    """The time that a pass asks for holds until the next, never below the interval or above two minutes."""
    host = Host()

    def readings() -> Iterator[Reading]:
        host.again(30.0)
        yield METRIC.sample(1.0)

    result = collect_readings("test", readings, host, 0.0)
    state = CollectorState(make_collector(interval=10.0), 0.0)
    intervals = []
    for again in (result.again, None, 3.0, 500.0):
        state.record_result(result._replace(again=again))
        intervals.append(state.interval)

    assert result.again == 30.0
    assert collect_readings("test", lambda: (), host, 0.0).again is None
    assert intervals == [30.0, 10.0, 10.0, 120.0]


def test_a_costly_collector_is_asked_less_often() -> None:
    """The interval grows until the collector takes less than a hundredth of a core, and never above two minutes."""
    state = CollectorState(make_collector(), 0.0)
    for number in range(5):
        state.record_result(make_result("test", number, cpu=0.05))
    assert state.interval == pytest.approx(5.0)

    for number in range(5):
        state.record_result(make_result("test", number, cpu=10.0))
    assert state.interval == 120.0

    for number in range(5):
        state.record_result(make_result("test", number, cpu=0.0001))
    assert state.interval == 1.0
