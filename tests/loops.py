"""A loop for tests: real sampling, History, rules and notifier; stand-ins for what acts, saves and shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from agent.alerting.notifier import Notifier, NotifierCounters
from agent.config.schema import AlertingConfig
from agent.loop import Loop
from agent.runtime.clock import Clock
from agent.runtime.step_guard import StepGuard
from agent.sampling.eye_pool import EyePool
from agent.sampling.sampler import Sampler
from collectors import Reading
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules

STAND_INS = ("inbox", "remediator", "persistence", "memory_estimate", "presenter", "watchdog", "scheduler")


class StandIn:
    """Stands in for a part of the agent: records the name of every method that the loop calls, and does nothing."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name = name
        self._calls = calls

    def __getattr__(self, method: str) -> Callable[..., None]:
        return lambda *_: self._calls.append(f"{self._name}.{method}")


class NoSelfMetrics:
    """Stands in for the self-metrics: there are none."""

    def read(self, now: float, now_ms: int, **_: object) -> Iterable[Reading]:
        return ()


def build_loop(
    clock: Clock,
    sampler: Sampler,
    *,
    root: str = "/",
    rule_files: Iterable[Path] = (),
    calls: list[str] | None = None,
    **parts: Any,
) -> Loop:
    """A loop that ticks each second; `calls` receives the calls to stand-ins, `parts` take the place of any part."""
    calls = [] if calls is None else calls
    defaults = {
        "eye_pool": EyePool(root, lambda _: None),
        "history": History(3_600_000),
        "rules": RuleEvaluator(
            load_rules([*rule_files]), interval_ms=1000, external_labels={}, external_url="http://x"
        ),
        "notifier": Notifier(AlertingConfig(), {}, "http://x", NotifierCounters(CollectorRegistry())),
        "self_metrics": NoSelfMetrics(),
        "steps": StepGuard(),
        **{name: StandIn(name, calls) for name in STAND_INS},
    }
    return Loop(clock=clock, sampler=sampler, interval=1.0, stale_after=3, **{**defaults, **parts})
