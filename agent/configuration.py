"""Loads the whole configuration, checked against the plug-ins it names."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import msgspec

from agent.config import paths
from agent.config.loader import find_enabled_collectors, parse, read_document
from agent.config.schema import AgentConfig
from agent.remediation import catalog
from agent.sampling import plugins


def load_configuration(path: Path | None, hand: str | None = None) -> tuple[AgentConfig, dict[str, ModuleType]]:
    """
    The configuration, checked against the collectors there are, and those collectors; `hand` overrides its own.

    Raises ConfigError, or PluginError where two collectors have one name.
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
