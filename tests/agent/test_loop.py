"""The tick, with a clock that the test moves and collectors that answer at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from agent.alerting.notifier import Notifier, NotifierCounters
from agent.config.schema import AlertingConfig
from agent.loop import Loop
from agent.runtime.clock import Clock
from agent.sampling.eye_pool import EyePool
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from collectors import Reading, Sample, counter, gauge
from rules import promql
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

HEAT = gauge("steadytok_heat_celsius", "Heat.")
EVENTS = counter("steadytok_events_total", "Events.")
RULES = """
groups:
  - name: test
    rules:
      - {alert: Hot, expr: steadytok_heat_celsius > 80, for: 10s}
"""


class Times:
    """Two clocks that the test moves."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.wall = 1_700_000_000.0

    def pass_by(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class InstantLane:
    """A lane that answers in the moment it is asked, unless it is told to hang."""

    def __init__(self, house: House) -> None:
        self.busy_since: float | None = None
        self._house = house

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        if not self._house.hangs:
            self.busy_since = None
            self._house.loop.deliver(CollectionResult(collector.name, began, 0.0, 0.0, self._house.samples(), ()))


class House:
    """One collector, one rule, one loop."""

    def __init__(self, tmp_path: Path) -> None:
        path = tmp_path / "rules.yml"
        path.write_text(RULES)
        self.times = Times()
        self.hangs = False
        self.heat: float | None = 90.0
        self.events = 0.0
        collector = Collector("test", "", (HEAT, EVENTS), lambda host: (), 1.0, 0.5, isolated=False)
        clock = Clock(lambda: self.times.monotonic, lambda: self.times.wall)
        rules = RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels={}, external_url="http://x")
        self.loop = Loop(
            clock=clock,
            sampler=Sampler(lambda _: InstantLane(self), [collector], self.times.monotonic),
            eye_pool=EyePool("/", lambda _: None),
            history=History(3_600_000),
            rules=rules,
            notifier=Notifier(AlertingConfig(), {}, "http://x", NotifierCounters(CollectorRegistry())),
            read_self_metrics=self.own,
            interval=1.0,
            stale_after=3,
        )

    def samples(self) -> tuple[Sample, ...]:
        self.events += 2.0
        readings = (HEAT.sample(self.heat, dimm="a"), EVENTS.sample(self.events))
        return tuple(reading for reading in readings if reading is not None)

    def own(self, now: float, now_ms: int) -> Iterator[Reading]:
        yield from ()

    async def ticks(self, count: int) -> None:
        for _ in range(count):
            await self.loop.tick()
            self.times.pass_by(1.0)

    @property
    def firing(self) -> bool:
        return any(alert.state is AlertState.FIRING for alert in self.loop.rules.alerts())

    def asked(self, text: str) -> list[float]:
        now_ms = self.loop.clock.from_monotonic_ms(self.times.monotonic - 1.0)
        return [value for _, value in promql.compile(text).evaluate_at(self.loop.history, now_ms)]


@pytest.mark.parametrize("step", [0, 3600, -3600, -400 * 86400, 30 * 86400])
def test_a_stepped_wall_clock_shifts_nothing(step: int, tmp_path: Path) -> None:
    """Whatever the wall clock does half-way, `for: 10s` fires after ten seconds and a rate stays a rate."""

    async def scenario() -> None:
        house = House(tmp_path)
        await house.ticks(5)
        house.times.wall += step
        await house.ticks(5)
        assert not house.firing

        await house.ticks(1)
        assert house.firing
        assert house.asked("rate(steadytok_events_total[8s])") == [pytest.approx(2.0)]
        assert house.asked("count_over_time(steadytok_heat_celsius[30s])") == [11.0]
        (alert,) = house.loop.rules.alerts()
        assert alert.fired_at_ms is not None
        assert alert.fired_at_ms - alert.active_at_ms == 10_000
        assert alert.fired_at_ms == round((house.times.wall - 1.0) * 1000)

    asyncio.run(scenario())


def test_silence_makes_stale(tmp_path: Path) -> None:
    """A collector that hangs leaves /metrics after three intervals, and not before."""

    async def scenario() -> None:
        house = House(tmp_path)
        await house.ticks(3)
        house.hangs = True
        await house.ticks(3)
        assert house.asked("steadytok_heat_celsius") == [90.0]

        await house.ticks(1)
        assert house.asked("steadytok_heat_celsius") == []
        assert [metric.name for metric, *_ in house.loop.history.latest() if metric.name == HEAT.name] == []

    asyncio.run(scenario())


def test_an_alert_whose_evidence_falls_silent_is_lost_and_not_resolved(tmp_path: Path) -> None:
    """Silence is not health: the alert goes on firing, unfresh, until a fresh reading says that it is over."""

    async def scenario() -> None:
        house = House(tmp_path)
        await house.ticks(12)
        assert house.firing
        house.hangs = True
        await house.ticks(20)
        (alert,) = house.loop.rules.alerts()
        assert alert.state is AlertState.FIRING
        assert not alert.fresh

        house.loop.sampler.states["test"].due_at = house.times.monotonic
        for lane in house.loop.sampler._runners.values():
            lane.busy_since = None
        house.hangs, house.heat = False, 50.0
        await house.ticks(2)
        (alert,) = house.loop.rules.alerts()
        assert alert.state is AlertState.RESOLVED

    asyncio.run(scenario())


def test_a_vanished_series_is_stale_at_once(tmp_path: Path) -> None:
    """A sensor that is not in the next pass is gone, while its collector goes on."""

    async def scenario() -> None:
        house = House(tmp_path)
        await house.ticks(3)
        house.heat = None
        await house.ticks(1)

        assert house.asked("steadytok_heat_celsius") == []
        assert house.asked("steadytok_events_total") == [8.0]

    asyncio.run(scenario())


def test_a_late_answer_enters_the_next_tick_with_its_own_time(tmp_path: Path) -> None:
    """A pass that comes after its tick is recorded at the time it began."""

    async def scenario() -> None:
        house = House(tmp_path)
        await house.ticks(1)
        house.hangs = True
        began = house.times.monotonic
        await house.ticks(1)
        house.loop.deliver(CollectionResult("test", began, 1.2, 0.0, house.samples(), ()))
        await house.ticks(1)
        times = [at for metric, _, _, at in house.loop.history.latest() if metric.name == HEAT.name]

        assert times == [house.loop.clock.from_monotonic_ms(began)]

    asyncio.run(scenario())


def test_a_late_tick_says_how_late(tmp_path: Path) -> None:
    """Lateness is counted from when the tick was due, however long the one before it took; a punctual one has none."""
    late: list[float] = []

    async def scenario() -> None:
        house, stop = House(tmp_path), asyncio.Event()
        house.loop.interval = 0.001
        delays = iter((0.001, 0.251, 0.001))

        def then(now_ms: int) -> None:
            late.append(house.loop.late_seconds)
            delay = next(delays, None)
            if delay is None:
                stop.set()
            else:
                house.times.pass_by(delay)

        house.loop.after_tick.append(then)
        await house.loop.run(stop)

    asyncio.run(scenario())

    assert late == [0.0, 0.0, pytest.approx(0.25), pytest.approx(0.0)]
