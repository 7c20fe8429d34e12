"""Ticks with a join of fast and slow sources: every reading is recorded with the time of its own source."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.runtime.clock import Clock
from agent.sampling import plugins
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from collectors import Sample, gauge
from rules import promql
from tests.loops import build_loop

HWMON = gauge("steadytok_hwmon_temperature_celsius", "…")
IPMI = gauge("steadytok_ipmi_temperature_celsius", "…")
HSMP = gauge("steadytok_hsmp_dimm_temperature_celsius", "…")
METRIC_BY_SOURCE = {
    "hwmon": (HWMON, {"chip": "spd5118", "device": "3-0050", "sensor": "temp1"}),
    "ipmi": (IPMI, {"sensor": "DIMMA1 Temp", "number": "0x31", "entity_id": "32", "entity_instance": "96"}),
    "hsmp": (HSMP, {"socket": "0", "channel": "0", "dimm": "0"}),
}
INTERVALS = {"hwmon": 2.0, "ipmi": 30.0, "hsmp": 3.0}
TEMPERATURE = "steadytok_dimm_temperature_celsius"
STARTED = 1000.0  # on the monotonic clock


class JoinedHost:
    """Three sources whose value is the second of the reading, the join of them, and one loop."""

    def __init__(self, root: Path) -> None:
        self.now = STARTED
        self.delays = dict.fromkeys(INTERVALS, 0.0)
        self.silent: set[str] = set()
        self.pending: list[tuple[float, CollectionResult]] = []
        self.loop = build_loop(
            Clock(lambda: self.now, lambda: 1_700_000_000.0 + self.now),
            Sampler(self.make_runner, [*map(make_source, INTERVALS), make_join()], self.now, root=str(root)),
            root=str(root),
        )

    def make_runner(self, collector: Collector) -> DelayedRunner:
        return DelayedRunner(self)

    async def run_seconds(self, count: int) -> None:
        for _ in range(count):
            for due, result in [answer for answer in self.pending if answer[0] <= self.now]:
                self.pending.remove((due, result))
                self.loop.deliver(result)
            self.loop.sampler.make_slow_due("ipmi", self.now)  # as the scheduler does for intervals above 5 s
            await self.loop.tick()
            self.now += 1.0

    def find_readings(self, source: str) -> list[tuple[float, float]]:
        """Returns (second of the row, value) of the join's series for a source, oldest first."""
        first_seconds: dict[float, float] = {}
        query = promql.compile(f'{TEMPERATURE}{{source="{source}"}}')
        for second in range(int(self.now - STARTED)):
            for _, value in query.evaluate_at(self.loop.history, self.loop.clock.from_monotonic_ms(STARTED + second)):
                first_seconds.setdefault(value, float(second))
        return sorted((second, value) for value, second in first_seconds.items())

    def find_newest(self) -> dict[str, float]:
        rows = promql.compile(TEMPERATURE).evaluate_at(
            self.loop.history, self.loop.clock.from_monotonic_ms(self.now - 1.0)
        )
        return {dict(labels)["source"]: value for labels, value in rows}


class DelayedRunner:
    """Delivers each result after the delay of its source."""

    def __init__(self, host: JoinedHost) -> None:
        self.busy_since: float | None = None
        self._host = host

    def start(self, collector: Collector, began: float) -> None:
        name = collector.name
        if name in self._host.silent:
            self.busy_since = began
            return
        metric, labels = METRIC_BY_SOURCE[name]
        sample = Sample(metric, tuple(sorted(labels.items())), began - STARTED)
        result, delay = CollectionResult(name, began, 0.0, 0.0, (sample,), ()), self._host.delays[name]
        if delay:
            self._host.pending.append((began + delay, result))
        else:
            self._host.loop.deliver(result)


def make_source(name: str) -> Collector:
    return Collector(name, "", (), lambda host: (), INTERVALS[name], 60.0, isolated=False)


def make_join() -> Collector:
    plain = {"interval": None, "deadline": None, "config": None}
    return plugins.bind_collector(plugins.load_collectors()["dimm"], "dimm", **plain)


@pytest.mark.parametrize("slow", [0.0, 12.0])
def test_every_source_comes_at_its_own_time(slow: float, tmp_path: Path) -> None:
    """A slow source, or one with late results, holds back no other's reading; none looks newer than it is."""

    async def scenario() -> None:
        host = JoinedHost(tmp_path)
        host.delays["ipmi"] = slow
        await host.run_seconds(75)

        # The value is the second of its reading: the row must have that time, whenever the result arrived.
        for name, times in {name: host.find_readings(name) for name in INTERVALS}.items():
            assert [value for _, value in times] == [*range(0, 75 - int(host.delays[name]), int(INTERVALS[name]))][
                : len(times)
            ]
            assert all(second == value for second, value in times), name
        assert len(host.find_readings("hwmon")) >= 37
        assert len(host.find_readings("hsmp")) >= 24
        assert len(host.find_readings("ipmi")) == 3

    asyncio.run(scenario())


def test_a_source_that_falls_silent_takes_its_own_readings_along(tmp_path: Path) -> None:
    """The others stay: one dead BMC must not hide the readings of hwmon from the alerts."""

    async def scenario() -> None:
        host = JoinedHost(tmp_path)
        await host.run_seconds(10)
        assert host.find_newest().keys() == {"hwmon", "ipmi", "hsmp"}

        host.silent = {"hsmp"}
        await host.run_seconds(60)
        assert host.find_newest().keys() == {"hwmon", "ipmi"}
        assert host.find_newest()["hwmon"] > 60

        assert not host.loop.history.conflicts

    asyncio.run(scenario())
