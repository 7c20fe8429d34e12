"""The agent: every room of the house, wired. Starting, reloading and ending happen here and nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from types import ModuleType

import structlog
from prometheus_client import CollectorRegistry, generate_latest

from agent import configuration
from agent.alerting.notifier import Counters, Notifier
from agent.config.loader import ConfigError
from agent.config.reload_policy import aside, needs_restart, replace_reloadable
from agent.config.schema import CANARY, Config
from agent.configuration import bind_all
from agent.console.host_view import View, Viewer, shown
from agent.console.live_table import Screen
from agent.engines import baseline_handover
from agent.engines.baseline import Baseline
from agent.engines.canary import Canary
from agent.fleet import Fleet
from agent.hand import Hand
from agent.loop import Loop
from agent.pacing import learner
from agent.pacing.learner import Thermals
from agent.persistence import Continuity, place
from agent.remediation import catalog
from agent.remediation.context import Surroundings
from agent.remediation.remediator import Remedies
from agent.rulebook import RulebookError, rule_set
from agent.runtime.clock import Clock
from agent.runtime.run_options import Place
from agent.runtime.scheduler import Schedule
from agent.runtime.sd_notify import Systemd
from agent.runtime.version import version
from agent.sampling.eye_pool import Sight
from agent.sampling.eye_socket import eye_door
from agent.sampling.hotplug import Hotplug
from agent.sampling.plugins import Collector, DiscoveryError
from agent.sampling.sampler import Course, Gather, Lane, Pass, ThreadLane
from agent.selfmetrics import definitions, readings
from agent.selfmetrics.memory_estimate import Estimate
from agent.selfmetrics.process import Footprint, leave_the_lasting_alone
from agent.storage.state_dir import SHELF, StateFolder, folder
from agent.text.units import bytes_written
from agent.web import site
from agent.web.compact import compact
from agent.web.exposition import Exposition
from agent.web.query_api import Sources
from agent.web.site import Parts
from collectors import Host, Reading
from rules.alerts import AlertState
from rules.evaluator import Rules
from rules.history.history import History

LEARN_EVERY = 5.0  # seconds between observations for the baseline
SAVE_EVERY = 60.0  # seconds between writings of the baseline


class Agent:
    """One agent, from start to end."""

    def __init__(self, config: Config, modules: Mapping[str, ModuleType], place: Place, screen: Screen | None) -> None:
        self.config = config
        self.place = place
        self.clock = Clock()
        self.stop = asyncio.Event()
        self._modules = modules
        self._screen = screen
        self._log = structlog.get_logger()
        self._stack = AsyncExitStack()
        self._engines_changed = asyncio.Event()
        self._registry = CollectorRegistry(auto_describe=False)
        self._counters = Counters(self._registry)
        self._exposition = Exposition(config.identity())
        self._viewer = Viewer()
        self._footprint = Footprint()
        self._reloading: asyncio.Task[None] | None = None
        self._one_reload = asyncio.Lock()
        self._version = version()
        self.address = ""
        self._systemd = Systemd.of_environment()
        self._build()

    def _build(self) -> None:
        config = self.config
        self.state = StateFolder(folder(config.state.dir))
        self._stack.callback(self.state.close)
        self.baseline = Baseline(self.state.read(baseline_handover.STORED))
        self.history = History(round(config.sample.keep * 1000), identity=config.identity())
        readings.declare(self.history, self.baseline)
        self.canary = self._canary()
        shelf = str(place(self.state.path, self.place.root) / SHELF)
        door = eye_door(self.place.root)
        self.sight = Sight(self.place.root, lambda result: self.loop.deliver(result), shelf, door)
        self.hand = Hand(config.remediation.hand, self.state.path)
        self.gather = Gather(self._lane_of, self._bind(), self.clock.monotonic(), root=self.place.root)
        self.loop = Loop(
            clock=self.clock,
            gather=self.gather,
            sight=self.sight,
            history=self.history,
            rules=self._rules(config),
            notifier=self._notifier(config),
            own=self._own,
            interval=config.sample.interval,
            stale_after=config.sample.stale_after,
        )
        self._estimate = Estimate(self.gather, self.history, config.sample, self.clock.now_ms())
        self.continuity = Continuity(place(self.state.path, self.place.root))
        self._stack.callback(lambda: self.continuity.close(self.loop, self.clock.now_ms()))
        self.continuity.resume(self.loop, self.gather.sampling_groups(), self.clock.now_ms())
        external = config.external()
        self.fleet = Fleet(place(self.state.path, self.place.root), external, self.clock.now_ms())
        self._stack.push_async_callback(self.fleet.close)
        self.remedies = self._remedies(config)
        self.thermals = Thermals(self.state.read(learner.STORED), lambda: self.remedies.pacing_terms)
        self.schedule = Schedule()
        self.hotplug = Hotplug(lambda names: self.gather.hurry(names, self.clock.monotonic()))

    def _rules(self, config: Config) -> Rules:
        return Rules(
            rule_set(config, self.place.config_name),
            interval_ms=round(config.rules.interval * 1000),
            external_labels=config.external(),
            external_url=self._external_url(config),
            clock=time.perf_counter,
        )

    def _notifier(self, config: Config) -> Notifier:
        external = config.external()
        return Notifier(config.alerting, external, self._external_url(config), self._counters)

    def _remedies(self, config: Config) -> Remedies:
        around = Surroundings(
            clock=self.clock,
            history=self.history,
            rules=lambda: self.loop.rules,
            identity=config.identity(),
            root=self.place.root,
            folder=place(self.state.path, self.place.root),
            token_file=self.state.token_file(),
            hand=self.hand.path,
            posted=self.fleet.inbox.alerts,
            silenced=self.fleet.silences.silenced,
        )
        return Remedies(around, config.remediation, catalog.bound(config, self.place.config_name))

    @staticmethod
    def _external_url(config: Config) -> str:
        return config.web.external_url or site.url(config)

    def _canary(self) -> Canary | None:
        wanted = self.config.engine.enabled
        # INVOCATION_ID: systemd started us, so this host serves real requests and has its own engine.
        if wanted is False or not self.place.live or (wanted == "auto" and "INVOCATION_ID" in os.environ):
            return None
        return Canary(self.config.engine, self.state.token_file(), self._engines_changed)

    def _bind(self) -> list[Collector]:
        ready = self.canary.ready if self.canary is not None else None
        return bind_all(self.config, self._modules, None if ready is None else ready.url)

    def _lane_of(self, collector: Collector) -> Lane:
        if collector.isolated or (collector.privileged and self.sight.door is not None):
            return self.sight.lane(collector.name)
        event_loop = asyncio.get_running_loop()

        def deliver(result: Pass) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop has closed: the agent is ending
                event_loop.call_soon_threadsafe(self.loop.deliver, result)

        return ThreadLane(collector.name, Host(self.place.root), deliver)

    def _own(self, now: float, now_ms: int) -> Iterator[Reading]:
        yield definitions.BUILD_INFO.sample(1.0, version=self._version)
        yield definitions.TICK_SECONDS.sample(self.loop.busy_seconds)
        yield definitions.TICK_LATE.sample(self.loop.late_seconds)
        yield definitions.UEVENT_OVERFLOWS.sample(self.hotplug.overflows)
        yield from readings.of_collectors(self.gather, now, self.config.sample.stale_after)
        yield from self._footprint.readings(self._pids(), now)
        yield from readings.of_rules(self.loop.rules)
        yield from readings.of_history(self.history)
        configured = [engine.name for engine in self.config.engines]
        canary = CANARY if self.canary is not None else None
        duties = self.remedies.duties()
        yield from readings.of_engines(self.baseline, self.history, now_ms, configured, canary, duties)
        yield from readings.of_remedies(self.remedies)
        yield from readings.of_pacing(self.thermals, self.remedies)

    def _pids(self) -> dict[str, int | None]:
        canary = None if self.canary is None else self.canary.child.pid
        return {"agent": os.getpid(), "eye": self.sight.shared.pid, "canary": canary}

    async def run(self) -> None:
        """Runs until told to stop, then ends everything in order."""
        async with self._stack:
            await self._start()
            leave_the_lasting_alone()
            await self.loop.run(self.stop)
            self._log.info("ending")
            self._systemd.ending()

    async def _start(self) -> None:
        self._on_signals()
        await self._listen()
        await self._start_children()
        await self.loop.notifier.start()
        self._stack.push_async_callback(lambda: self.loop.notifier.close())
        self._start_schedule()
        if self.place.live:
            self.hotplug.start()
            self._stack.callback(self.hotplug.close)
        await self._start_remedies()
        self.loop.on_step += [lambda _step: self.schedule.stepped(), self.continuity.stepped]
        self.loop.after_tick += [
            lambda now_ms: self.continuity.keep(self.loop, now_ms),
            self._estimate.maybe_tell,
            self._show,
            lambda _now_ms: self._systemd.ticked(self._state_of_things()),
        ]
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up)

    async def _start_remedies(self) -> None:
        self._stack.push_async_callback(self.hand.close)
        self.hand.start()
        self._stack.push_async_callback(lambda: self.remedies.close())
        self.remedies.recover()
        await self.fleet.configure(self.config)
        self.loop.after_tick.append(self.remedies.tick)
        self.loop.on_step += [self.remedies.stepped, self.fleet.inbox.stepped]

    def _sources(self) -> Sources:
        return Sources(
            history=self.history,
            rules=lambda: self.loop.rules,
            now_ms=self.clock.now_ms,
            identity=self.config.identity(),
            version=self._version,
            subquery_step_ms=round(self.config.rules.interval * 1000),
        )

    def _on_signals(self) -> None:
        event_loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            event_loop.add_signal_handler(number, self.stop.set)
        # Until everything stands there is nothing to reload; without this a SIGHUP now would end us.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def _listen(self) -> None:
        parts = Parts(
            sources=self._sources(),
            remedies=self.remedies,
            token=self.state.token_file().read_text(encoding="utf-8").strip(),
            metrics=self.metrics,
            since_tick=self._since_tick,
            registry=self._registry,
            inbox=self.fleet.inbox,
            external=self.config.external(),
            external_url=self._external_url(self.config),
        )
        server, self.address = await site.opened(self.config, parts)
        self._stack.push_async_callback(server.close)
        self._log.info("listening", url=self.address)

    async def _start_children(self) -> None:
        self._stack.push_async_callback(self.sight.close)
        await self.sight.start()
        if self.canary is not None:
            self.canary.child.start()
            self._stack.push_async_callback(self.canary.close)

    def _start_schedule(self) -> None:
        now = self.clock.now_ms
        self.schedule.every(LEARN_EVERY, lambda: self.baseline.learn(self.history, now()))
        self.schedule.every(LEARN_EVERY, lambda: baseline_handover.take(self.state, self.baseline))
        self.schedule.every(learner.EVERY, lambda: self.thermals.observe(self.history, now()))
        self.schedule.every(SAVE_EVERY, self._save)
        self.schedule.every(10.0, lambda: self.history.forget(now()))
        for course in self.gather.courses.values():
            self._schedule_slow(course)
        if self.canary is not None:
            canary = self.canary
            self.schedule.every(self.config.engine.every, lambda: canary.maybe_burst(self.history, now()))
        self.schedule.start()
        self._stack.callback(self._save)
        self._stack.callback(self.schedule.close)

    def _schedule_slow(self, course: Course) -> None:
        name = course.collector.name
        if course.slow:
            due = self.gather.slow_due
            self.schedule.every(course.interval, lambda: due(name, self.clock.monotonic()), name=_job(name))
        else:
            self.schedule.drop(_job(name))

    def _save(self) -> None:
        try:
            self.state.write(baseline_handover.STORED, self.baseline.stored())
            self.state.write(learner.STORED, self.thermals.stored())
        except OSError as error:
            self._log.warning("what was learnt cannot be saved", folder=str(self.state.path), reason=error.strerror)

    def _show(self, now_ms: int) -> None:
        if self._engines_changed.is_set():
            self._engines_changed.clear()
            self._engine_is_ready()
        if self._screen is not None and self._screen.wants():
            self._screen.show(self._view(now_ms))

    def _engine_is_ready(self) -> None:
        assert self.canary is not None
        ready = self.canary.ready
        assert ready is not None
        self.baseline.models[CANARY] = f"{ready.model}:{ready.weights_bytes}"
        self._log.info("canary engine is ready", url=ready.url, weights=bytes_written(ready.weights_bytes))
        for collector in self._bind():
            if collector.name in ("engine", "process"):
                self.gather.add(collector, self.clock.monotonic())

    def metrics(self) -> str:
        """The exposition: what collectors, rules and the agent measure, and what the agent counts."""
        series = self.history.latest()
        told = compact(series) if self.config.web.metrics == "compact" else series
        return self._exposition.render(told) + generate_latest(self._registry).decode()

    def _state_of_things(self) -> str:
        firing = sum(alert.state is AlertState.FIRING and shown(alert) for alert in self.loop.rules.alerts())
        return f"{self.address}  {len(self.gather.courses)} collectors, {firing} alerts firing"

    def _since_tick(self) -> float | None:
        return None if self.loop.last_tick is None else time.monotonic() - self.loop.last_tick

    def _view(self, now_ms: int) -> View:
        alerts = self.loop.rules.alerts()
        paced = [memory.says for _, memory in self.remedies.steered()]
        there = self.canary is not None
        return self._viewer.view(self.history, alerts, self.baseline, now_ms, canary=there, pacing=paced)

    def _hang_up(self) -> None:
        """SIGHUP: takes the file's new content over; a bad file changes nothing and says so."""
        if self._screen is not None and not self._screen.present():
            self.stop.set()  # the terminal that showed us has gone: nobody asked for a reload
            return
        # Held, because the event loop itself holds its tasks only weakly.
        self._reloading = asyncio.get_running_loop().create_task(self._reload(), name="reload")

    async def _reload(self) -> None:
        async with self._one_reload:
            await self._reload_once()

    async def _reload_once(self) -> None:
        try:
            told, modules = configuration.read(self.place.config_path, self.place.hand)
            config = replace_reloadable(self.config, told)
            rules = await aside(lambda: rule_set(config, self.place.config_name))
            book = catalog.bound(config, self.place.config_name)
        except (ConfigError, RulebookError, DiscoveryError) as error:
            self._log.error("the new configuration is not used; the old one stays", faults=str(error).splitlines())
            return
        self._modules = modules
        self._tell_what_needs_a_restart(told)
        self.config = config
        self.loop.rules = self.loop.rules.replaced(rules)
        self.remedies.replace(config.remediation, book)
        await self.fleet.configure(config)
        old, self.loop.notifier = self.loop.notifier, self._notifier(self.config)
        self.loop.notifier.take_over(old)
        await old.close()  # first: then nobody counts any more for an Alertmanager that has gone
        await self.loop.notifier.start()
        self._replace_collectors()
        self._log.info("configuration reloaded")

    def _replace_collectors(self) -> None:
        now = self.clock.monotonic()
        wanted = {collector.name: collector for collector in self._bind()}
        for name in set(self.gather.courses) - set(wanted):
            self.gather.remove(name)
            self.schedule.drop(_job(name))
            self.history.silence(name, self.clock.now_ms())
        for collector in wanted.values():
            self.gather.add(collector, now)
            self._schedule_slow(self.gather.courses[collector.name])

    def _tell_what_needs_a_restart(self, config: Config) -> None:
        fixed = needs_restart(self.config, config)
        if fixed:
            self._log.warning("these settings change only with a restart", settings=fixed)


def _job(collector: str) -> str:
    return f"collect {collector}"
