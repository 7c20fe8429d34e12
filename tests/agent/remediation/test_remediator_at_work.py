"""Remedies in one process, with real rules, a real journal, and actions that a test controls."""

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
from agent.remediation import catalog, journal
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
class FakeAction:
    """An action whose plan, write, undo and steering call functions of the test."""

    action: Any
    planning: Callable[[], None] = lambda: None
    undoing: Callable[[], None] = lambda: None
    steering: Callable[[], None] = lambda: None
    planned: list[Task] = field(default_factory=list)
    written_by: list[str] = field(default_factory=list)
    VERBS = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.action, name)

    def plan(self, task: Task, reach: object) -> Plan:
        self.planned.append(task)
        self.planning()
        return Plan(1.0, 0.7, "as planned")

    def do(self, task: Task, plan: Plan, reach: object) -> Any:
        self.written_by.append(task.remedy)
        return plan.wanted

    def undo(self, task: Task, plan: Plan, reach: object) -> None:
        self.undoing()

    def steer(self, task: Task, memory: Any, moment: Moment) -> tuple[Any, Any]:
        self.steering()
        return memory, moment.held


class RemediatorBench:
    """Remedies with a clock that a test moves."""

    def __init__(self, folder: Path, *actions: str, **settings: Any) -> None:
        self.folder, self.seconds, self.heat = folder, 1000.0, 9.0
        (folder / "rules.yml").write_text(RULES)
        self.rules = RuleEvaluator(
            load_rules([folder / "rules.yml"]), interval_ms=1000, external_labels={}, external_url="", clock=lambda: 0.0
        )
        targets = {"pace": {"engine": "r1"}, "webhook": {"url": "http://127.0.0.1:1/"}, "drop_caches": {}}
        remedies = [
            {"name": name, "match": ['alertname="Hot"'], "action": name, "target": targets[name], **settings}
            for name in actions
        ]
        document = {"remedies": remedies, "engines": [{"name": "r1", "url": "http://127.0.0.1:1"}]}
        bound = catalog.bind_remedies(parse({**document, "remediation": {"builtin": False}}, "f", {}), "f")
        self.actions = {bound.name: FakeAction(bound.action) for bound in bound}
        self.catalog = [replace(bound, action=self.actions[bound.name]) for bound in bound]
        self.settings = RemediationConfig(mode="enforce", pause_file=str(folder / "pause"))
        self.history = History(3_600_000)
        clock = Clock(lambda: self.seconds, lambda: self.seconds + 1_700_000_000)
        context = RemediationContext(clock, self.history, lambda: self.rules, {}, "/", folder, folder / "token", "none")
        self.remedies = Remediator(context, self.settings, self.catalog)

    async def pass_ticks(self, ticks: int, until: Callable[[], bool] = lambda: False, step: float = 1.0) -> None:
        """Runs so many ticks, each after the acts of the one before have ended."""
        for _ in range(ticks):
            if until():
                return
            self.seconds += step
            now_ms = self.remedies.context.clock.now_ms()
            self.history.record("heat", now_ms, [HEAT.sample(self.heat, dimm="A1")])
            self.rules.evaluate(self.history, now_ms)
            self.remedies.tick(now_ms)
            await self.settle()

    async def settle(self) -> None:
        """Waits until no act is under way and the journal has all."""
        under_way = (Phase.STARTED, Phase.WRITING)
        for _ in range(2000):
            await asyncio.sleep(0.002)
            acts = any(act.phase in under_way for act in self.remedies.state.acts)
            if not acts and not self.remedies._executor.has_pending:
                return await self.sync_journal()
        raise AssertionError("something never ended")

    async def sync_journal(self) -> None:
        journal_thread, loop, committed = self.remedies._journal, asyncio.get_running_loop(), asyncio.Event()
        assert journal_thread is not None
        journal_thread.commit(self.remedies.state, (), lambda _: loop.call_soon_threadsafe(committed.set) and None)
        await committed.wait()

    def read_lines(self) -> list[tuple[str, str]]:
        return [(entry.what, entry.says) for entry in self.read_entries()]

    def read_entries(self) -> list[AuditEntry]:
        return journal.read_audit(self.folder / journal.FILE, 10_000)


def drive(desk: RemediatorBench, play: Callable[[], Any]) -> None:
    """Runs a play on an event loop, and closes the remedies."""

    async def run() -> None:
        await play()
        await desk.remedies.close()

    asyncio.run(run())


def _kill(desk: RemediatorBench) -> None:
    (desk.folder / "pause").touch()


def _cool(desk: RemediatorBench) -> None:
    desk.heat = 1.0
    now_ms = desk.remedies.context.clock.now_ms() + 1
    desk.history.record("heat", now_ms, [HEAT.sample(1.0, dimm="A1")])
    desk.rules.evaluate(desk.history, now_ms, force=True)


def _observe(desk: RemediatorBench) -> None:
    desk.remedies.configure(RemediationConfig(mode="observe", pause_file=desk.settings.pause_file), desk.catalog)


def _pause(desk: RemediatorBench) -> None:
    desk.remedies.state = replace(desk.remedies.state, pauses=("night",))


