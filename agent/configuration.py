"""
Loads the whole configuration: the operator's file, the plug-ins that it enables, and the rules.

A fault in one part rejects the whole configuration, so that no agent runs with a part of it.
"""

from __future__ import annotations

import glob
from pathlib import Path
from types import ModuleType

import msgspec

from agent.config import paths, secret_settings
from agent.config.loader import ConfigError, find_enabled_collectors, parse, read_document
from agent.config.schema import AgentConfig
from agent.remediation import catalog
from agent.sampling import plugins
from rules.model import RuleSet
from rules.rulefile import BUILTIN, RuleFileError, load_rules


class RulesConfigError(Exception):
    """The rules cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def load_configuration(path: Path | None, hand: str | None = None) -> tuple[AgentConfig, dict[str, ModuleType]]:
    """
    Returns the checked configuration and the modules of its collectors; `hand` replaces `remediation.hand`.

    Raises ConfigError, or PluginError where two collectors have the same name.
    """
    raw_config = read_document(path)
    modules = plugins.load_collectors(find_enabled_collectors(raw_config))
    config = parse(raw_config, str(path), plugins.find_config_types(modules))
    if path is not None:
        config = paths.resolve_paths(config, path)
    if hand is not None:
        remediation = msgspec.structs.replace(config.remediation, hand=hand)
        config = msgspec.structs.replace(config, remediation=remediation)
    if shared := [f"{path}: {place}: {fault}" for place, fault in secret_settings.find_shared_tokens(config)]:
        raise ConfigError(shared)
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
    return rules.exclude_rules(config.rules.disable)


def list_rule_files(config: AgentConfig, source: str) -> list[Path]:
    """Lists the built-in rule files and the files that the operator's patterns match."""
    paths = sorted(BUILTIN.glob("*.yml")) if config.rules.builtin else []
    for pattern in config.rules.files:
        matches = sorted(Path(path) for path in glob.glob(pattern))
        if not matches and not glob.has_magic(pattern):
            raise RulesConfigError([f"{source}: $.rules.files: no such file: {pattern}"])
        paths += matches
    return paths
