"""The tick, with clocks that the test moves and collectors that answer at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.runtime.clock import Clock
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from collectors import Sample, counter, gauge
from rules import promql
from rules.alerts import AlertState
from tests.loops import build_loop

HEAT = gauge("steadytok_heat_celsius", "Heat.")
EVENTS = counter("steadytok_events_total", "Events.")
RULES = """
groups:
  - name: test
    rules:
      - {alert: Hot, expr: steadytok_heat_celsius > 80, for: 10s}
"""


class FakeClocks:
    """Two clocks that the test moves."""

    def __init__(self) -> None:
        self.monotonic = 1000.0
        self.wall = 1_700_000_000.0

    def advance(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


class InstantRunner:
    """A runner that delivers its result at once, unless the test makes it hang."""

    def __init__(self, agent: SimulatedAgent) -> None:
        self.busy_since: float | None = None
        self._agent = agent

    def start(self, collector: Collector, began: float) -> None:
        self.busy_since = began
        if not self._agent.is_hanging:
            self.busy_since = None
            self._agent.loop.deliver(CollectionResult(collector.name, began, 0.0, 0.0, self._agent.read_samples(), ()))


class SimulatedAgent:
    """One collector, one rule, one loop."""

    def __init__(self, tmp_path: Path) -> None:
        path = tmp_path / "rules.yml"
        path.write_text(RULES)
        self.clocks = FakeClocks()
        self.is_hanging = False
        self.heat: float | None = 90.0
        self.events = 0.0
        collector = Collector("test", "", (HEAT, EVENTS), lambda host: (), 1.0, 0.5, isolated=False)
        clock = Clock(lambda: self.clocks.monotonic, lambda: self.clocks.wall)
        sampler = Sampler(lambda _: InstantRunner(self), [collector], self.clocks.monotonic)
        self.loop = build_loop(clock, sampler, rule_files=[path])

    def read_samples(self) -> tuple[Sample, ...]:
        self.events += 2.0
        readings = (HEAT.sample(self.heat, dimm="a"), EVENTS.sample(self.events))
        return tuple(reading for reading in readings if reading is not None)

    async def run_ticks(self, count: int) -> None:
        for _ in range(count):
            await self.loop.tick()
            self.clocks.advance(1.0)

    @property
    def is_firing(self) -> bool:
        return any(alert.state is AlertState.FIRING for alert in self.loop.rules.list_alerts())

    def query(self, expr: str) -> list[float]:
        now_ms = self.loop.clock.from_monotonic_ms(self.clocks.monotonic - 1.0)
        return [value for _, value in promql.compile(expr).evaluate_at(self.loop.history, now_ms)]


@pytest.mark.parametrize("step", [0, 3600, -3600, -400 * 86400, 30 * 86400])
def test_a_stepped_wall_clock_shifts_nothing(step: int, tmp_path: Path) -> None:
    """Wherever the wall clock is set meanwhile, `for: 10s` fires after ten seconds and a rate stays correct."""

    async def scenario() -> None:
        agent = SimulatedAgent(tmp_path)
        await agent.run_ticks(5)
        agent.clocks.wall += step
        await agent.run_ticks(5)
        assert not agent.is_firing

        await agent.run_ticks(1)
        assert agent.is_firing
        assert agent.query("rate(steadytok_events_total[8s])") == [pytest.approx(2.0)]
        assert agent.query("count_over_time(steadytok_heat_celsius[30s])") == [11.0]
        (alert,) = agent.loop.rules.list_alerts()
        assert alert.fired_at_ms is not None
        assert alert.fired_at_ms - alert.active_at_ms == 10_000
        assert alert.fired_at_ms == round((agent.clocks.wall - 1.0) * 1000)

    asyncio.run(scenario())


def test_silence_makes_stale(tmp_path: Path) -> None:
    """The series of a collector that hangs end after three intervals, and not before."""

    async def scenario() -> None:
        agent = SimulatedAgent(tmp_path)
        await agent.run_ticks(3)
        agent.is_hanging = True
        await agent.run_ticks(3)
        assert agent.query("steadytok_heat_celsius") == [90.0]

        await agent.run_ticks(1)
        assert agent.query("steadytok_heat_celsius") == []
        assert [metric.name for metric, *_ in agent.loop.history.get_latest() if metric.name == HEAT.name] == []

    asyncio.run(scenario())


def test_an_alert_whose_evidence_falls_silent_is_lost_and_not_resolved(tmp_path: Path) -> None:
    """Silence is not recovery: the alert fires on, not fresh, until a fresh reading resolves it."""

    async def scenario() -> None:
        agent = SimulatedAgent(tmp_path)
        await agent.run_ticks(12)
        assert agent.is_firing
        agent.is_hanging = True
        await agent.run_ticks(20)
        (alert,) = agent.loop.rules.list_alerts()
        assert alert.state is AlertState.FIRING
        assert not alert.fresh

        agent.loop.sampler.states["test"].due_at = agent.clocks.monotonic
        for lane in agent.loop.sampler._runners.values():
            lane.busy_since = None
        agent.is_hanging, agent.heat = False, 50.0
        await agent.run_ticks(2)
        (alert,) = agent.loop.rules.list_alerts()
        assert alert.state is AlertState.RESOLVED

    asyncio.run(scenario())


def test_a_vanished_series_is_stale_at_once(tmp_path: Path) -> None:
    """The series of a sensor that is missing from the next pass ends, while its collector continues."""

    async def scenario() -> None:
        agent = SimulatedAgent(tmp_path)
        await agent.run_ticks(3)
        agent.heat = None
        await agent.run_ticks(1)

        assert agent.query("steadytok_heat_celsius") == []
        assert agent.query("steadytok_events_total") == [8.0]

    asyncio.run(scenario())


def test_a_late_answer_enters_the_next_tick_with_its_own_time(tmp_path: Path) -> None:
    """A result that arrives after its tick is recorded at the time at which its pass began."""

    async def scenario() -> None:
        agent = SimulatedAgent(tmp_path)
        await agent.run_ticks(1)
        agent.is_hanging = True
        began = agent.clocks.monotonic
        await agent.run_ticks(1)
        agent.loop.deliver(CollectionResult("test", began, 1.2, 0.0, agent.read_samples(), ()))
        await agent.run_ticks(1)
        times = [at for metric, _, _, at in agent.loop.history.get_latest() if metric.name == HEAT.name]

        assert times == [agent.loop.clock.from_monotonic_ms(began)]

    asyncio.run(scenario())


def test_a_late_tick_says_how_late(tmp_path: Path) -> None:
    """Lateness counts from the time the tick was due, however long the previous one took; a punctual tick has none."""
    late: list[float] = []

    async def scenario() -> None:
        agent, stop = SimulatedAgent(tmp_path), asyncio.Event()
        agent.loop.interval = 0.001
        delays = iter((0.001, 0.251, 0.001))

        class Watchdog:
            def notify_tick(self, status: object) -> None:
                late.append(agent.loop.late_seconds)
                delay = next(delays, None)
                if delay is None:
                    stop.set()
                else:
                    agent.clocks.advance(delay)

        agent.loop.watchdog = Watchdog()
        await agent.loop.run(stop)

    asyncio.run(scenario())

    assert late == [0.0, 0.0, pytest.approx(0.25), pytest.approx(0.0)]
