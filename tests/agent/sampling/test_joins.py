"""The tick with a join of sources of different paces: every reading is remembered with the time of its own source."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from agent.alerting.notifier import Notifier, NotifierCounters
from agent.config.schema import AlertingConfig
from agent.loop import Loop
from agent.runtime.clock import Clock
from agent.sampling import plugins
from agent.sampling.eye_pool import EyePool
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from collectors import Sample, gauge
from rules import promql
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

HWMON = gauge("steadytok_hwmon_temperature_celsius", "…")
IPMI = gauge("steadytok_ipmi_temperature_celsius", "…")
HSMP = gauge("steadytok_hsmp_dimm_temperature_celsius", "…")
SAYS = {
    "hwmon": (HWMON, {"chip": "spd5118", "device": "3-0050", "sensor": "temp1"}),
    "ipmi": (IPMI, {"sensor": "DIMMA1 Temp", "number": "0x31", "entity_id": "32", "entity_instance": "96"}),
    "hsmp": (HSMP, {"socket": "0", "channel": "0", "dimm": "0"}),
}
INTERVALS = {"hwmon": 2.0, "ipmi": 30.0, "hsmp": 3.0}
TEMPERATURE = "steadytok_dimm_temperature_celsius"
STARTED = 1000.0  # on the monotonic clock


class House:
    """Three sources whose reading is the second in which it was taken, the join of them, and one loop."""

    def __init__(self, root: Path) -> None:
        self.now = STARTED
        self.takes = dict.fromkeys(INTERVALS, 0.0)
        self.silent: set[str] = set()
        self.under_way: list[tuple[float, CollectionResult]] = []
        self.loop = Loop(
            clock=Clock(lambda: self.now, lambda: 1_700_000_000.0 + self.now),
            sampler=Sampler(self.lane, [*map(source, INTERVALS), the_join()], self.now, root=str(root)),
            eye_pool=EyePool(str(root), lambda _: None),
            history=History(3_600_000),
            rules=RuleEvaluator(load_rules([]), interval_ms=1000, external_labels={}, external_url="http://x"),
            notifier=Notifier(AlertingConfig(), {}, "http://x", NotifierCounters(CollectorRegistry())),
            read_self_metrics=lambda now, now_ms: (),
            interval=1.0,
            stale_after=3,
        )

    def lane(self, collector: Collector) -> Lane:
        return Lane(self)

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            for due, result in [answer for answer in self.under_way if answer[0] <= self.now]:
                self.under_way.remove((due, result))
                self.loop.deliver(result)
            self.loop.sampler.make_slow_due("ipmi", self.now)  # as the schedule does for what is slower than 5 s
            await self.loop.tick()
            self.now += 1.0

    def remembered(self, source: str) -> list[tuple[float, float]]:
        """(second of the row, value) of the source's series of the join, oldest first."""
        found: dict[float, float] = {}
        query = promql.compile(f'{TEMPERATURE}{{source="{source}"}}')
        for second in range(int(self.now - STARTED)):
            for _, value in query.evaluate_at(self.loop.history, self.loop.clock.from_monotonic_ms(STARTED + second)):
                found.setdefault(value, float(second))
        return sorted((second, value) for value, second in found.items())

    def newest(self) -> dict[str, float]:
        found = promql.compile(TEMPERATURE).evaluate_at(
            self.loop.history, self.loop.clock.from_monotonic_ms(self.now - 1.0)
        )
        return {dict(labels)["source"]: value for labels, value in found}


class Lane:
    """Answers as many seconds later as the house says."""

    def __init__(self, house: House) -> None:
        self.busy_since: float | None = None
        self._house = house

    def start(self, collector: Collector, began: float) -> None:
        name = collector.name
        if name in self._house.silent:
            self.busy_since = began
            return
        metric, labels = SAYS[name]
        sample = Sample(metric, tuple(sorted(labels.items())), began - STARTED)
        result, takes = CollectionResult(name, began, 0.0, 0.0, (sample,), ()), self._house.takes[name]
        if takes:
            self._house.under_way.append((began + takes, result))
        else:
            self._house.loop.deliver(result)


def source(name: str) -> Collector:
    return Collector(name, "", (), lambda host: (), INTERVALS[name], 60.0, isolated=False)


def the_join() -> Collector:
    plain = {"interval": None, "deadline": None, "config": None}
    return plugins.bind_collector(plugins.load_collectors()["dimm"], "dimm", **plain)


@pytest.mark.parametrize("slow", [0.0, 12.0])
def test_every_source_comes_at_its_own_time(slow: float, tmp_path: Path) -> None:
    """A slow source, and one whose answer takes long, hold back no other's reading, and none looks newer than it is."""

    async def scenario() -> None:
        house = House(tmp_path)
        house.takes["ipmi"] = slow
        await house.seconds(75)

        # The value is the second of its reading: the row must be that second's, whenever the answer came.
        for name, times in {name: house.remembered(name) for name in INTERVALS}.items():
            assert [value for _, value in times] == [*range(0, 75 - int(house.takes[name]), int(INTERVALS[name]))][
                : len(times)
            ]
            assert all(second == value for second, value in times), name
        assert len(house.remembered("hwmon")) >= 37
        assert len(house.remembered("hsmp")) >= 24
        assert len(house.remembered("ipmi")) == 3

    asyncio.run(scenario())


def test_a_source_that_falls_silent_takes_its_own_readings_along(tmp_path: Path) -> None:
    """The others stay: one dead BMC must not blind the alerts about what hwmon sees."""

    async def scenario() -> None:
        house = House(tmp_path)
        await house.seconds(10)
        assert house.newest().keys() == {"hwmon", "ipmi", "hsmp"}

        house.silent = {"hsmp"}
        await house.seconds(60)
        assert house.newest().keys() == {"hwmon", "ipmi"}
        assert house.newest()["hwmon"] > 60

        assert not house.loop.history.conflicts

    asyncio.run(scenario())
