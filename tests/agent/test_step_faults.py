"""A step of the tick that fails: the others run, the fault is visible, and the next tick tries the step again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from agent.loop import Loop
from agent.runtime.clock import Clock
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from collectors import gauge
from tests.loops import build_loop

HEAT = gauge("steadytok_heat_celsius", "Heat.")
PARTS = (
    *("eye_pool", "history", "inbox", "memory_estimate", "notifier", "persistence", "presenter"),
    *("remediator", "rules", "sampler", "scheduler", "self_metrics", "watchdog"),
)
LOOP_FILE = sys.modules[Loop.__module__].__file__
FAULTS = (OSError(24, "Too many open files"), MemoryError(), ValueError("no such sensor"))
FOLLOWERS = {
    "sampler.start_due": {"sampler.record_result", "sampler.append_joined"},
    "sampler.record_result": {"sampler.append_joined"},
    "sampler.find_silent": {"history.is_silent", "history.silence"},
    "history.is_silent": {"history.silence"},
    "rules.list_alerts": {"notifier.enqueue_due"},
    "presenter.format_status": {"watchdog.notify_tick"},
}
"""Calls that need the result of another: they are left out where that one fails."""


class SpiedPart:
    """Passes every call to a part of the loop, records its name, and raises in the one that the test chooses."""

    def __init__(self, part: Any, name: str, bench: Bench) -> None:
        self._part, self._name, self._bench = part, name, bench

    def __getattr__(self, method: str) -> Any:
        value = getattr(self._part, method)
        return self._wrap(value, f"{self._name}.{method}") if callable(value) else value

    def _wrap(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if sys._getframe(1).f_code.co_filename != LOOP_FILE:  # one part calls another: that is its own affair
                return function(*arguments, **options)
            self._bench.calls.append(name)
            if name == self._bench.failing and self._bench.fault is not None:
                raise self._bench.fault
            return function(*arguments, **options)

        return call


class Bench:
    """A loop whose parts are all spied on; in each tick somebody has set the wall clock, so that every step runs."""

    def __init__(self, folder: Path) -> None:
        self.event_loop = asyncio.new_event_loop()
        self.calls: list[str] = []
        self.failing = ""
        self.fault: BaseException | None = None
        self.monotonic, self.wall = 1000.0, 1_700_000_000.0
        rules = folder / "rules.yml"
        rules.write_text("groups: [{name: g, rules: [{alert: Hot, expr: steadytok_heat_celsius > 80}]}]")
        names = ("read", "mute")
        collectors = [Collector(name, "", (HEAT,), lambda host: (), 1.0, 0.5, isolated=False) for name in names]
        sampler = Sampler(lambda collector: _Runner(self), collectors, self.monotonic)
        clock = Clock(lambda: self.monotonic, lambda: self.wall)
        self.loop: Loop = build_loop(clock, sampler, rule_files=[rules])
        self.loop.interval = 0.01  # the tick waits half of it for the collector that never answers
        for name in PARTS:
            setattr(self.loop, name, SpiedPart(getattr(self.loop, name), name, self))

    def tick(self, failing: str = "", fault: BaseException | None = None) -> set[str]:
        """Runs one tick, and returns the names of the calls that it made."""
        self.calls.clear()
        self.failing, self.fault = failing, fault
        self.monotonic += 5.0  # beyond `stale_after`: the collector without results falls silent
        self.wall += 3605.0
        self.event_loop.run_until_complete(self.loop.tick())
        return set(self.calls)


class _Runner:
    """Delivers a result at once for the collector `read`, and never one for the other."""

    def __init__(self, bench: Bench) -> None:
        self.busy_since: float | None = None
        self._bench = bench

    def start(self, collector: Collector, began: float) -> None:
        if collector.name == "read":
            result = CollectionResult("read", began, 0.0, 0.0, (HEAT.sample(90.0, dimm="a"),), ())  # type: ignore[arg-type]
            self._bench.loop.deliver(result)


@pytest.fixture(name="make_bench")
def _make_bench(tmp_path: Path) -> Iterator[Callable[[], Bench]]:
    """Builds benches, and closes their event loops."""
    benches: list[Bench] = []

    def make() -> Bench:
        benches.append(Bench(tmp_path))
        return benches[-1]

    yield make
    for bench in benches:
        bench.event_loop.close()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_no_step_takes_another_with_it(make_bench: Callable[[], Bench], fault: Exception) -> None:
    """Whichever call of the tick fails, the tick ends, every other step runs, and the fault has a name and a count."""
    steps = make_bench().tick()  # discovered, so that a step which is added later is tested too
    assert len(steps) > 20

    for step in sorted(steps):
        bench = make_bench()
        calls = bench.tick(step, fault)
        assert steps - calls <= FOLLOWERS.get(step, set()), step
        assert {reported.kind for reported in bench.loop.steps.faults} == {type(fault)}, step
        assert bench.loop.steps.counts.total() >= 1, step

        assert bench.tick() >= steps - {"history.silence"}, step
        assert bench.loop.steps.faults == [], step


@pytest.mark.parametrize("ending", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_the_tick(make_bench: Callable[[], Bench], ending: type[BaseException]) -> None:
    """No guard holds back what ends a task or the process."""
    for step in sorted(make_bench().tick()):
        with pytest.raises(ending):
            make_bench().tick(step, ending())


def test_a_lasting_fault_is_logged_once(make_bench: Callable[[], Bench]) -> None:
    """The log has one line when a step begins to fail, one when it fails otherwise, and one when it works again."""
    bench = make_bench()
    with structlog.testing.capture_logs() as lines:
        bench.loop.steps._log = structlog.get_logger()
        for number in range(5):
            bench.tick("rules.evaluate", OSError(24, f"number {number}"))
        bench.tick("rules.evaluate", ValueError("another kind"))
        bench.tick()
    events = [
        (line["log_level"], line["step"], line.get("reason") or line["failures"]) for line in lines if "step" in line
    ]

    assert events == [
        ("error", "evaluate", "OSError: [Errno 24] number 0"),
        ("error", "evaluate", "ValueError: another kind"),
        ("info", "evaluate", 1),
    ]
    assert bench.loop.steps.counts["evaluate"] == 6
