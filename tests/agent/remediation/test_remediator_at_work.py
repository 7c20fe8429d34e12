"""Remedies in one process, with real rules and a real journal, and actions that do what a test wants of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from agent.actions import FailedError, Moment, Plan, Task
from agent.config.loader import parse
from agent.config.schema import RemediationConfig
from agent.remediation import catalog, journal, plugins
from agent.remediation.context import RemediationContext
from agent.remediation.model import AuditEntry, Event, Phase
from agent.remediation.remediator import RETRY_SECONDS, Remediator
from agent.runtime.clock import Clock
from collectors import gauge
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

HEAT = gauge("heat", "Heat.")
RULES = """
groups:
  - name: test
    rules:
      - record: heat:smooth
        expr: avg_over_time(heat[2m])
      - alert: Hot
        expr: heat > 5
      - alert: Smooth
        expr: heat:smooth > 5
"""


@dataclass
class Deed:
    """An action whose plan, write, undo and steering do what a test wants of them."""

    action: Any
    planning: Callable[[], None] = lambda: None
    undoing: Callable[[], None] = lambda: None
    steering: Callable[[], None] = lambda: None
    planned: list[Task] = field(default_factory=list)
    wrote: list[str] = field(default_factory=list)
    VERBS = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.action, name)

    def plan(self, task: Task, reach: object) -> Plan:
        self.planned.append(task)
        self.planning()
        return Plan(1.0, 0.7, "as planned")

    def do(self, task: Task, plan: Plan, reach: object) -> Any:
        self.wrote.append(task.remedy)
        return plan.wanted

    def undo(self, task: Task, plan: Plan, reach: object) -> None:
        self.undoing()

    def steer(self, task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
        self.steering()
        return memory, moment.held


class Desk:
    """Remedies with a clock that goes when told."""

    def __init__(self, folder: Path, *actions: str, **enough: Any) -> None:
        self.folder, self.seconds, self.heat = folder, 1000.0, 9.0
        (folder / "rules.yml").write_text(RULES)
        self.rules = RuleEvaluator(
            load_rules([folder / "rules.yml"]), interval_ms=1000, external_labels={}, external_url="", clock=lambda: 0.0
        )
        targets = {"pace": {"engine": "r1"}, "webhook": {"url": "http://127.0.0.1:1/"}, "drop_caches": {}}
        remedies = [
            {"name": name, "match": ['alertname="Hot"'], "action": name, "target": targets[name], **enough}
            for name in actions
        ]
        told = {"remedies": remedies, "engines": [{"name": "r1", "url": "http://127.0.0.1:1"}]}
        book = catalog.bind_remedies(parse({**told, "remediation": {"builtin": False}}, "f", {}), "f")
        self.deeds = {
            bound.remedy.name: Deed(plugins.load_actions({bound.settings.action})[bound.settings.action])
            for bound in book
        }
        self.book = [replace(bound, action=self.deeds[bound.remedy.name]) for bound in book]
        self.settings = RemediationConfig(mode="enforce", pause_file=str(folder / "pause"))
        self.history = History(3_600_000)
        clock = Clock(lambda: self.seconds, lambda: self.seconds + 1_700_000_000)
        around = RemediationContext(clock, self.history, lambda: self.rules, {}, "/", folder, folder / "token", "none")
        self.remedies = Remediator(around, self.settings, self.book)

    async def passes(self, ticks: int, until: Callable[[], bool] = lambda: False, step: float = 1.0) -> None:
        """So many ticks, each after what was begun by the one before has ended."""
        for _ in range(ticks):
            if until():
                return
            self.seconds += step
            now_ms = self.remedies.context.clock.now_ms()
            self.history.record("heat", now_ms, [HEAT.sample(self.heat, dimm="A1")])
            self.rules.evaluate(self.history, now_ms)
            self.remedies.tick(now_ms)
            await self.rests()

    async def rests(self) -> None:
        """Until nothing is being done and the journal has all."""
        under_way = (Phase.STARTED, Phase.WRITING)
        for _ in range(2000):
            await asyncio.sleep(0.002)
            acts = any(act.phase in under_way for act in self.remedies.state.acts)
            if not acts and not self.remedies._executor.has_pending:
                return await self.journalled()
        raise AssertionError("something never ended")

    async def journalled(self) -> None:
        journal_thread, loop, written = self.remedies._journal, asyncio.get_running_loop(), asyncio.Event()
        assert journal_thread is not None
        journal_thread.commit(self.remedies.state, (), lambda _: loop.call_soon_threadsafe(written.set) and None)
        await written.wait()

    def said(self) -> list[tuple[str, str]]:
        return [(entry.what, entry.says) for entry in self.entries()]

    def entries(self) -> list[AuditEntry]:
        return journal.read_audit(self.folder / journal.FILE, 10_000)


def drive(desk: Desk, play: Callable[[], Any]) -> None:
    """Plays on an event loop, and closes."""

    async def whole() -> None:
        await play()
        await desk.remedies.close()

    asyncio.run(whole())


def _kill(desk: Desk) -> None:
    (desk.folder / "pause").touch()


def _cool(desk: Desk) -> None:
    desk.heat = 1.0
    now_ms = desk.remedies.context.clock.now_ms() + 1
    desk.history.record("heat", now_ms, [HEAT.sample(1.0, dimm="A1")])
    desk.rules.evaluate(desk.history, now_ms, force=True)


def _observe(desk: Desk) -> None:
    desk.remedies.configure(RemediationConfig(mode="observe", pause_file=desk.settings.pause_file), desk.book)


def _pause(desk: Desk) -> None:
    desk.remedies.state = replace(desk.remedies.state, pauses=("night",))


def _drop(desk: Desk) -> None:
    desk.remedies.configure(desk.settings, [])


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        (_kill, "the kill-switch file is there"),
        (_pause, "paused: night"),
        (_observe, "the mode is now observe"),
        (_cool, "its alert has ended"),
        (_drop, "the remedy has left the configuration"),
    ],
)
def test_what_comes_between_plan_and_write_stops_the_write(
    tmp_path: Path, stop: Callable[[Desk], None], why: str
) -> None:
    """A plan may take minutes: what stops acts is looked at again before anything is written, and costs no budget."""
    desk = Desk(tmp_path, "webhook")
    desk.deeds["webhook"].planning = lambda: stop(desk)
    drive(desk, lambda: desk.passes(1))

    assert desk.deeds["webhook"].wrote == []
    assert [line for line in desk.said() if line[0] == "refused"] == [("refused", f"{why}; nothing was written")]
    assert desk.remedies.state.acts == ()
    assert [attempt.counted for attempt in desk.remedies.state.attempts] == [False]


def test_nothing_between_plan_and_write_lets_it_be_written(tmp_path: Path) -> None:
    """The same without anything that stops it."""
    desk = Desk(tmp_path, "webhook")
    drive(desk, lambda: desk.passes(1))

    assert desk.deeds["webhook"].wrote == ["webhook"]


def test_what_cannot_be_put_back_is_told_once_and_keeps_nobody_back(tmp_path: Path) -> None:
    """An engine that is gone for good: tried again, told once for each reason, and another remedy acts meanwhile."""
    desk = Desk(tmp_path, "pace", "drop_caches", verify={"expr": "vector(1)"})
    reasons = iter(["nobody is there"] * 3 + ["no route"] + ["nobody is there"] * 1000)
    tried = []

    def fails() -> None:
        tried.append(1)
        raise FailedError(next(reasons))

    desk.deeds["pace"].undoing = fails

    async def play() -> None:
        await desk.passes(2)
        assert [act.phase for act in desk.remedies.state.acts if act.remedy == "pace"] == [Phase.HELD]
        desk.remedies.state = replace(
            desk.remedies.state, acts=tuple(replace(act, phase=Phase.RELEASING) for act in desk.remedies.state.acts)
        )
        await desk.passes(50, step=RETRY_SECONDS)
        desk.deeds["pace"].undoing = lambda: None
        await desk.passes(1, step=RETRY_SECONDS)

    drive(desk, play)

    assert len(tried) >= 40
    assert "restored" in dict(desk.said())
    assert [line for line in desk.said() if line[0] == "failed"] == [
        ("failed", "nobody is there"),
        ("failed", "no route"),
    ]
    assert desk.deeds["drop_caches"].wrote == ["drop_caches"]


def test_an_action_that_cannot_be_steered_costs_no_other_its_lease(tmp_path: Path) -> None:
    """Its fault is logged; what another remedy holds goes on being renewed."""
    desk = Desk(tmp_path, "pace", verify={"expr": "vector(1)"})
    one = desk.book[0]
    faulty = Deed(one.action.action)
    broken = replace(one, action=faulty, remedy=replace(one.remedy, name="broken", resource="elsewhere"))
    desk.remedies.configure(desk.settings, [broken, one])

    def fault() -> None:
        raise ZeroDivisionError

    faulty.steering = fault

    async def play() -> None:
        await desk.passes(200, until=lambda: len(desk.remedies.state.acts) == 2, step=10.0)
        assert [act.remedy for act in desk.remedies.state.acts] == ["broken", "pace"]
        desk.deeds["pace"].wrote.clear()
        await desk.passes(30)

    drive(desk, play)

    assert len(desk.deeds["pace"].wrote) == 3
    assert len(faulty.wrote) == 1


def test_try_plans_with_the_labels_of_an_alert_that_fires(tmp_path: Path) -> None:
    """Where none fires that is said, since an action may need to be told the node."""
    desk = Desk(tmp_path, "drop_caches")
    deed, tried = desk.deeds["drop_caches"], list[Event]()

    def fails() -> None:
        raise FailedError("no node")

    deed.planning = fails

    async def play() -> None:
        tried.append(await desk.remedies.dry_run("drop_caches"))
        desk.rules.evaluate(desk.history, 0)
        await desk.passes(1)
        deed.planned.clear()
        deed.planning = lambda: None
        tried.append(await desk.remedies.dry_run("drop_caches"))

    drive(desk, play)

    assert tried[0].detail == "no node; planned without labels, since no alert that it is for fires"
    assert deed.planned[-1].labels == {"alertname": "Hot", "dimm": "A1"}
    assert tried[1].detail == "as planned"


def test_a_recorded_rules_window_counts_for_the_evidence_after_an_act(tmp_path: Path) -> None:
    """An alert on a recording of two minutes shows what was before for so long; the alert's own expression has none."""
    desk = Desk(tmp_path, "webhook")
    drive(desk, lambda: desk.passes(1))
    windows = {seen.alert.name: seen.window_ms for seen in desk.remedies.context.iter_alert_inputs(0)}

    assert windows == {"Hot": 0, "Smooth": 120_000}


def test_people_are_named_in_the_audit(tmp_path: Path) -> None:
    """A pause and its end say by whom."""
    desk = Desk(tmp_path, "webhook")

    async def play() -> None:
        desk.remedies.pause("night", "token ops")
        assert desk.remedies.resume(None, "user anna")

    drive(desk, play)

    assert desk.said() == [("paused", "night, by token ops"), ("resumed", "everything, by user anna")]
