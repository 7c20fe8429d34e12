"""Binds each collector to what the configuration says about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import msgspec

from agent.config import paths
from agent.config.loader import document, enabled_collectors, parse
from agent.config.schema import CANARY, Config
from agent.remediation import catalog
from agent.sampling import plugins
from agent.sampling.plugins import Collector


def read(path: Path | None, hand: str | None = None) -> tuple[Config, dict[str, ModuleType]]:
    """
    The configuration, checked against the collectors there are, and those collectors; `hand` overrides its own.

    Raises ConfigError, or DiscoveryError where two collectors have one name.
    """
    told = document(path)
    modules = plugins.modules(enabled_collectors(told))
    config = parse(told, str(path), plugins.config_types(modules))
    if path is not None:
        config = paths.resolved(config, path)
    if hand is not None:
        told_hand = msgspec.structs.replace(config.remediation, hand=hand)
        config = msgspec.structs.replace(config, remediation=told_hand)
    catalog.bound(config, str(path))
    return config, modules


def bind_all(config: Config, modules: Mapping[str, ModuleType], canary_url: str | None = None) -> list[Collector]:
    """Every enabled collector; the `engine` one with the configured engines, and the canary once it has a URL."""
    return [
        _bind(config, name, module, canary_url)
        for name, module in modules.items()
        if name not in config.collectors or config.collectors[name].enabled is not False
    ]


def _bind(config: Config, name: str, module: ModuleType, canary_url: str | None) -> Collector:
    told = config.collectors.get(name)
    interval, deadline, own = (None, None, None) if told is None else (told.interval, told.deadline, told.own)
    bound = plugins.bind(module, name, interval=interval, deadline=deadline, own=own)
    if name == "process":
        return _with_processes(bound, module, config, canary_url)
    return _with_engines(bound, module, config, canary_url) if name == "engine" else bound


def _with_processes(bound: Collector, module: ModuleType, config: Config, canary_url: str | None) -> Collector:
    """What `collectors.process.engines` says of an engine comes before the URL that `engines:` has for it."""
    told = bound.own or module.Config()
    urls = {engine.name: engine.url for engine in config.engines} | ({CANARY: canary_url} if canary_url else {})
    targets = [module.Target(name=name, url=url) for name, url in urls.items()]
    own = msgspec.structs.replace(told, engines=(*told.engines, *targets))
    return plugins.bind(module, "process", interval=bound.interval, deadline=bound.deadline, own=own)


def _with_engines(bound: Collector, module: ModuleType, config: Config, canary_url: str | None) -> Collector:
    """`engines:` stands at the top of the configuration, because it is what an operator comes to say."""
    targets = [module.Target(name=engine.name, kind=engine.kind, url=engine.url) for engine in config.engines]
    if canary_url is not None:
        targets.append(module.Target(name=CANARY, kind="reference", url=canary_url))
    own = module.Config(engines=tuple(targets))
    return plugins.bind(module, "engine", interval=bound.interval, deadline=bound.deadline, own=own)
