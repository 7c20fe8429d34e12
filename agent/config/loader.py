"""
Reads the operator's file into one frozen value, and checks all of it before anything starts.

One run reports every fault, each as `FILE: $.path.inside.it: what was expected`. Each collector declares its own keys
in its own module.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import yaml
from yaml.constructor import ConstructorError

from agent.config import validation
from agent.config.schema import AgentConfig, CollectorSettings, NotLoaded, Seconds
from agent.text.units import parse_duration
from collectors import read_regular_file_or_pipe

MAX_BYTES = 16 << 20
"""Bytes of a file; PyYAML needs a second for each 100 KiB."""

PIPE_SECONDS = 10.0  # seconds in which the command of `--config <(command)` must have written everything


class ConfigError(Exception):
    """The configuration cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def load(path: Path | None, collector_configs: Mapping[str, type | None]) -> AgentConfig:
    """
    Reads a YAML file; without a path, returns the defaults.

    `collector_configs` maps each known collector to its Config type. Raises ConfigError with all faults.
    """
    return parse(read_document(path), str(path), collector_configs)


_Entry = TypeVar("_Entry")


def load_entries(entry_type: type[_Entry], path: Path) -> tuple[_Entry, ...]:
    """Reads a file that is a list into frozen values of one type. Raises ConfigError with all faults."""
    parser = _DocumentParser(str(path), {})
    parsed = parser.parse_value(tuple[entry_type, ...], _load_yaml(path), "$")  # type: ignore[valid-type]  # it is a type only when run
    if parser.faults:
        raise ConfigError(parser.faults)
    return cast("tuple[_Entry, ...]", parsed)


def find_enabled_collectors(settings: Mapping[str, Any]) -> set[str]:
    """Finds the collectors that an unchecked document enables by name; only those of third parties are loaded."""
    collectors = settings.get("collectors")
    by_name = collectors if isinstance(collectors, dict) else {}
    return {name for name, keys in by_name.items() if isinstance(keys, dict) and keys.get("enabled") is True}


def read_document(path: Path | None) -> dict[str, Any]:
    """
    Reads the file's mapping without checking it; without a path, returns an empty one. Raises ConfigError.

    The caller passes the mapping on, since a pipe (`--config <(…)`) can be read only once.
    """
    if path is None:
        return {}
    content = _load_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError([f"{path}: expected a mapping of settings, found {_describe_type(content)}"])
    return content


def _load_yaml(path: Path) -> Any:
    try:
        text = read_regular_file_or_pipe(path, MAX_BYTES, PIPE_SECONDS).decode("utf-8")
        return yaml.load(text, _Loader)  # a SafeLoader that refuses a repeated key
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected UTF-8 text"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not YAML: {_describe_yaml_error(error)}"]) from error
    except (ValueError, OverflowError) as error:  # PyYAML's, for 2024-99-99, `!!int x` and numbers of 5,000 digits
        raise ConfigError([f"{path}: not YAML: {error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: not YAML: nested too deep"]) from error


def _describe_yaml_error(error: yaml.YAMLError) -> str:
    """Describes an error by place and reason; PyYAML's text quotes the line, which can hold a password."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    # An unquoted password may begin with * or !, which YAML takes for an alias or a tag and quotes as its name.
    problem = re.sub(r"\b(alias|tag|anchor) '.*'", r"\1", error.problem or error.context or "")
    return place + " ".join(problem.split())


class _Loader(yaml.SafeLoader):
    """Refuses a repeated key: plain YAML would silently drop the first one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in keys:
                raise ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


def parse(document: dict[str, Any], source: str, collector_configs: Mapping[str, type | None]) -> AgentConfig:
    """Parses a mapping that was read already; `source` begins each message. Raises ConfigError with all faults."""
    parser = _DocumentParser(source, collector_configs)
    config = parser.parse_section(AgentConfig, document, "$")
    if not parser.faults:
        parser.faults += [f"{source}: {path}: {expected}" for path, expected in validation.find_faults(config)]
    if parser.faults:
        raise ConfigError(parser.faults)
    return typing.cast("AgentConfig", config)


def parse_section(section_type: type, document: dict[str, Any], source: str) -> Any:
    """Parses a mapping into a frozen value of another type. Raises ConfigError with all faults."""
    parser = _DocumentParser(source, {})
    parsed = parser.parse_section(section_type, document, "$")
    if parser.faults:
        raise ConfigError(parser.faults)
    return parsed


