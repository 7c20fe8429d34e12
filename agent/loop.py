"""The tick: sample, record, evaluate, notify. Read this file to know what the agent does each second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from agent.alerting.notifier import Notifier
from agent.runtime.clock import Clock
from agent.sampling.eye_pool import Sight
from agent.sampling.sampler import Gather, Outcome, Pass
from collectors import Reading
from rules.evaluator import Rules
from rules.history.history import History

OWN = "agent"  # the sampling group of what the agent measures about itself


class Loop:
    """One pass after another, on the monotonic clock."""

    def __init__(
        self,
        *,
        clock: Clock,
        gather: Gather,
        sight: Sight,
        history: History,
        rules: Rules,
        notifier: Notifier,
        own: Callable[[float, int], Iterable[Reading]],
        interval: float,
        stale_after: int,
    ) -> None:
        self.clock = clock
        self.gather = gather
        self.sight = sight
        self.history = history
        self.rules = rules
        self.notifier = notifier
        self.own = own
        self.interval = interval
        self.stale_after = stale_after
        self.on_step: list[Callable[[int], None]] = []
        self.after_tick: list[Callable[[int], None]] = []
        self.ticks = 0
        self.last_tick: float | None = None
        self.busy_seconds = 0.0
        self.late_seconds = 0.0
        self._awake = clock.monotonic()
        self._arrived: list[Pass] = []
        self._awaited: set[str] = set()
        self._news = asyncio.Event()
        self._told: dict[str, str] = {}
        self._stuck: set[str] = set()
        self._rule_faults: dict[str, str] = {}
        self._log = structlog.get_logger()

    def deliver(self, result: Pass) -> None:
        """Takes a Pass; on the event loop only."""
        self._arrived.append(result)
        self._awaited.discard(result.collector)
        if not self._awaited:
            self._news.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Ticks until `stop`; a tick that is late does not make the next ones come in a burst."""
        planned = due = self.clock.monotonic()
        while not stop.is_set():
            self.late_seconds = max(0.0, self.clock.monotonic() - planned)
            await self.tick()
            planned = due + self.interval
            due = max(planned, self.clock.monotonic())
            try:
                await asyncio.wait_for(stop.wait(), due - self.clock.monotonic())
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Sample, record, evaluate, notify."""
        began = self._notice_standstill()
        self._follow_the_clock()
        self.sight.watch(began)
        await self._wait_for(self.gather.start_due(began), began + self.interval / 2)
        after_waiting = self._notice_standstill()
        now_ms = self.clock.at_ms(after_waiting)
        self._record(now_ms)
        self.rules.evaluate(self.history, now_ms)
        self._tell_of_rules()
        self.notifier.observe(self.rules.alerts(), now_ms)
        self.ticks += 1
        self.last_tick = self.clock.monotonic()
        self.busy_seconds = self.last_tick - after_waiting
        for then in self.after_tick:
            then(now_ms)

    def _notice_standstill(self) -> float:
        """The monotonic time; a host that is short of memory can stand still for seconds, and we with it."""
        now = self.clock.monotonic()
        if now - self._awake > 2 * self.interval:
            self.gather.wake(now)
        self._awake = now
        return now

    def _follow_the_clock(self) -> None:
        step = self.clock.stepped_ms()
        if step:
            self._log.warning("the wall clock stepped; everything remembered moves with it", seconds=step / 1000)
            for move in (self.history.shift, self.rules.shift, self.notifier.shift, *self.on_step):
                move(step)

    async def _wait_for(self, names: set[str], until: float) -> None:
        self._awaited = names - {result.collector for result in self._arrived}
        left = until - self.clock.monotonic()
        if not self._awaited or left <= 0:
            return
        self._news.clear()
        with contextlib.suppress(TimeoutError):  # what has not come yet enters the next tick
            await asyncio.wait_for(self._news.wait(), left)

    def _record(self, now_ms: int) -> None:
        arrived, self._arrived = self._arrived, []
        arrived = [result for result in arrived if self.gather.ended(result)]
        joined = self.gather.joins(result.collector for result in arrived)
        for result in arrived:
            if result.samples or result.outcome is Outcome.ABSENT:
                samples = self.gather.with_joined(result)
                self.history.record(result.collector, self.clock.at_ms(result.began), samples)
        for result in (*arrived, *joined):
            self._tell(result)
        self._tell_of_stuck()
        now = self.clock.monotonic()
        for name in self.gather.silent(now, self.stale_after):
            if not self.history.silent(name):
                self.history.silence(name, now_ms)
        own = [reading for reading in self.own(now, now_ms) if reading is not None]
        self.history.record(OWN, now_ms, own)

    def _tell(self, result: Pass) -> None:
        """One line when a collector's state changes, none while it stays."""
        reason = result.error or "; ".join(f"{note.path}: {note.reason}" for note in result.notes[:3])
        # By path: notes come from threads in any order, and with numbers in them that differ each second.
        state = f"{result.outcome.value}|{result.error is None and sorted({note.path for note in result.notes})}"
        before = self._told.get(result.collector, "")
        if before == state:
            return
        self._told[result.collector] = state
        log = self._log.bind(collector=result.collector)
        if result.outcome is Outcome.FAILED:
            log.warning("collector failed", reason=reason, missing=len(result.notes))
        elif result.outcome is Outcome.REFUSED:
            log.info("not readable for this user; `steadytok check` says what to do", reason=reason)
        elif result.outcome is Outcome.OK and reason:
            log.info("some readings are missing", reason=reason, missing=len(result.notes))
        elif before and result.outcome is Outcome.OK and not before.startswith(Outcome.ABSENT.value):
            log.info("collector is well again")

    def _tell_of_stuck(self) -> None:
        """One line when a read has not returned by its deadline, since such a read never tells its own end."""
        stuck = {name for name, course in self.gather.courses.items() if course.overdue}
        for name in sorted(stuck - self._stuck):
            self._log.warning("a read does not return; the others go on", collector=name)
        self._stuck = stuck

    def _tell_of_rules(self) -> None:
        """One line when a rule begins to fail, and one when it is well again."""
        faults = {f"{rule.group}: {rule.name}": rule.error for rule in self.rules.health if rule.error}
        if faults == self._rule_faults:
            return
        for name, error in faults.items() - self._rule_faults.items():
            self._log.warning("rule failed", rule=name, reason=error)
        for name in self._rule_faults.keys() - faults.keys():
            self._log.info("rule is well again", rule=name)
        self._rule_faults = faults
