"""Resolves relative paths of a configuration file against its folder, as Prometheus does."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.config.schema import AgentConfig, Section, WebSettings

_Section = TypeVar("_Section", bound=Section)


def resolve_paths(config: AgentConfig, path: Path) -> AgentConfig:
    """Returns the configuration with absolute paths in `engines`, `rules`, `alerting` and `web`."""
    if not path.is_file():
        return config  # a pipe (`--config <(…)`) has no folder
    folder = str(path.parent.absolute())
    return msgspec.structs.replace(
        config,
        engines=tuple(_resolve_section(engine, folder) for engine in config.engines),
        rules=_resolve_section(config.rules, folder),
        alerting=_resolve_section(config.alerting, folder),
        web=_resolve_web(_resolve_section(config.web, folder), folder),
    )


def _resolve_web(web: WebSettings, folder: str) -> WebSettings:
    tokens = {name: os.path.join(folder, file) for name, file in web.tokens.items()}
    file = None if web.config is None else os.path.join(folder, web.config)
    return msgspec.structs.replace(web, config=file, tokens=tokens)


def _resolve_section(section: _Section, folder: str) -> _Section:
    values = {name: _resolve_value(name, getattr(section, name), folder) for name in section.__struct_fields__}
    return msgspec.structs.replace(section, **values)


def _resolve_value(name: str, value: Any, folder: str) -> Any:
    if isinstance(value, Section):
        return _resolve_section(value, folder)
    if name == "files":  # a list of patterns; the folder is no pattern
        return tuple(os.path.join(glob.escape(folder), pattern) for pattern in value)
    if isinstance(value, tuple):
        return tuple(_resolve_value("", item, folder) for item in value)
    return os.path.join(folder, value) if name.endswith("_file") and value is not None else value
