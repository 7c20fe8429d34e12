"""
The operator's file as one frozen value, checked whole before anything starts.

Every fault is reported at once, each as `FILE: $.path.inside.it: what was expected`. A collector's own keys are
declared beside the collector, so this file does not grow with them.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import yaml
from yaml.constructor import ConstructorError

from agent.config import validation
from agent.config.schema import CollectorSettings, Config, Seconds
from agent.sampling.plugins import NotLoaded
from agent.text.units import duration


class ConfigError(Exception):
    """The configuration cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


def load(path: Path | None, collector_configs: Mapping[str, type | None]) -> Config:
    """
    The configuration in a YAML file, or every default where there is no file.

    `collector_configs` maps each known collector to its own Config type. Raises ConfigError with all faults.
    """
    return parse(document(path), str(path), collector_configs)


_Entry = TypeVar("_Entry")


def entries(kind: type[_Entry], path: Path) -> tuple[_Entry, ...]:
    """A file that is a list, as frozen values of one kind. Raises ConfigError with all faults."""
    reader = _Reader(str(path), {})
    found = reader.value(tuple[kind, ...], _loaded(path), "$")  # type: ignore[valid-type]  # it is a type only when run
    if reader.faults:
        raise ConfigError(reader.faults)
    return cast("tuple[_Entry, ...]", found)


def enabled_collectors(settings: Mapping[str, Any]) -> set[str]:
    """The collectors that a document enables by name, before it is checked: third parties' are loaded only then."""
    told = settings.get("collectors")
    named = told if isinstance(told, dict) else {}
    return {name for name, keys in named.items() if isinstance(keys, dict) and keys.get("enabled") is True}


def document(path: Path | None) -> dict[str, Any]:
    """
    The file's mapping, not yet checked; empty where there is no file. Raises ConfigError.

    Read once and passed on: what comes through a pipe (`--config <(…)`) can be read only once.
    """
    if path is None:
        return {}
    told = _loaded(path)
    if told is None:
        return {}
    if not isinstance(told, dict):
        raise ConfigError([f"{path}: expected a mapping of settings, found {_kind(told)}"])
    return told


