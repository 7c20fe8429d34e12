"""The tick: sample, record, evaluate, notify. Read this file to know what the agent does each second."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

import structlog

from agent.alerting.notifier import Notifier
from agent.runtime.clock import Clock
from agent.sampling.eye_pool import EyePool
from agent.sampling.passes import CollectionResult, Outcome
from agent.sampling.sampler import Sampler
from collectors import Reading
from rules.evaluator import RuleEvaluator
from rules.history.history import History

SELF_GROUP = "agent"  # the sampling group of what the agent measures about itself


class Loop:
    """One pass after another, on the monotonic clock."""

    def __init__(
        self,
        *,
        clock: Clock,
        sampler: Sampler,
        eye_pool: EyePool,
        history: History,
        rules: RuleEvaluator,
        notifier: Notifier,
        read_self_metrics: Callable[[float, int], Iterable[Reading]],
        interval: float,
        stale_after: int,
    ) -> None:
        self.clock = clock
        self.sampler = sampler
        self.eye_pool = eye_pool
        self.history = history
        self.rules = rules
        self.notifier = notifier
        self.read_self_metrics = read_self_metrics
        self.interval = interval
        self.stale_after = stale_after
        self.on_shift: list[Callable[[int], None]] = []
        self.after_tick: list[Callable[[int], None]] = []
        self.tick_count = 0
        self.last_tick_at: float | None = None
        self.busy_seconds = 0.0
        self.late_seconds = 0.0
        self._awake_at = clock.monotonic()
        self._arrived: list[CollectionResult] = []
        self._awaited: set[str] = set()
        self._all_arrived = asyncio.Event()
        self._logged_states: dict[str, str] = {}
        self._stuck_names: set[str] = set()
        self._rule_faults: dict[str, str] = {}
        self._log = structlog.get_logger()

    def deliver(self, result: CollectionResult) -> None:
        """Takes a Pass; on the event loop only."""
        self._arrived.append(result)
        self._awaited.discard(result.collector)
        if not self._awaited:
            self._all_arrived.set()

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
        started_at = self._check_standstill()
        self._apply_clock_shift()
        self.eye_pool.restart_stuck(started_at)
        await self._wait_for_results(self.sampler.start_due(started_at), started_at + self.interval / 2)
        after_waiting = self._check_standstill()
        now_ms = self.clock.from_monotonic_ms(after_waiting)
        self._record_readings(now_ms)
        self.rules.evaluate(self.history, now_ms)
        self._log_rule_faults()
        self.notifier.enqueue_due(self.rules.alerts(), now_ms)
        self.tick_count += 1
        self.last_tick_at = self.clock.monotonic()
        self.busy_seconds = self.last_tick_at - after_waiting
        for callback in self.after_tick:
            callback(now_ms)

    def _check_standstill(self) -> float:
        """The monotonic time; a host that is short of memory can stand still for seconds, and we with it."""
        now = self.clock.monotonic()
        if now - self._awake_at > 2 * self.interval:
            self.sampler.note_wake(now)
        self._awake_at = now
        return now

    def _apply_clock_shift(self) -> None:
        shift_ms = self.clock.detect_shift_ms()
        if shift_ms:
            self._log.warning("the wall clock stepped; everything remembered moves with it", seconds=shift_ms / 1000)
            for shift in (self.history.shift, self.rules.shift, self.notifier.shift, *self.on_shift):
                shift(shift_ms)

    async def _wait_for_results(self, names: set[str], deadline: float) -> None:
        self._awaited = names - {result.collector for result in self._arrived}
        remaining = deadline - self.clock.monotonic()
        if not self._awaited or remaining <= 0:
            return
        self._all_arrived.clear()
        with contextlib.suppress(TimeoutError):  # what has not come yet enters the next tick
            await asyncio.wait_for(self._all_arrived.wait(), remaining)

    def _record_readings(self, now_ms: int) -> None:
        arrived, self._arrived = self._arrived, []
        arrived = [result for result in arrived if self.sampler.record_result(result)]
        joined = self.sampler.join_arrived(result.collector for result in arrived)
        for result in arrived:
            if result.samples or result.outcome is Outcome.ABSENT:
                samples = self.sampler.append_joined(result)
                self.history.record(result.collector, self.clock.from_monotonic_ms(result.began), samples)
        for result in (*arrived, *joined):
            self._log_state_change(result)
        self._log_stuck_reads()
        now = self.clock.monotonic()
        for name in self.sampler.find_silent(now, self.stale_after):
            if not self.history.is_silent(name):
                self.history.silence(name, now_ms)
        self_readings = [reading for reading in self.read_self_metrics(now, now_ms) if reading is not None]
        self.history.record(SELF_GROUP, now_ms, self_readings)

    def _log_state_change(self, result: CollectionResult) -> None:
        """One line when a collector's state changes, none while it stays."""
        reason = result.error or "; ".join(f"{note.path}: {note.reason}" for note in result.notes[:3])
        # By path: notes come from threads in any order, and with numbers in them that differ each second.
        state = f"{result.outcome.value}|{result.error is None and sorted({note.path for note in result.notes})}"
        previous = self._logged_states.get(result.collector, "")
        if previous == state:
            return
        self._logged_states[result.collector] = state
        log = self._log.bind(collector=result.collector)
        if result.outcome is Outcome.FAILED:
            log.warning("collector failed", reason=reason, missing=len(result.notes))
        elif result.outcome is Outcome.REFUSED:
            log.info("not readable for this user; `steadytok check` says what to do", reason=reason)
        elif result.outcome is Outcome.OK and reason:
            log.info("some readings are missing", reason=reason, missing=len(result.notes))
        elif previous and result.outcome is Outcome.OK and not previous.startswith(Outcome.ABSENT.value):
            log.info("collector is well again")

    def _log_stuck_reads(self) -> None:
        """One line when a read has not returned by its deadline, since such a read never tells its own end."""
        stuck_names = {name for name, collector_state in self.sampler.states.items() if collector_state.is_overdue}
        for name in sorted(stuck_names - self._stuck_names):
            self._log.warning("a read does not return; the others go on", collector=name)
        self._stuck_names = stuck_names

    def _log_rule_faults(self) -> None:
        """One line when a rule begins to fail, and one when it is well again."""
        faults = {f"{rule.group}: {rule.name}": rule.error for rule in self.rules.health if rule.error}
        if faults == self._rule_faults:
            return
        for name, error in faults.items() - self._rule_faults.items():
            self._log.warning("rule failed", rule=name, reason=error)
        for name in self._rule_faults.keys() - faults.keys():
            self._log.info("rule is well again", rule=name)
        self._rule_faults = faults
