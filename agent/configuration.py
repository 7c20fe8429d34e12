"""
The whole configuration, loaded: the operator's file, the plug-ins that it enables, and the rules.

A fault in one part refuses everything, so that an agent never runs with half of what its operator wrote.
"""

from __future__ import annotations

import glob
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
from agent.text.units import format_duration
from rules.evaluator import RuleSet
from rules.rulefile import BUILTIN, RuleFileError, load_rules


class RulesConfigError(Exception):
    """The rules cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def load_configuration(path: Path | None, hand: str | None = None) -> tuple[AgentConfig, dict[str, ModuleType]]:
    """
    Returns the checked configuration and the modules of its collectors; `hand` replaces `remediation.hand`.

    Raises ConfigError, or DiscoveryError where two collectors have the same name.
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


def load_rule_set(config: AgentConfig, source: str) -> RuleSet:
    """Loads the enabled rules; `source` names the configuration file in messages. Raises RulesConfigError."""
    try:
        rules = load_rules(list_rule_files(config, source), subquery_step_ms=round(config.rules.interval * 1000))
    except RuleFileError as error:
        raise RulesConfigError(error.messages) from error
    unknown = sorted(set(config.rules.disable) - set(rules.names))
    if unknown:
        raise RulesConfigError([f"{source}: $.rules.disable: no rule is named {name!r}" for name in unknown])
    enabled = rules.exclude_rules(config.rules.disable)
    if enabled.reach_ms > config.sample.keep * 1000:
        required = format_duration(enabled.reach_ms / 1000)
        raise RulesConfigError(
            [f"{source}: $.sample.keep: expected {required} or more, which is how far back the rules look"]
        )
    return enabled


def list_rule_files(config: AgentConfig, source: str) -> list[Path]:
    """Lists the built-in rule files and the files that the operator's patterns match."""
    paths = sorted(BUILTIN.glob("*.yml")) if config.rules.builtin else []
    for pattern in config.rules.files:
        matches = sorted(Path(path) for path in glob.glob(pattern))
        if not matches and not glob.has_magic(pattern):
            raise RulesConfigError([f"{source}: $.rules.files: no such file: {pattern}"])
        paths += matches
    return paths


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
