"""The state of one collector: when it is due, what its passes cost, and when it last gave a reading."""

from __future__ import annotations

import math
from collections import deque

from agent.sampling.partial_loss import PartialLoss
from agent.sampling.passes import CollectionResult, Outcome
from agent.sampling.plugins import Collector

MAX_CPU_SHARE = 0.01  # of one core: a collector that costs more gets a longer interval
SLOW_INTERVAL = 5.0  # seconds: collectors with a longer interval are due by the scheduler, not by the tick
MAX_INTERVAL = 120.0  # seconds: rules look back five minutes


class CollectorState:
    """When one collector is due, what its passes cost, and its last results."""

    def __init__(self, collector: Collector, now: float) -> None:
        self.collector = collector
        self.due_at = now
        self.interval = collector.interval
        self.started_at = -math.inf
        self.overruns = 0
        self.is_overdue = False
        self.last_result: CollectionResult | None = None
        self.last_good_at: float | None = None
        self.added_at = now
        self.pass_count = 0
        self.has_given = False
        self.partial_loss = PartialLoss()
        self._cpu_costs: deque[float] = deque(maxlen=5)

    @property
    def is_slow(self) -> bool:
        """True while the scheduler makes the collector due, instead of the tick."""
        return self.collector.interval > SLOW_INTERVAL

    def start_at(self, now: float) -> None:
        """Puts the next pass one interval later, on the grid: a late tick does not shift the passes after it."""
        self.started_at = now
        self.due_at += self.interval
        if self.is_slow:
            self.due_at = math.inf
        elif self.due_at <= now:
            self.due_at = now + self.interval

    def record_result(self, result: CollectionResult) -> None:
        """Records a pass, and adapts the interval to what the last passes cost."""
        self.last_result = result
        self.partial_loss.record_result(result)
        self.pass_count += 1
        self.is_overdue = False
        self.has_given = self.has_given or bool(result.samples)
        if result.samples or self.outcome is Outcome.ABSENT:
            self.last_good_at = result.began
        self._cpu_costs.append(result.cpu_seconds)
        interval = result.again or 0.0
        if len(self._cpu_costs) == self._cpu_costs.maxlen:
            interval = max(interval, sorted(self._cpu_costs)[len(self._cpu_costs) // 2] / MAX_CPU_SHARE)  # the median
        self.interval = max(self.collector.interval, min(interval, MAX_INTERVAL))

    @property
    def is_unreported(self) -> bool:
        """True before the first result. A first pass that failed, as while an eye starts, does not count."""
        return self.pass_count == 0 or (
            self.pass_count == 1 and self.last_result is not None and self.last_result.error is not None
        )

    @property
    def last_duration(self) -> float:
        """Seconds of the last pass: a collector always slower than its interval is late, not silent."""
        return 0.0 if self.last_result is None else self.last_result.seconds

    def age(self, now: float) -> float:
        """Seconds since the newest good reading began; since the collector was added where there is none."""
        return now - (self.added_at if self.last_good_at is None else self.last_good_at)

    @property
    def outcome(self) -> Outcome | None:
        """
        The outcome of the last pass; FAILED while a read is overdue, however good the last pass was.

        FAILED, too, where all devices have gone that gave readings before: i2c reports a lost module with ENXIO.
        """
        result = self.last_result
        has_vanished = self.has_given and result is not None and result.outcome is Outcome.ABSENT and result.notes
        if self.is_overdue or has_vanished:
            return Outcome.FAILED
        return None if self.last_result is None else self.last_result.outcome
