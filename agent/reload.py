"""Reads the configuration again while the agent runs, and applies it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType

import structlog

from agent.alerting.notifier import Notifier
from agent.alerting.silences import Silences
from agent.collector_wiring import CollectorWiring
from agent.config.loader import ConfigError
from agent.config.reload_policy import find_restart_keys, replace_reloadable
from agent.config.schema import AgentConfig
from agent.configuration import RulesConfigError, load_configuration, load_rule_set
from agent.loop import Loop
from agent.remediation import catalog
from agent.remediation.model import Remedy
from agent.runtime.entry_points import PluginError
from agent.runtime.run_options import RunOptions
from agent.runtime.threads import run_in_thread
from agent.selfmetrics.self_metrics import SelfMetrics
from rules.model import RuleSet


@dataclass(frozen=True)
class LoadedConfiguration:
    """A configuration without faults, with the collectors, rules and remedies that it enables."""

    config: AgentConfig
    modules: Mapping[str, ModuleType]
    rules: RuleSet
    remedies: tuple[Remedy, ...]
    notifier: Notifier


class Reloader:
    """Gives each part of a running agent its new settings, all or none."""

    def __init__(
        self,
        config: AgentConfig,
        options: RunOptions,
        *,
        loop: Loop,
        collectors: CollectorWiring,
        self_metrics: SelfMetrics,
        silences: Silences,
        build_notifier: Callable[[AgentConfig], Notifier],
    ) -> None:
        self._config = config
        self._options = options
        self._loop = loop
        self._collectors = collectors
        self._self_metrics = self_metrics
        self._silences = silences
        self._build_notifier = build_notifier
        self._lock = asyncio.Lock()
        self._log = structlog.get_logger()

    async def reload(self) -> None:
        """Applies the file as it is now; a bad file changes nothing, and its faults are logged."""
        async with self._lock:
            loaded = await run_in_thread("reload", self._load)
            if loaded is not None:
                await self._apply(loaded)
                self._log.info("configuration reloaded")

    def _load(self) -> LoadedConfiguration | None:
        """
        Reads every file of the configuration, in a thread: a large rule file, or a disk that hangs, delays no tick.

        Settings that only a restart can change keep their current values; a log line names those that differ.
        """
        options = self._options
        try:
            file_config, modules = load_configuration(options.config_path, options.hand)
            config = replace_reloadable(self._config, file_config)
            rules = load_rule_set(config, options.config_name)
            remedies = catalog.bind_remedies(config, options.config_name)
            notifier = self._build_notifier(config)  # its links begin with https where the web configuration has TLS
        except (ConfigError, RulesConfigError, PluginError) as error:
            self._log.error("the new configuration is not used; the old one stays", faults=str(error).splitlines())
            return None
        if restart_keys := find_restart_keys(self._config, file_config):
            self._log.warning("these settings change only with a restart", settings=restart_keys)
        return LoadedConfiguration(config, modules, rules, remedies, notifier)

    async def _apply(self, loaded: LoadedConfiguration) -> None:
        self._config = config = loaded.config
        self._self_metrics.engines = tuple(engine.name for engine in config.engines)
        self._loop.rules = self._loop.rules.replace_rules(loaded.rules)
        self._loop.remediator.configure(config.remediation, loaded.remedies)
        await self.configure_fleet(config)
        await self._replace_notifier(loaded.notifier)
        self._collectors.configure(config, loaded.modules)

    async def configure_fleet(self, config: AgentConfig) -> None:
        """Configures the parts that listen to the Alertmanagers of a fleet: the inbox and the silences."""
        self._loop.inbox.expire_ms = round(config.remediation.webhook_expire * 1000)
        await self._silences.configure(config.alerting, config.remediation.silences)

    async def _replace_notifier(self, notifier: Notifier) -> None:
        previous, self._loop.notifier = self._loop.notifier, notifier
        self._loop.notifier.take_over(previous)
        await previous.close()  # before the start: a sender must not count for an Alertmanager that was removed
        await self._loop.notifier.start()
