"""
The tick: what the agent does each second, in order. Read `Loop.tick` first.

Sample, record, evaluate, notify, remediate, persist, show, feed the watchdog.
"""

from __future__ import annotations

import asyncio
import contextlib

from agent.alerting.notifier import Notifier
from agent.alerting.webhook_inbox import Inbox
from agent.console.presenter import Presenter
from agent.persistence import Persistence
from agent.remediation.remediator import Remediator
from agent.runtime.clock import Clock
from agent.runtime.scheduler import Scheduler
from agent.runtime.sd_notify import SystemdNotifier
from agent.runtime.step_guard import StepGuard
from agent.sampling.eye_pool import EyePool
from agent.sampling.passes import CollectionResult, Outcome
from agent.sampling.sampler import Sampler
from agent.selfmetrics.definitions import SAMPLING_GROUP
from agent.selfmetrics.memory_estimate import MemoryEstimate
from agent.selfmetrics.self_metrics import SelfMetrics
from agent.tick_log import TickLog
from rules.evaluator import RuleEvaluator
from rules.history.history import History


class Loop:
    """One tick after another, on the monotonic clock."""

    def __init__(
        self,
        *,
        clock: Clock,
        sampler: Sampler,
        eye_pool: EyePool,
        history: History,
        rules: RuleEvaluator,
        notifier: Notifier,
        inbox: Inbox,
        remediator: Remediator,
        persistence: Persistence,
        memory_estimate: MemoryEstimate,
        presenter: Presenter,
        watchdog: SystemdNotifier,
        scheduler: Scheduler,
        self_metrics: SelfMetrics,
        steps: StepGuard,
        interval: float,
        stale_after: int,
    ) -> None:
        self.clock = clock
        self.sampler = sampler
        self.eye_pool = eye_pool
        self.history = history
        self.rules = rules
        self.notifier = notifier
        self.inbox = inbox
        self.remediator = remediator
        self.persistence = persistence
        self.memory_estimate = memory_estimate
        self.presenter = presenter
        self.watchdog = watchdog
        self.scheduler = scheduler
        self.self_metrics = self_metrics
        self.steps = steps
        self.interval = interval
        self.stale_after = stale_after
        self.ticks = 0
        self.last_tick_at: float | None = None
        self.busy_seconds = 0.0
        self.late_seconds = 0.0
        self._awake_at = clock.monotonic()
        self._arrived: list[CollectionResult] = []
        self._awaited: set[str] = set()
        self._all_arrived = asyncio.Event()
        self._tick_log = TickLog()

    async def run(self, stop: asyncio.Event) -> None:
        """Ticks until `stop`; after a late tick the next ones do not come in a burst."""
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
        """Runs every step of one second; a step that fails is counted and logged, and the others run."""
        guard = self.steps.guard
        started_at = self._check_standstill()
        self._apply_clock_shift()
        await self._sample(started_at)
        sampled_at = self._check_standstill()  # again: the agent may have stood still while it waited for results
        now_ms = self.clock.from_monotonic_ms(sampled_at)
        self._record(now_ms)
        with guard("evaluate"):
            self._evaluate(now_ms)
        with guard("notify"):
            self.notifier.enqueue_due(self.rules.list_alerts(), now_ms)
        self._measure_tick(sampled_at)
        with guard("remediate"):
            self.remediator.tick(now_ms)
        with guard("save alerts"):
            self.persistence.save_alerts(self.rules, self.notifier, now_ms)
        with guard("record to disk"):
            self.persistence.record(self.history, now_ms)
        with guard("estimate memory"):
            self.memory_estimate.maybe_log(now_ms)
        with guard("show"):
            self.presenter.show(now_ms)
        with guard("feed watchdog"):
            self.watchdog.notify_tick(self.presenter.format_status())

    def _check_standstill(self) -> float:
        """Returns the monotonic time; tells the sampler when the agent stood still, as on a host short of memory."""
        now = self.clock.monotonic()
        if now - self._awake_at > 2 * self.interval:
            with self.steps.guard("note standstill"):
                self.sampler.note_wake(now)
        self._awake_at = now
        return now

    def _apply_clock_shift(self) -> None:
        """Moves every stored time when somebody has set the wall clock, so that durations stay."""
        shift_ms = 0
        with self.steps.guard("read clock"):
            shift_ms = self.clock.detect_shift_ms()
        if not shift_ms:
            return
        with self.steps.guard("log shift"):
            self._tick_log.log_shift(shift_ms)
        parts = ("history", "rules", "notifier", "remediator", "inbox", "scheduler", "persistence")
        for name in parts:  # one by one: a part that fails must not leave the parts behind it in the old time
            with self.steps.guard("shift", name):
                part = getattr(self, name)
                part.reschedule() if name == "scheduler" else part.shift(shift_ms)

    async def _sample(self, started_at: float) -> None:
        """Starts the collectors that are due, and waits for their results at most half an interval."""
        with self.steps.guard("restart eyes"):
            self.eye_pool.restart_stuck(started_at)
        with self.steps.guard("start collectors"):
            names = self.sampler.start_due(started_at)
            self._awaited = names - {result.collector for result in self._arrived}
        remaining = started_at + self.interval / 2 - self.clock.monotonic()
        if not self._awaited or remaining <= 0:
            return
        self._all_arrived.clear()
        with contextlib.suppress(TimeoutError):  # a result that has not arrived enters the next tick
            await asyncio.wait_for(self._all_arrived.wait(), remaining)

    def deliver(self, result: CollectionResult) -> None:
        """Takes the result of a collector; called on the event loop only."""
        self._arrived.append(result)
        self._awaited.discard(result.collector)
        if not self._awaited:
            self._all_arrived.set()

    def _record(self, now_ms: int) -> None:
        """Records the results that arrived, the silence of collectors without one, and the agent's self-metrics."""
        guard = self.steps.guard
        delivered, self._arrived = self._arrived, []
        arrived: list[CollectionResult] = []
        for result in delivered:
            with guard("take result", result.collector):
                if self.sampler.record_result(result):
                    arrived.append(result)
        joined: list[CollectionResult] = []
        with guard("join"):
            joined = self.sampler.join_arrived(result.collector for result in arrived)
        for result in arrived:
            with guard("record", result.collector):
                if result.samples or result.outcome is Outcome.ABSENT:
                    samples = self.sampler.append_joined(result)
                    self.history.record(result.collector, self.clock.from_monotonic_ms(result.began), samples)
        with guard("log results"):
            self._tick_log.log_results([*arrived, *joined])
            self._tick_log.log_stuck_reads(self.sampler.states)
        now = self.clock.monotonic()
        with guard("find silent collectors"):
            for name in self.sampler.find_silent(now, self.stale_after):
                if not self.history.is_silent(name):
                    self.history.silence(name, now_ms)
        with guard("measure the agent"):
            self_readings = self.self_metrics.read(
                now, now_ms, rules=self.rules, busy_seconds=self.busy_seconds, late_seconds=self.late_seconds
            )
            self.history.record(SAMPLING_GROUP, now_ms, [reading for reading in self_readings if reading is not None])

    def _evaluate(self, now_ms: int) -> None:
        self.rules.evaluate(self.history, now_ms)
        self._tick_log.log_rule_faults(self.rules.health)

    def _measure_tick(self, sampled_at: float) -> None:
        self.ticks += 1
        self.last_tick_at = self.clock.monotonic()
        self.busy_seconds = self.last_tick_at - sampled_at
