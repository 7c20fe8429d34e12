"""Binds every enabled collector to the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

from agent.config.schema import CANARY, AgentConfig
from agent.sampling import plugins
from agent.sampling.plugins import Collector
from collectors import EngineAddress


def bind_collectors(
    config: AgentConfig, modules: Mapping[str, ModuleType], canary_url: str | None = None
) -> list[Collector]:
    """Binds every enabled collector; those that use engines get the configured ones, and the canary if it has a URL."""
    engines = [
        EngineAddress(engine.name, engine.url, engine.kind, api_key_file=engine.api_key_file)
        for engine in config.engines
    ]
    if canary_url is not None:
        engines.append(EngineAddress(CANARY, canary_url, "reference"))
    return [
        _bind_collector(config, name, module, engines)
        for name, module in modules.items()
        if name not in config.collectors or config.collectors[name].enabled is not False
    ]


def _bind_collector(config: AgentConfig, name: str, module: ModuleType, engines: Sequence[EngineAddress]) -> Collector:
    settings = config.collectors.get(name)
    interval, deadline, collector_config = (
        (None, None, None) if settings is None else (settings.interval, settings.deadline, settings.config)
    )
    if hasattr(module, "with_engines"):
        collector_config = module.with_engines(collector_config or module.Config(), engines)
    return plugins.bind_collector(module, name, interval=interval, deadline=deadline, config=collector_config)