def _loaded(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader that refuses a key given twice
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected UTF-8 text"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error
    except (ValueError, OverflowError) as error:  # PyYAML's own for 2024-99-99, `!!int x` and numbers of 5,000 digits
        raise ConfigError([f"{path}: not YAML: {error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: not YAML: nested too deep"]) from error


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is a fault: the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is not None and key in seen:
                raise ConstructorError(None, None, f"the key {key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse(document: dict[str, Any], where: str, collector_configs: Mapping[str, type | None]) -> Config:
    """The same, from a mapping already read; `where` opens each message."""
    reader = _Reader(where, collector_configs)
    config = reader.section(Config, document, "$")
    if not reader.faults:
        reader.faults += [f"{where}: {path}: {expected}" for path, expected in validation.faults(config)]
    if reader.faults:
        raise ConfigError(reader.faults)
    return typing.cast("Config", config)


def section(kind: type, document: dict[str, Any], where: str) -> Any:
    """A mapping already read as a frozen value of another kind. Raises ConfigError with all faults."""
    reader = _Reader(where, {})
    found = reader.section(kind, document, "$")
    if reader.faults:
        raise ConfigError(reader.faults)
    return found


class _Reader:
    """Walks the document key by key, so that one run reports every fault."""

    def __init__(self, where: str, collector_configs: Mapping[str, type | None]) -> None:
        self.where = where
        self.collector_configs = collector_configs
        self.faults: list[str] = []

    def fault(self, path: str, expected: str) -> None:
        self.faults.append(f"{self.where}: {path}: {expected}")

    def section(self, kind: type, raw: Any, path: str) -> Any:
        if not isinstance(raw, dict):
            return self.fault(path, f"expected a mapping, found {_kind(raw)}")
        hints = typing.get_type_hints(kind, include_extras=True)
        self._unknown(raw, hints, path)
        values = {key: self.value(hints[key], raw[key], f"{path}.{key}") for key in raw if key in hints}
        required = [field.name for field in msgspec.structs.fields(kind) if field.required]
        for name in required:
            if name not in raw:
                self.fault(path, f"expected the key {name!r}")
        if any(values.get(name) is None for name in required):
            return None  # its fault has been told
        try:
            return kind(**{key: value for key, value in values.items() if value is not None})
        except ValueError as error:  # what a collector's own Config finds wrong with itself
            return self.fault(path, str(error))

    def _unknown(self, raw: dict[Any, Any], known: Mapping[str, Any], path: str) -> None:
        for key in raw:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                hint = f" (did you mean {close[0]!r}?)" if close else f"; known here: {', '.join(sorted(known))}"
                self.fault(f"{path}.{key}", f"unknown key{hint}")

    def value(self, hint: Any, raw: Any, path: str) -> Any:
        if _is_seconds(hint):
            return None if raw is None and _is_optional(hint) else self._seconds(raw, path)
        if hint == dict[str, CollectorSettings]:
            return self._collectors(raw, path)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is dict and raw is None:
            return {}
        if origin is tuple and _is_section(arguments[0]):
            return self._list(arguments[0], raw, path)
        if _is_section(hint):
            return self.section(hint, {} if raw is None else raw, path)
        maybe = [member for member in arguments if _is_section(member)] if _is_optional(hint) else []
        if maybe:
            return None if raw is None else self.section(maybe[0], raw, path)
        return self._plain(hint, raw, path)

    def _plain(self, hint: Any, raw: Any, path: str) -> Any:
        try:
            return msgspec.convert(raw, hint, strict=True)
        except msgspec.ValidationError as error:
            return self.fault(path, _lower_first(str(error).replace(" - at `$", " - inside at `")))

    def _seconds(self, raw: Any, path: str) -> float | None:
        try:
            if not isinstance(raw, str):
                raise ValueError(f"expected a duration with its unit such as 1s or 500ms, found {_short(raw)}")
            return duration(raw)
        except ValueError as error:
            return self.fault(path, str(error))

    def _list(self, kind: type, raw: Any, path: str) -> Any:
        if raw is None:
            return ()
        if not isinstance(raw, list):
            return self.fault(path, f"expected a list, found {_kind(raw)}")
        return tuple(self.section(kind, item, f"{path}[{index}]") for index, item in enumerate(raw))

    def _collectors(self, raw: Any, path: str) -> Any:
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            return self.fault(path, f"expected a mapping of collectors, found {_kind(raw)}")
        self._unknown(raw, self.collector_configs, path)
        known = [name for name in raw if name in self.collector_configs]
        return {name: self._collector(name, raw[name], f"{path}.{name}") for name in known}

    def _collector(self, name: str, raw: Any, path: str) -> CollectorSettings | None:
        if not isinstance(raw, dict):
            return self.fault(path, f"expected a mapping, found {_kind(raw)}")
        own_type = self.collector_configs[name]
        if own_type is NotLoaded:
            return CollectorSettings(enabled=False)
        own_fields = typing.get_type_hints(own_type, include_extras=True) if own_type else {}
        shared = {"enabled": bool, "interval": Seconds, "deadline": Seconds}
        self._unknown(raw, {**own_fields, **shared}, path)
        told = {key: self.value(shared[key], raw[key], f"{path}.{key}") for key in raw if key in shared}
        own = {key: value for key, value in raw.items() if key in own_fields}
        return CollectorSettings(**told, own=self.section(own_type, own, path) if own_type and own else None)


def _is_section(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _is_optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_seconds(hint: Any) -> bool:
    members = typing.get_args(hint) if _is_optional(hint) else (hint,)
    return any("duration" in getattr(member, "__metadata__", ()) for member in members)


def _kind(raw: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(raw), "a number" if isinstance(raw, int | float) else type(raw).__name__)


def _short(raw: Any) -> str:
    return _kind(raw) if isinstance(raw, dict | list) else repr(raw)[:60]  # aliases make a list of a million


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
