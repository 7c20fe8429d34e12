"""Builds, starts and stops every part of the agent."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import ModuleType

import structlog
from prometheus_client import CollectorRegistry

from agent.alerting.notifier import Notifier, NotifierCounters
from agent.alerting.silences import Silences
from agent.alerting.webhook_inbox import Inbox
from agent.collector_wiring import CollectorWiring
from agent.config.schema import CANARY, AgentConfig
from agent.configuration import load_rule_set
from agent.console.host_view import HostContext
from agent.console.live_table import Screen
from agent.console.presenter import Presenter
from agent.engines.canary import Canary
from agent.learning import Learning
from agent.loop import Loop
from agent.persistence import Persistence
from agent.reload import Reloader
from agent.remediation import catalog
from agent.remediation.context import RemediationContext
from agent.remediation.hand import HandProcess
from agent.remediation.remediator import Remediator
from agent.runtime.clock import Clock
from agent.runtime.run_options import RunOptions
from agent.runtime.scheduler import Scheduler
from agent.runtime.sd_notify import SystemdNotifier
from agent.runtime.step_guard import StepGuard
from agent.runtime.version import version
from agent.sampling.eye_pool import EyePool
from agent.sampling.eye_socket import find_eye_socket
from agent.sampling.hotplug import Hotplug
from agent.selfmetrics import readings
from agent.selfmetrics.definitions import SAMPLING_GROUP
from agent.selfmetrics.memory_estimate import MemoryEstimate
from agent.selfmetrics.process import freeze_gc
from agent.selfmetrics.self_metrics import SelfMetrics
from agent.storage.state_dir import COLLECTOR_CACHE, StateDir, find_state_dir, read_state_token, state_dir_of_root
from agent.text.units import format_bytes
from agent.web import site
from agent.web.context import WebContext
from agent.web.exposition import Exposition, compact_series
from agent.web.webconfig import agent_url
from rules.evaluator import RuleEvaluator
from rules.history.history import History

FORGET_INTERVAL = 10.0  # seconds between removals of what History keeps no longer


class Agent:
    """One agent, from start to end."""

    def __init__(
        self, config: AgentConfig, modules: Mapping[str, ModuleType], options: RunOptions, screen: Screen | None
    ) -> None:
        self.config = config
        self.options = options
        self.clock = Clock()
        self.steps = StepGuard()
        self.stop = asyncio.Event()
        self._log = structlog.get_logger()
        self._stack = AsyncExitStack()
        self._registry = CollectorRegistry(auto_describe=False)
        self._counters = NotifierCounters(self._registry)
        self._exposition = Exposition(config.build_identity_labels())
        self._reload_task: asyncio.Task[None] | None = None
        self.address = ""
        self._systemd = SystemdNotifier.from_environment()
        self._build(modules, screen)

    def _build(self, modules: Mapping[str, ModuleType], screen: Screen | None) -> None:
        config, root = self.config, self.options.root
        self.state = StateDir(find_state_dir(config.state.dir))
        self._stack.callback(self.state.close)
        self.folder = state_dir_of_root(self.state.path, root)
        self.history = History(round(config.sample.keep * 1000), identity=config.build_identity_labels())
        self.learning = Learning(self.state, self.history, self.clock, lambda: self.remediator.pacing_settings)
        readings.declare_derived(self.history, self.learning.baseline)
        self.canary = self._build_canary()
        eye_cache = str(self.folder / COLLECTOR_CACHE)
        self.eye_pool = EyePool(root, lambda result: self.loop.deliver(result), eye_cache, find_eye_socket(root))
        self.hand = HandProcess(config.remediation.hand, self.state.path)
        self.scheduler = Scheduler(self.steps)
        self.collectors = self._wire_collectors(modules)
        self.sampler = self.collectors.sampler
        self.hotplug = Hotplug(lambda subsystem: self.sampler.make_due_on_uevent(subsystem, self.clock.monotonic()))
        memory_estimate = MemoryEstimate(self.sampler, self.history, config.sample, self.clock.now_ms())
        rules, notifier = self._build_rules(config), self._build_notifier(config)
        self.persistence = Persistence(self.folder)
        self._stack.callback(self._close_persistence)
        groups, now_ms = self.sampler.list_sampling_groups(), self.clock.now_ms()
        self.persistence.restore(self.history, rules, notifier, groups, now_ms, others=[SAMPLING_GROUP])
        self.inbox = Inbox(self.folder, self.clock.now_ms())
        self._stack.callback(self.inbox.close)
        self.silences = Silences(config.build_external_labels())
        self._stack.push_async_callback(self.silences.close)
        self.remediator = self._build_remediator(config)
        self.self_metrics = self._build_self_metrics(config)
        self.presenter = self._build_presenter(screen)
        self.loop = Loop(
            clock=self.clock,
            sampler=self.sampler,
            eye_pool=self.eye_pool,
            history=self.history,
            rules=rules,
            notifier=notifier,
            inbox=self.inbox,
            remediator=self.remediator,
            persistence=self.persistence,
            memory_estimate=memory_estimate,
            presenter=self.presenter,
            watchdog=self._systemd,
            scheduler=self.scheduler,
            self_metrics=self.self_metrics,
            steps=self.steps,
            interval=config.sample.interval,
            stale_after=config.sample.stale_after,
        )
        self.reloader = Reloader(
            config,
            self.options,
            loop=self.loop,
            collectors=self.collectors,
            self_metrics=self.self_metrics,
            silences=self.silences,
            build_notifier=self._build_notifier,
        )

    def _wire_collectors(self, modules: Mapping[str, ModuleType]) -> CollectorWiring:
        return CollectorWiring(
            self.config,
            modules,
            root=self.options.root,
            canary=self.canary,
            eye_pool=self.eye_pool,
            deliver=lambda result: self.loop.deliver(result),  # the loop is built after the collectors
            clock=self.clock,
            scheduler=self.scheduler,
            history=self.history,
        )

    def _build_rules(self, config: AgentConfig) -> RuleEvaluator:
        return RuleEvaluator(
            load_rule_set(config, self.options.config_name),
            interval_ms=round(config.rules.interval * 1000),
            external_labels=config.build_external_labels(),
            external_url=self._get_external_url(config),
            clock=time.perf_counter,
        )

    def _build_notifier(self, config: AgentConfig) -> Notifier:
        external = config.build_external_labels()
        return Notifier(config.alerting, external, self._get_external_url(config), self._counters)

    def _build_remediator(self, config: AgentConfig) -> Remediator:
        context = RemediationContext(
            clock=self.clock,
            history=self.history,
            rules=lambda: self.loop.rules,
            identity=config.build_identity_labels(),
            root=self.options.root,
            folder=self.folder,
            token_file=self.state.ensure_pace_token_file(),
            hand_path=self.hand.path,
            posted_alerts=self.inbox.firing_alerts,
            is_silenced=self.silences.is_silenced,
        )
        return Remediator(context, config.remediation, catalog.bind_remedies(config, self.options.config_name))

    def _build_self_metrics(self, config: AgentConfig) -> SelfMetrics:
        return SelfMetrics(
            sampler=self.sampler,
            stale_after=config.sample.stale_after,
            eye_pool=self.eye_pool,
            hotplug=self.hotplug,
            history=self.history,
            baseline=self.learning.baseline,
            plant_learner=self.learning.plant_learner,
            remediator=self.remediator,
            canary=self.canary,
            engines=(engine.name for engine in config.engines),
            steps=self.steps,
            registry=self._registry,
        )

    def _build_presenter(self, screen: Screen | None) -> Presenter:
        context = HostContext(
            history=self.history,
            alerts=lambda: self.loop.rules.list_alerts(),
            pacing=lambda: [memory.says for _, memory in self.remediator.iter_steered()],
            learning_progress=self.learning.baseline.learning_progress,
            identity=self.config.build_identity_labels(),
            version=version(),
            has_canary=self.canary is not None,
        )
        return Presenter(screen, context, lambda: len(self.sampler.states))

    @staticmethod
    def _get_external_url(config: AgentConfig) -> str:
        return config.web.external_url or agent_url(config)

    def _build_canary(self) -> Canary | None:
        enabled = self.config.engine.enabled
        # INVOCATION_ID: systemd started the agent, so this host serves real requests and has its own engine.
        if (
            enabled is False
            or not self.options.is_this_machine
            or (enabled == "auto" and "INVOCATION_ID" in os.environ)
        ):
            return None
        return Canary(self.config.engine, self.state.ensure_pace_token_file(), self._on_canary_ready)

    def _close_persistence(self) -> None:
        self.persistence.close(self.history, self.loop.rules, self.loop.notifier, self.clock.now_ms())

    async def run(self) -> None:
        """
        Runs until `stop` is set, then closes every part, in the reverse order of the start.

        Each step of the start pushes the end of its part onto `_stack`. The order of closing: remediator, hand,
        hotplug, scheduler, save of the baselines, notifier, canary, eyes, web server, silences, inbox, persistence,
        state folder.
        """
        async with self._stack:
            await self._start()
            freeze_gc()
            await self.loop.run(self.stop)
            self._log.info("agent stops")
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
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_sighup)

    async def _start_remedies(self) -> None:
        self._stack.push_async_callback(self.hand.close)
        self.hand.start()
        self._stack.push_async_callback(lambda: self.remediator.close())
        self.remediator.recover()
        await self.reloader.configure_fleet(self.config)

    def _build_web_context(self) -> WebContext:
        return WebContext(
            history=self.history,
            rules=lambda: self.loop.rules,
            remedies=self.remediator,
            inbox=self.inbox,
            now_ms=self.clock.now_ms,
            metrics=self.prepare_metrics,
            tick_number=lambda: self.loop.ticks,
            since_tick=self._measure_seconds_since_tick,
            step_faults=lambda: self.steps.faults,
            identity=self.config.build_identity_labels(),
            external_labels=self.config.build_external_labels(),
            external_url=self._get_external_url(self.config),
            version=version(),
            subquery_step_ms=round(self.config.rules.interval * 1000),
            token=read_state_token(self.state.ensure_token_file()),
            registry=self._registry,
        )

    def _install_signal_handlers(self) -> None:
        event_loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            event_loop.add_signal_handler(signum, self.stop.set)
        # Until the start is complete there is nothing to reload; unhandled, a SIGHUP would end the process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def _start_web(self) -> None:
        server, self.address = await site.start_server(self.config, self._build_web_context())
        self.presenter.address = self.address
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
        self.learning.add_jobs(self.scheduler)
        self.scheduler.add_job(FORGET_INTERVAL, lambda: self.history.forget(now()), name="forget")
        self.collectors.add_jobs()
        if self.canary is not None:
            canary = self.canary
            self.scheduler.add_job(
                self.config.engine.every, lambda: canary.maybe_burst(self.history, now()), name="canary burst"
            )
        self.scheduler.start()
        self._stack.callback(self.learning.close)
        self._stack.callback(self.scheduler.close)

    def _on_canary_ready(self) -> None:
        assert self.canary is not None
        ready = self.canary.ready
        assert ready is not None
        self.learning.baseline.models[CANARY] = f"{ready.model}:{ready.weights_bytes}"
        self._log.info("canary engine is ready", url=ready.url, weights=format_bytes(ready.weights_bytes))
        self.collectors.rebind_engine_collectors()

    def prepare_metrics(self) -> Callable[[], bytes]:
        """
        Takes the newest value of every series in History; the returned function renders them.

        Nothing else is rendered, so that a scrape, a query and a rule see the same series.
        """
        series = list(self.history.get_latest())

        def render() -> bytes:
            exported = compact_series(series) if self.config.web.metrics == "compact" else series
            return self._exposition.render(exported).encode()

        return render

    def _measure_seconds_since_tick(self) -> float | None:
        last_tick_at = self.loop.last_tick_at
        return None if last_tick_at is None else self.clock.monotonic() - last_tick_at

    def _on_sighup(self) -> None:
        """SIGHUP: reads the configuration again, or ends the agent where its terminal was closed."""
        if self.presenter.is_terminal_gone():
            self.stop.set()
            return
        # Stored, because the event loop itself holds only weak references to its tasks.
        self._reload_task = asyncio.get_running_loop().create_task(self.reloader.reload(), name="reload")
