"""Estimates the memory that History will need, and logs it once after the start."""

from __future__ import annotations

import structlog

from agent.config.schema import SamplingConfig
from agent.sampling.passes import Outcome
from agent.sampling.sampler import Sampler
from agent.text.units import format_bytes, format_duration
from rules.history.history import History, estimate_bytes

SETTLED_MS = 3000  # after that time the first readings have arrived


class MemoryEstimate:
    """Logs the estimate once, when the first readings have arrived."""

    def __init__(self, sampler: Sampler, history: History, sampling: SamplingConfig, began_ms: int) -> None:
        self._sampler = sampler
        self._history = history
        self._sampling = sampling
        self._began_ms = began_ms
        self._is_logged = False

    def maybe_log(self, now_ms: int) -> None:
        """Logs the estimate if it is due; called after each tick."""
        if not self._is_logged and now_ms - self._began_ms >= SETTLED_MS:
            self._is_logged = True
            self._log_estimate()

    def _log_estimate(self) -> None:
        keep_ms, tick_ms = round(self._sampling.keep * 1000), round(self._sampling.interval * 1000)
        passes = [
            (state.last_result, state.interval)
            for state in self._sampler.states.values()
            if state.last_result is not None
        ]
        sampled = [(len(last.samples), interval) for last, interval in passes if last.outcome is Outcome.OK]
        needed = sum(estimate_bytes(count, round(interval * 1000), keep_ms) for count, interval in sampled)
        others = self._history.count_series() - sum(count for count, _ in sampled)
        needed += estimate_bytes(max(others, 0), tick_ms, keep_ms)
        structlog.get_logger().info(
            "history memory estimate",
            series=self._history.count_series(),
            keep=format_duration(self._sampling.keep),
            memory=format_bytes(needed),
        )
