"""Collects all self-metrics of one tick."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry

from agent.config.schema import CANARY
from agent.engines.baseline import Baseline
from agent.engines.canary import Canary
from agent.pacing.learner import PlantLearner
from agent.remediation.remediator import Remediator
from agent.runtime.step_guard import StepGuard
from agent.runtime.version import version
from agent.sampling.eye_pool import EyePool
from agent.sampling.hotplug import Hotplug
from agent.sampling.sampler import Sampler
from agent.selfmetrics import definitions, readings
from agent.selfmetrics.process import Footprint
from agent.selfmetrics.registry import RegistryReader
from collectors import Reading
from rules.evaluator import RuleEvaluator
from rules.history.history import History


class SelfMetrics:
    """The parts of the agent that have something to measure."""

    def __init__(
        self,
        *,
        sampler: Sampler,
        stale_after: int,
        eye_pool: EyePool,
        hotplug: Hotplug,
        history: History,
        baseline: Baseline,
        plant_learner: PlantLearner,
        remediator: Remediator,
        canary: Canary | None,
        engines: Iterable[str],
        steps: StepGuard,
        registry: CollectorRegistry,
    ) -> None:
        """`engines`: the names of the engines in the configuration; `registry`: what is counted between ticks."""
        self.engines = tuple(engines)
        self._sampler = sampler
        self._stale_after = stale_after
        self._eye_pool = eye_pool
        self._hotplug = hotplug
        self._history = history
        self._baseline = baseline
        self._plant_learner = plant_learner
        self._remediator = remediator
        self._canary = canary
        self._steps = steps
        self._footprint = Footprint()
        self._registry = RegistryReader(registry)
        self._version = version()

    def read(
        self, now: float, now_ms: int, *, rules: RuleEvaluator, busy_seconds: float, late_seconds: float
    ) -> Iterator[Reading]:
        """
        Reads every self-metric; `busy_seconds` and `late_seconds` are those of the last tick.

        A subject that cannot be read is missing; it hides no other.
        """
        yield definitions.BUILD_INFO.sample(1.0, version=self._version)
        yield definitions.TICK_SECONDS.sample(busy_seconds)
        yield definitions.TICK_LATE.sample(late_seconds)
        yield definitions.UEVENT_OVERFLOWS.sample(self._hotplug.overflows)
        for step, count in sorted(self._steps.counts.items()):
            yield definitions.STEP_FAULTS.sample(count, step=step)
        subjects: dict[str, Callable[[], Iterable[Reading]]] = {
            "collectors": lambda: readings.read_collectors(self._sampler, now, self._stale_after),
            "processes": lambda: self._footprint.read_processes(self._list_pids(), now),
            "rules": lambda: readings.read_rules(rules),
            "history": lambda: readings.read_history(self._history),
            "engines": lambda: self._read_engines(now_ms),
            "remedies": lambda: readings.read_remedies(self._remediator),
            "pacing": lambda: readings.read_pacing(self._plant_learner, self._remediator),
            "counters": self._registry.read,
        }
        for subject, read_subject in subjects.items():
            subject_readings: list[Reading] = []
            with self._steps.guard("measure", subject):
                subject_readings.extend(read_subject())
            yield from subject_readings

    def _read_engines(self, now_ms: int) -> Iterator[Reading]:
        canary = CANARY if self._canary is not None else None
        duties = self._remediator.get_held_duties()
        return readings.read_engines(self._baseline, self._history, now_ms, self.engines, canary, duties)

    def _list_pids(self) -> dict[str, int | None]:
        canary = None if self._canary is None else self._canary.child.pid
        return {"agent": os.getpid(), "eye": self._eye_pool.shared_eye.pid, "canary": canary}