def _drop(desk: RemediatorBench) -> None:
    desk.remedies.configure(desk.settings, [])


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        (_kill, "the kill-switch file exists"),
        (_pause, "paused: night"),
        (_observe, "the mode is now observe"),
        (_cool, "its alert has ended"),
        (_drop, "the remedy has left the configuration"),
    ],
)
def test_what_comes_between_plan_and_write_stops_the_write(
    tmp_path: Path, stop: Callable[[RemediatorBench], None], why: str
) -> None:
    """A plan may take minutes: the stopping guards are asked again before the write, and a stop costs no budget."""
    desk = RemediatorBench(tmp_path, "webhook")
    desk.actions["webhook"].planning = lambda: stop(desk)
    drive(desk, lambda: desk.pass_ticks(1))

    assert desk.actions["webhook"].written_by == []
    assert [line for line in desk.read_lines() if line[0] == "refused"] == [("refused", f"{why}; nothing was written")]
    assert desk.remedies.state.acts == ()
    assert [attempt.counted for attempt in desk.remedies.state.attempts] == [False]


def test_nothing_between_plan_and_write_lets_it_be_written(tmp_path: Path) -> None:
    """The same act is written if nothing stops it."""
    desk = RemediatorBench(tmp_path, "webhook")
    drive(desk, lambda: desk.pass_ticks(1))

    assert desk.actions["webhook"].written_by == ["webhook"]


def test_what_cannot_be_put_back_is_told_once_and_keeps_nobody_back(tmp_path: Path) -> None:
    """Undoing is tried again, each reason is logged once, and another remedy acts meanwhile."""
    desk = RemediatorBench(tmp_path, "pace", "drop_caches", verify={"expr": "vector(1)"})
    reasons = iter(["nobody is there"] * 3 + ["no route"] + ["nobody is there"] * 1000)
    tried = []

    def fail() -> None:
        tried.append(1)
        raise FailedError(next(reasons))

    desk.actions["pace"].undoing = fail

    async def play() -> None:
        await desk.pass_ticks(2)
        assert [act.phase for act in desk.remedies.state.acts if act.remedy == "pace"] == [Phase.HELD]
        desk.remedies.state = replace(
            desk.remedies.state, acts=tuple(replace(act, phase=Phase.RELEASING) for act in desk.remedies.state.acts)
        )
        await desk.pass_ticks(50, step=RETRY_SECONDS)
        desk.actions["pace"].undoing = lambda: None
        await desk.pass_ticks(1, step=RETRY_SECONDS)

    drive(desk, play)

    assert len(tried) >= 40
    assert "restored" in dict(desk.read_lines())
    assert [line for line in desk.read_lines() if line[0] == "failed"] == [
        ("failed", "nobody is there"),
        ("failed", "no route"),
    ]
    assert desk.actions["drop_caches"].written_by == ["drop_caches"]


def test_an_action_that_cannot_be_steered_costs_no_other_its_lease(tmp_path: Path) -> None:
    """The fault is logged, and another remedy's lease is still renewed."""
    desk = RemediatorBench(tmp_path, "pace", verify={"expr": "vector(1)"})
    paced = desk.catalog[0]
    faulty = FakeAction(paced.action.action)
    broken = replace(paced, action=faulty, name="broken", resource="elsewhere")
    desk.remedies.configure(desk.settings, [broken, paced])

    def fault() -> None:
        raise ZeroDivisionError

    faulty.steering = fault

    async def play() -> None:
        await desk.pass_ticks(200, until=lambda: len(desk.remedies.state.acts) == 2, step=10.0)
        assert [act.remedy for act in desk.remedies.state.acts] == ["broken", "pace"]
        desk.actions["pace"].written_by.clear()
        await desk.pass_ticks(30)

    drive(desk, play)

    assert len(desk.actions["pace"].written_by) == 3
    assert len(faulty.written_by) == 1


def test_try_plans_with_the_labels_of_an_alert_that_fires(tmp_path: Path) -> None:
    """If no alert fires the outcome says so, since an action may need the node of an alert."""
    desk = RemediatorBench(tmp_path, "drop_caches")
    action, tried = desk.actions["drop_caches"], list[Event]()

    def fail() -> None:
        raise FailedError("no node")

    action.planning = fail

    async def play() -> None:
        tried.append(await desk.remedies.dry_run("drop_caches"))
        desk.rules.evaluate(desk.history, 0)
        await desk.pass_ticks(1)
        action.planned.clear()
        action.planning = lambda: None
        tried.append(await desk.remedies.dry_run("drop_caches"))

    drive(desk, play)

    assert tried[0].detail == "no node; planned without labels, since none of its alerts fires"
    assert action.planned[-1].labels == {"alertname": "Hot", "dimm": "A1"}
    assert tried[1].detail == "as planned"


def test_a_recorded_rules_window_counts_for_the_evidence_after_an_act(tmp_path: Path) -> None:
    """A recording over two minutes includes the past for so long; the alert's own expression has no window."""
    desk = RemediatorBench(tmp_path, "webhook")
    drive(desk, lambda: desk.pass_ticks(1))
    windows = {
        alert_input.alert.name: alert_input.window_ms for alert_input in desk.remedies.context.iter_alert_inputs(0)
    }

    assert windows == {"Hot": 0, "Smooth": 120_000}


def test_people_are_named_in_the_audit(tmp_path: Path) -> None:
    """A pause and its end name the operator."""
    desk = RemediatorBench(tmp_path, "webhook")

    async def play() -> None:
        desk.remedies.pause("night", "token ops")
        assert desk.remedies.resume(None, "user anna")

    drive(desk, play)

    assert desk.read_lines() == [("paused", "night, by token ops"), ("resumed", "everything, by user anna")]
