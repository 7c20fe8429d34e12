"""Binds each collector to what the configuration says about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import msgspec

from agent.config import paths
from agent.config.loader import find_enabled_collectors, parse, read_document
from agent.config.schema import CANARY, AgentConfig
from agent.remediation import catalog
from agent.sampling import plugins
from agent.sampling.plugins import Collector


def load_configuration(path: Path | None, hand: str | None = None) -> tuple[AgentConfig, dict[str, ModuleType]]:
    """
    The configuration, checked against the collectors there are, and those collectors; `hand` overrides its own.

    Raises ConfigError, or DiscoveryError where two collectors have one name.
    """
    raw_config = read_document(path)
    modules = plugins.load_collectors(find_enabled_collectors(raw_config))
    config = parse(raw_config, str(path), plugins.find_config_types(modules))
    if path is not None:
        config = paths.resolve_paths(config, path)
    if hand is not None:
        remediation = msgspec.structs.replace(config.remediation, hand=hand)
        config = msgspec.structs.replace(config, remediation=remediation)
    catalog.bind_remedies(config, str(path))
    return config, modules


def bind_collectors(
    config: AgentConfig, modules: Mapping[str, ModuleType], canary_url: str | None = None
) -> list[Collector]:
    """Every enabled collector; the `engine` one with the configured engines, and the canary once it has a URL."""
    return [
        _bind_collector(config, name, module, canary_url)
        for name, module in modules.items()
        if name not in config.collectors or config.collectors[name].enabled is not False
    ]


def _bind_collector(config: AgentConfig, name: str, module: ModuleType, canary_url: str | None) -> Collector:
    settings = config.collectors.get(name)
    interval, deadline, collector_config = (
        (None, None, None) if settings is None else (settings.interval, settings.deadline, settings.config)
    )
    bound = plugins.bind_collector(module, name, interval=interval, deadline=deadline, config=collector_config)
    if name == "process":
        return _bind_process_targets(bound, module, config, canary_url)
    return _bind_engine_targets(bound, module, config, canary_url) if name == "engine" else bound


def _bind_process_targets(
    bound: Collector, module: ModuleType, config: AgentConfig, canary_url: str | None
) -> Collector:
    """What `collectors.process.engines` says of an engine comes before the URL that `engines:` has for it."""
    process_config = bound.config or module.Config()
    urls = {engine.name: engine.url for engine in config.engines} | ({CANARY: canary_url} if canary_url else {})
    targets = [module.Target(name=name, url=url) for name, url in urls.items()]
    collector_config = msgspec.structs.replace(process_config, engines=(*process_config.engines, *targets))
    return plugins.bind_collector(
        module, "process", interval=bound.interval, deadline=bound.deadline, config=collector_config
    )


def _bind_engine_targets(
    bound: Collector, module: ModuleType, config: AgentConfig, canary_url: str | None
) -> Collector:
    """`engines:` stands at the top of the configuration, because it is what an operator comes to say."""
    targets = [module.Target(name=engine.name, kind=engine.kind, url=engine.url) for engine in config.engines]
    if canary_url is not None:
        targets.append(module.Target(name=CANARY, kind="reference", url=canary_url))
    collector_config = module.Config(engines=tuple(targets))
    return plugins.bind_collector(
        module, "engine", interval=bound.interval, deadline=bound.deadline, config=collector_config
    )