class _DocumentParser:
    """Parses a document key by key, and collects every fault."""

    def __init__(self, source: str, collector_configs: Mapping[str, type | None]) -> None:
        self.source = source
        self.collector_configs = collector_configs
        self.faults: list[str] = []

    def add_fault(self, path: str, expected: str) -> None:
        self.faults.append(f"{self.source}: {path}: {expected}")

    def parse_section(self, section_type: type, raw: Any, path: str) -> Any:
        if not isinstance(raw, dict):
            return self.add_fault(path, f"expected a mapping, found {_describe_type(raw)}")
        hints = typing.get_type_hints(section_type, include_extras=True)
        self._check_unknown_keys(raw, hints, path)
        values = {key: self.parse_value(hints[key], raw[key], f"{path}.{key}") for key in raw if key in hints}
        required = [field.name for field in msgspec.structs.fields(section_type) if field.required]
        for name in required:
            if name not in raw:
                self.add_fault(path, f"expected the key {name!r}")
        if any(values.get(name) is None for name in required):
            return None  # its fault was added above
        try:
            return section_type(**{key: value for key, value in values.items() if value is not None})
        except ValueError as error:  # raised by a collector's own Config
            return self.add_fault(path, str(error))

    def _check_unknown_keys(self, raw: dict[Any, Any], known_keys: Mapping[str, Any], path: str) -> None:
        for key in raw:
            if key not in known_keys:
                suggestions = difflib.get_close_matches(str(key), known_keys, 1)
                hint = (
                    f" (did you mean {suggestions[0]!r}?)"
                    if suggestions
                    else f"; known here: {', '.join(sorted(known_keys))}"
                )
                self.add_fault(f"{path}.{key}", f"unknown key{hint}")

    def parse_value(self, hint: Any, raw: Any, path: str) -> Any:
        if _is_seconds(hint):
            return None if raw is None and _is_optional(hint) else self._parse_seconds(raw, path)
        if hint == dict[str, CollectorSettings]:
            return self._parse_collectors(raw, path)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is dict and raw is None:
            return {}
        if origin is tuple and _is_section(arguments[0]):
            return self._parse_list(arguments[0], raw, path)
        if _is_section(hint):
            return self.parse_section(hint, {} if raw is None else raw, path)
        sections = [member for member in arguments if _is_section(member)] if _is_optional(hint) else []
        if sections:
            return None if raw is None else self.parse_section(sections[0], raw, path)
        return self._convert(hint, raw, path)

    def _convert(self, hint: Any, raw: Any, path: str) -> Any:
        try:
            return msgspec.convert(raw, hint, strict=True)
        except msgspec.ValidationError as error:
            return self.add_fault(path, _lower_first(str(error).replace(" - at `$", " - inside at `")))

    def _parse_seconds(self, raw: Any, path: str) -> float | None:
        try:
            if not isinstance(raw, str):
                raise ValueError(f"expected a duration with its unit such as 1s or 500ms, found {_shorten(raw)}")
            return parse_duration(raw)
        except ValueError as error:
            return self.add_fault(path, str(error))

    def _parse_list(self, section_type: type, raw: Any, path: str) -> Any:
        if raw is None:
            return ()
        if not isinstance(raw, list):
            return self.add_fault(path, f"expected a list, found {_describe_type(raw)}")
        return tuple(self.parse_section(section_type, item, f"{path}[{index}]") for index, item in enumerate(raw))

    def _parse_collectors(self, raw: Any, path: str) -> Any:
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            return self.add_fault(path, f"expected a mapping of collectors, found {_describe_type(raw)}")
        self._check_unknown_keys(raw, self.collector_configs, path)
        names = [name for name in raw if name in self.collector_configs]
        return {name: self._parse_collector(name, raw[name], f"{path}.{name}") for name in names}

    def _parse_collector(self, name: str, raw: Any, path: str) -> CollectorSettings | None:
        if not isinstance(raw, dict):
            return self.add_fault(path, f"expected a mapping, found {_describe_type(raw)}")
        config_type = self.collector_configs[name]
        if config_type is NotLoaded:
            return CollectorSettings(enabled=False)
        config_fields = typing.get_type_hints(config_type, include_extras=True) if config_type else {}
        shared = {"enabled": bool, "interval": Seconds, "deadline": Seconds}
        self._check_unknown_keys(raw, {**config_fields, **shared}, path)
        values = {key: self.parse_value(shared[key], raw[key], f"{path}.{key}") for key in raw if key in shared}
        config_values = {key: value for key, value in raw.items() if key in config_fields}
        return CollectorSettings(
            **values,
            config=self.parse_section(config_type, config_values, path) if config_type and config_values else None,
        )


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _is_optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_seconds(hint: Any) -> bool:
    members = typing.get_args(hint) if _is_optional(hint) else (hint,)
    return any("duration" in getattr(member, "__metadata__", ()) for member in members)


def _describe_type(raw: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(raw), "a number" if isinstance(raw, int | float) else type(raw).__name__)


def _shorten(raw: Any) -> str:
    return _describe_type(raw) if isinstance(raw, dict | list) else repr(raw)[:60]  # a list with aliases can be huge


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
