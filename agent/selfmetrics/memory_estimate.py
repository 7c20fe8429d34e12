"""What remembering the readings will take, told once after the start."""

from __future__ import annotations

import structlog

from agent.config.schema import Sampling
from agent.sampling.sampler import Gather, Outcome
from agent.text.units import bytes_written, written
from rules.history.history import History, bytes_needed

SETTLED_MS = 3000  # by then the first readings are in


class Estimate:
    """Says it once, when the first readings are in."""

    def __init__(self, gather: Gather, history: History, sample: Sampling, began_ms: int) -> None:
        self._gather = gather
        self._history = history
        self._sample = sample
        self._began_ms = began_ms
        self._told = False

    def maybe_tell(self, now_ms: int) -> None:
        """After each tick."""
        if not self._told and now_ms - self._began_ms >= SETTLED_MS:
            self._told = True
            self._tell()

    def _tell(self) -> None:
        keep, tick = round(self._sample.keep * 1000), round(self._sample.interval * 1000)
        passes = [(c.last, c.interval) for c in self._gather.courses.values() if c.last is not None]
        sampled = [(len(last.samples), interval) for last, interval in passes if last.outcome is Outcome.OK]
        needed = sum(bytes_needed(count, round(interval * 1000), keep) for count, interval in sampled)
        others = self._history.series_count() - sum(count for count, _ in sampled)
        needed += bytes_needed(max(others, 0), tick, keep)
        structlog.get_logger().info(
            "history",
            series=self._history.series_count(),
            keep=written(self._sample.keep),
            memory=bytes_written(needed),
        )
