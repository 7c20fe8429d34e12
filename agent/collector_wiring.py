"""Connects the collectors of a configuration to the sampler: at the start, after a reload, and for a new canary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

from agent.config.schema import AgentConfig
from agent.engines.canary import Canary
from agent.runtime.clock import Clock
from agent.runtime.scheduler import Scheduler
from agent.runtime.threads import make_loop_callback
from agent.sampling.binding import bind_collectors
from agent.sampling.collector_state import CollectorState
from agent.sampling.eye_pool import EyePool
from agent.sampling.passes import CollectionResult, CollectorRunner, ThreadRunner
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from collectors import Host
from rules.history.history import History


class CollectorWiring:
    """The enabled collectors, each on its runner; slow ones are made due by the scheduler."""

    def __init__(
        self,
        config: AgentConfig,
        modules: Mapping[str, ModuleType],
        *,
        root: str,
        canary: Canary | None,
        eye_pool: EyePool,
        deliver: Callable[[CollectionResult], None],
        clock: Clock,
        scheduler: Scheduler,
        history: History,
    ) -> None:
        """`deliver` takes each result, on the event loop."""
        self._config = config
        self._modules = modules
        self._root = root
        self._canary = canary
        self._eye_pool = eye_pool
        self._deliver = deliver
        self._clock = clock
        self._scheduler = scheduler
        self._history = history
        self.sampler = Sampler(self._make_runner, self._bind(), clock.monotonic(), root=root)

    def _bind(self) -> list[Collector]:
        ready = self._canary.ready if self._canary is not None else None
        return bind_collectors(self._config, self._modules, None if ready is None else ready.url)

    def _make_runner(self, collector: Collector) -> CollectorRunner:
        if collector.isolated or (collector.privileged and self._eye_pool.socket_path is not None):
            return self._eye_pool.get_runner(collector.name)
        return ThreadRunner(collector.name, Host(self._root), make_loop_callback(self._deliver))

    def add_jobs(self) -> None:
        """Schedules the slow collectors."""
        for state in self.sampler.states.values():
            self._schedule_slow(state)

    def _schedule_slow(self, state: CollectorState) -> None:
        name = state.collector.name
        if state.is_slow:
            make_due = self.sampler.make_slow_due
            self._scheduler.add_job(
                state.interval, lambda: make_due(name, self._clock.monotonic()), name=_format_job_name(name)
            )
        else:
            self._scheduler.remove_job(_format_job_name(name))

    def configure(self, config: AgentConfig, modules: Mapping[str, ModuleType]) -> None:
        """Adds, replaces and removes collectors as a new configuration has them."""
        self._config, self._modules = config, modules
        now = self._clock.monotonic()
        enabled = {collector.name: collector for collector in self._bind()}
        for name in set(self.sampler.states) - set(enabled):
            self.sampler.remove(name)
            self._scheduler.remove_job(_format_job_name(name))
            self._history.silence(name, self._clock.now_ms())
        for collector in enabled.values():
            self.sampler.add(collector, now)
            self._schedule_slow(self.sampler.states[collector.name])

    def rebind_engine_collectors(self) -> None:
        """Gives the collectors that read engines the URL of a canary that is ready."""
        for collector in self._bind():
            if collector.uses_engines:
                self.sampler.add(collector, self._clock.monotonic())


def _format_job_name(collector: str) -> str:
    return f"collect {collector}"
