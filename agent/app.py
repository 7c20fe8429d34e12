"""The agent: every room of the house, wired. Starting, reloading and ending happen here and nowhere else."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from types import ModuleType

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from agent import configuration
from agent.alerting.notifier import Notifier, NotifierCounters
from agent.config.loader import ConfigError
from agent.config.reload_policy import find_restart_keys, replace_reloadable
from agent.config.schema import CANARY, AgentConfig
from agent.console.host_view import HostView, HostViewBuilder, is_shown
from agent.console.live_table import Screen
from agent.engines import baseline_handover
from agent.engines.baseline import Baseline
from agent.engines.canary import Canary
from agent.fleet import Fleet
from agent.hand import HandProcess
from agent.loop import Loop
from agent.pacing import learner
from agent.pacing.learner import PlantLearner
from agent.persistence import Persistence, state_dir_of_root
from agent.remediation import catalog
from agent.remediation.context import RemediationContext
from agent.remediation.remediator import Remediator
from agent.rulebook import RulesConfigError, load_rule_set
from agent.runtime.clock import Clock
from agent.runtime.entry_points import PluginError
from agent.runtime.run_options import RunOptions
from agent.runtime.scheduler import Scheduler
from agent.runtime.sd_notify import SystemdNotifier
from agent.runtime.threads import make_loop_callback, run_in_thread
from agent.runtime.version import version
from agent.sampling.binding import bind_collectors
from agent.sampling.collector_state import CollectorState
from agent.sampling.eye_pool import EyePool
from agent.sampling.eye_socket import eye_socket_path
from agent.sampling.hotplug import Hotplug
from agent.sampling.passes import CollectorRunner, ThreadRunner
from agent.sampling.plugins import Collector
from agent.sampling.sampler import Sampler
from agent.selfmetrics import definitions, readings
from agent.selfmetrics.memory_estimate import MemoryEstimate
from agent.selfmetrics.process import Footprint, freeze_gc
from agent.storage.state_dir import COLLECTOR_CACHE, StateDir, find_state_dir
from agent.text.units import format_bytes
from agent.web import site
from agent.web.compact import compact_series
from agent.web.exposition import Exposition
from agent.web.query_api import QueryContext
from agent.web.site import WebContext
from collectors import Host, Reading
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History

LEARN_EVERY = 5.0  # seconds between observations for the baseline
SAVE_EVERY = 60.0  # seconds between writings of the baseline


class Agent:
    """One agent, from start to end."""

    def __init__(
        self, config: AgentConfig, modules: Mapping[str, ModuleType], options: RunOptions, screen: Screen | None
    ) -> None:
        self.config = config
        self.options = options
        self.clock = Clock()
        self.stop = asyncio.Event()
        self._modules = modules
        self._screen = screen
        self._log = structlog.get_logger()
        self._stack = AsyncExitStack()
        self._canary_changed = asyncio.Event()
        self._registry = CollectorRegistry(auto_describe=False)
        self._counters = NotifierCounters(self._registry)
        self._exposition = Exposition(config.build_identity_labels())
        self._viewer = HostViewBuilder()
        self._footprint = Footprint()
        self._reload_task: asyncio.Task[None] | None = None
        self._reload_lock = asyncio.Lock()
        self._version = version()
        self.address = ""
        self._systemd = SystemdNotifier.from_environment()
        self._build()

    def _build(self) -> None:
        config = self.config
        self.state = StateDir(find_state_dir(config.state.dir))
        self._stack.callback(self.state.close)
        self.baseline = Baseline(self.state.read(baseline_handover.BASELINE_FILE))
        self.history = History(round(config.sample.keep * 1000), identity=config.build_identity_labels())
        readings.declare_derived(self.history, self.baseline)
        self.canary = self._build_canary()
        cache_dir = str(state_dir_of_root(self.state.path, self.options.root) / COLLECTOR_CACHE)
        eye_socket = eye_socket_path(self.options.root)
        self.eye_pool = EyePool(self.options.root, lambda result: self.loop.deliver(result), cache_dir, eye_socket)
        self.hand = HandProcess(config.remediation.hand, self.state.path)
        self.sampler = Sampler(
            self._make_runner, self._bind_collectors(), self.clock.monotonic(), root=self.options.root
        )
        self.loop = Loop(
            clock=self.clock,
            sampler=self.sampler,
            eye_pool=self.eye_pool,
            history=self.history,
            rules=self._build_rules(config),
            notifier=self._build_notifier(config),
            read_self_metrics=self._read_self_metrics,
            interval=config.sample.interval,
            stale_after=config.sample.stale_after,
        )
        self._estimate = MemoryEstimate(self.sampler, self.history, config.sample, self.clock.now_ms())
        self.persistence = Persistence(state_dir_of_root(self.state.path, self.options.root))
        self._stack.callback(lambda: self.persistence.close(self.loop, self.clock.now_ms()))
        self.persistence.restore(self.loop, self.sampler.list_sampling_groups(), self.clock.now_ms())
        external = config.build_external_labels()
        self.fleet = Fleet(state_dir_of_root(self.state.path, self.options.root), external, self.clock.now_ms())
        self._stack.push_async_callback(self.fleet.close)
        self.remediator = self._build_remediator(config)
        self.plant_learner = PlantLearner(self.state.read(learner.STATE_FILE), lambda: self.remediator.pacing_settings)
        self.scheduler = Scheduler()
        self.hotplug = Hotplug(lambda subsystem: self.sampler.make_due_on_uevent(subsystem, self.clock.monotonic()))

    def _build_rules(self, config: AgentConfig) -> RuleEvaluator:
        return RuleEvaluator(
            load_rule_set(config, self.options.config_name),
            interval_ms=round(config.rules.interval * 1000),
            external_labels=config.build_external_labels(),
            external_url=self._external_url(config),
            clock=time.perf_counter,
        )

    def _build_notifier(self, config: AgentConfig) -> Notifier:
        external = config.build_external_labels()
        return Notifier(config.alerting, external, self._external_url(config), self._counters)

    def _build_remediator(self, config: AgentConfig) -> Remediator:
        context = RemediationContext(
            clock=self.clock,
            history=self.history,
            rules=lambda: self.loop.rules,
            identity=config.build_identity_labels(),
            root=self.options.root,
            folder=state_dir_of_root(self.state.path, self.options.root),
            token_file=self.state.ensure_token_file(),
            hand_path=self.hand.path,
            posted_alerts=self.fleet.inbox.firing_alerts,
            is_silenced=self.fleet.silences.is_silenced,
        )
        return Remediator(context, config.remediation, catalog.bind_remedies(config, self.options.config_name))

    @staticmethod
    def _external_url(config: AgentConfig) -> str:
        return config.web.external_url or site.agent_url(config)

    def _build_canary(self) -> Canary | None:
        enabled = self.config.engine.enabled
        # INVOCATION_ID: systemd started us, so this host serves real requests and has its own engine.
        if (
            enabled is False
            or not self.options.is_this_machine
            or (enabled == "auto" and "INVOCATION_ID" in os.environ)
        ):
            return None
        return Canary(self.config.engine, self.state.ensure_token_file(), self._canary_changed)

    def _bind_collectors(self) -> list[Collector]:
        ready = self.canary.ready if self.canary is not None else None
        return bind_collectors(self.config, self._modules, None if ready is None else ready.url)

    def _make_runner(self, collector: Collector) -> CollectorRunner:
        if collector.isolated or (collector.privileged and self.eye_pool.socket_path is not None):
            return self.eye_pool.get_runner(collector.name)
        deliver = make_loop_callback(lambda result: self.loop.deliver(result))  # the loop is made after its runners
        return ThreadRunner(collector.name, Host(self.options.root), deliver)

    def _read_self_metrics(self, now: float, now_ms: int) -> Iterator[Reading]:
        yield definitions.BUILD_INFO.sample(1.0, version=self._version)
        yield definitions.TICK_SECONDS.sample(self.loop.busy_seconds)
        yield definitions.TICK_LATE.sample(self.loop.late_seconds)
        yield definitions.UEVENT_OVERFLOWS.sample(self.hotplug.overflows)
        yield from readings.read_collectors(self.sampler, now, self.config.sample.stale_after)
        yield from self._footprint.read_processes(self._list_pids(), now)
        yield from readings.read_rules(self.loop.rules)
        yield from readings.read_history(self.history)
        configured = [engine.name for engine in self.config.engines]
        canary = CANARY if self.canary is not None else None
        duties = self.remediator.get_held_duties()
        yield from readings.read_engines(self.baseline, self.history, now_ms, configured, canary, duties)
        yield from readings.read_remedies(self.remediator)
        yield from readings.read_pacing(self.plant_learner, self.remediator)

    def _list_pids(self) -> dict[str, int | None]:
        canary = None if self.canary is None else self.canary.child.pid
        return {"agent": os.getpid(), "eye": self.eye_pool.shared_eye.pid, "canary": canary}

    async def run(self) -> None:
        """Runs until told to stop, then ends everything in order."""
        async with self._stack:
            await self._start()
            freeze_gc()
            await self.loop.run(self.stop)
            self._log.info("ending")
            self._systemd.notify_stopping()

    async def _start(self) -> None:
        self._install_signal_handlers()
        await self._start_web()
        await self._start_children()
        await self.loop.notifier.start()
        self._stack.push_async_callback(lambda: self.loop.notifier.close())
        self._start_scheduler()
        if self.options.is_this_machine:
            self.hotplug.start()
            self._stack.callback(self.hotplug.close)
        await self._start_remedies()
        self.loop.on_shift += [lambda _step: self.scheduler.reschedule(), self.persistence.shift]
        self.loop.after_tick += [
            lambda now_ms: self.persistence.save(self.loop, now_ms),
            self._estimate.maybe_log,
            self._update_screen,
            lambda _now_ms: self._systemd.notify_tick(self._format_status()),
        ]
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_sighup)

    async def _start_remedies(self) -> None:
        self._stack.push_async_callback(self.hand.close)
        self.hand.start()
        self._stack.push_async_callback(lambda: self.remediator.close())
        self.remediator.recover()
        await self.fleet.configure(self.config)
        self.loop.after_tick.append(self.remediator.tick)
        self.loop.on_shift += [self.remediator.shift, self.fleet.inbox.shift]

    def _build_sources(self) -> QueryContext:
        return QueryContext(
            history=self.history,
            rules=lambda: self.loop.rules,
            now_ms=self.clock.now_ms,
            identity=self.config.build_identity_labels(),
            version=self._version,
            subquery_step_ms=round(self.config.rules.interval * 1000),
        )

    def _install_signal_handlers(self) -> None:
        event_loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            event_loop.add_signal_handler(signum, self.stop.set)
        # Until everything stands there is nothing to reload; without this a SIGHUP now would end us.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def _start_web(self) -> None:
        web_parts = WebContext(
            query_context=self._build_sources(),
            remedies=self.remediator,
            token=self.state.ensure_token_file().read_text(encoding="utf-8").strip(),
            metrics=self.render_metrics,
            since_tick=self._seconds_since_tick,
            registry=self._registry,
            inbox=self.fleet.inbox,
            external_labels=self.config.build_external_labels(),
            external_url=self._external_url(self.config),
        )
        server, self.address = await site.start_server(self.config, web_parts)
        self._stack.push_async_callback(server.close)
        self._log.info("listening", url=self.address)

    async def _start_children(self) -> None:
        self._stack.push_async_callback(self.eye_pool.close)
        await self.eye_pool.start()
        if self.canary is not None:
            self.canary.child.start()
            self._stack.push_async_callback(self.canary.close)

    def _start_scheduler(self) -> None:
        now = self.clock.now_ms
        self.scheduler.add_job(LEARN_EVERY, lambda: self.baseline.learn(self.history, now()))
        self.scheduler.add_job(LEARN_EVERY, lambda: baseline_handover.adopt(self.state, self.baseline))
        self.scheduler.add_job(learner.OBSERVE_SECONDS, lambda: self.plant_learner.observe(self.history, now()))
        self.scheduler.add_job(SAVE_EVERY, self._save_learnt)
        self.scheduler.add_job(10.0, lambda: self.history.forget(now()))
        for collector_state in self.sampler.states.values():
            self._schedule_slow(collector_state)
        if self.canary is not None:
            canary = self.canary
            self.scheduler.add_job(self.config.engine.every, lambda: canary.maybe_burst(self.history, now()))
        self.scheduler.start()
        self._stack.callback(self._save_learnt)
        self._stack.callback(self.scheduler.close)

    def _schedule_slow(self, collector_state: CollectorState) -> None:
        name = collector_state.collector.name
        if collector_state.is_slow:
            make_due = self.sampler.make_slow_due
            self.scheduler.add_job(
                collector_state.interval, lambda: make_due(name, self.clock.monotonic()), name=_job_name(name)
            )
        else:
            self.scheduler.remove_job(_job_name(name))

    def _save_learnt(self) -> None:
        try:
            self.state.write(baseline_handover.BASELINE_FILE, self.baseline.dump())
            self.state.write(learner.STATE_FILE, self.plant_learner.to_json())
        except OSError as error:
            self._log.warning("what was learnt cannot be saved", folder=str(self.state.path), reason=error.strerror)

    def _update_screen(self, now_ms: int) -> None:
        if self._canary_changed.is_set():
            self._canary_changed.clear()
            self._on_canary_ready()
        if self._screen is not None and self._screen.is_due():
            self._screen.show(self._build_view(now_ms))

    def _on_canary_ready(self) -> None:
        assert self.canary is not None
        ready = self.canary.ready
        assert ready is not None
        self.baseline.models[CANARY] = f"{ready.model}:{ready.weights_bytes}"
        self._log.info("canary engine is ready", url=ready.url, weights=format_bytes(ready.weights_bytes))
        for collector in self._bind_collectors():
            if collector.uses_engines:
                self.sampler.add(collector, self.clock.monotonic())

    def render_metrics(self) -> str:
        """The exposition: what collectors, rules and the agent measure, and what the agent counts."""
        series = self.history.latest()
        exported = compact_series(series) if self.config.web.metrics == "compact" else series
        return self._exposition.render(exported) + generate_latest(self._registry).decode()

    def _format_status(self) -> str:
        firing = sum(alert.state is AlertState.FIRING and is_shown(alert) for alert in self.loop.rules.alerts())
        return f"{self.address}  {len(self.sampler.states)} collectors, {firing} alerts firing"

    def _seconds_since_tick(self) -> float | None:
        return None if self.loop.last_tick_at is None else time.monotonic() - self.loop.last_tick_at

    def _build_view(self, now_ms: int) -> HostView:
        alerts = self.loop.rules.alerts()
        pacing_reasons = [memory.says for _, memory in self.remediator.iter_steered()]
        has_canary = self.canary is not None
        return self._viewer.build(self.history, alerts, self.baseline, now_ms, canary=has_canary, pacing=pacing_reasons)

    def _on_sighup(self) -> None:
        """SIGHUP: takes the file's new content over; a bad file changes nothing and says so."""
        if self._screen is not None and not self._screen.is_open():
            self.stop.set()  # the terminal that showed us has gone: nobody asked for a reload
            return
        # Held, because the event loop itself holds its tasks only weakly.
        self._reload_task = asyncio.get_running_loop().create_task(self._reload(), name="reload")

    async def _reload(self) -> None:
        async with self._reload_lock:
            await self._reload_once()

    async def _reload_once(self) -> None:
        try:
            file_config, modules = configuration.load_configuration(self.options.config_path, self.options.hand)
            config = replace_reloadable(self.config, file_config)
            rules = await run_in_thread("reload", lambda: load_rule_set(config, self.options.config_name))
            bound_remedies = catalog.bind_remedies(config, self.options.config_name)
        except (ConfigError, RulesConfigError, PluginError) as error:
            self._log.error("the new configuration is not used; the old one stays", faults=str(error).splitlines())
            return
        self._modules = modules
        self._warn_of_restart_keys(file_config)
        self.config = config
        self.loop.rules = self.loop.rules.replace_rules(rules)
        self.remediator.configure(config.remediation, bound_remedies)
        await self.fleet.configure(config)
        old_notifier, self.loop.notifier = self.loop.notifier, self._build_notifier(self.config)
        self.loop.notifier.take_over(old_notifier)
        await old_notifier.close()  # first: then nobody counts any more for an Alertmanager that has gone
        await self.loop.notifier.start()
        self._replace_collectors()
        self._log.info("configuration reloaded")

    def _replace_collectors(self) -> None:
        now = self.clock.monotonic()
        enabled = {collector.name: collector for collector in self._bind_collectors()}
        for name in set(self.sampler.states) - set(enabled):
            self.sampler.remove(name)
            self.scheduler.remove_job(_job_name(name))
            self.history.silence(name, self.clock.now_ms())
        for collector in enabled.values():
            self.sampler.add(collector, now)
            self._schedule_slow(self.sampler.states[collector.name])

    def _warn_of_restart_keys(self, config: AgentConfig) -> None:
        restart_keys = find_restart_keys(self.config, config)
        if restart_keys:
            self._log.warning("these settings change only with a restart", settings=restart_keys)


def _job_name(collector: str) -> str:
    return f"collect {collector}"
