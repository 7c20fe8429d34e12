"""
The operator's file as one frozen value, checked whole before anything starts.

Every fault is reported at once, each as `FILE: $.path.inside.it: what was expected`. A collector's own keys are
declared beside the collector, so this file does not grow with them.
"""

from __future__ import annotations

import difflib
import socket
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from agent.units import duration

Seconds = Annotated[float, "duration"]
"""A float of seconds, written as a Prometheus duration."""

LONGEST_INTERVAL = 120.0  # seconds: a rule looks back five minutes, so anything slower would blink out of sight


class ConfigError(Exception):
    """The configuration cannot be used; `messages` has one sentence for each fault."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = messages


class _Section(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping of the file; keys that it does not name are refused by `_Reader`."""


class Sampling(_Section, frozen=True):
    """How often, how long kept, and after how many silent intervals a collector's series are stale."""

    interval: Seconds = 1.0
    keep: Seconds = 3600.0
    stale_after: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3


class ExternalLabels(_Section, frozen=True):
    """Labels added to whatever leaves the host."""

    instance: str | None = None

    def resolved(self) -> dict[str, str]:
        """The labels as they go out."""
        return {"instance": self.instance or socket.gethostname(), "job": "steadytok"}


class CollectorSettings(_Section, frozen=True):
    """What every collector can be told; `own` is its own Config, or None where it has none."""

    enabled: bool | None = None
    interval: Seconds | None = None
    deadline: Seconds | None = None
    own: Any = None


class Canary(_Section, frozen=True):
    """The bundled reference engine, run as a canary."""

    enabled: Literal["auto"] | bool = "auto"
    size: str = "auto"
    burst: Seconds = 0.2
    every: Seconds = 5.0


class EngineTarget(_Section, frozen=True):
    """An engine of the operator's, met over HTTP."""

    name: str
    url: str
    kind: Literal["auto", "reference", "vllm", "llama.cpp", "sglang"] = "auto"


class RulesSettings(_Section, frozen=True):
    """Which rules are asked, and how often."""

    builtin: bool = True
    files: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    interval: Seconds = 1.0


class StaticConfig(_Section, frozen=True):
    """Prometheus' own static_config."""

    targets: tuple[str, ...]
    labels: dict[str, str] = {}


class AlertmanagerSettings(_Section, frozen=True):
    """Prometheus' own alertmanager_config, as far as it is built."""

    static_configs: tuple[StaticConfig, ...]
    scheme: Literal["http", "https"] = "http"
    path_prefix: str = "/"
    timeout: Seconds = 10.0
    api_version: Literal["v2"] = "v2"


class Alerting(_Section, frozen=True):
    """Where alerts go, and how often a firing one is told again."""

    alertmanagers: tuple[AlertmanagerSettings, ...] = ()
    resend_delay: Seconds = 60.0


class Web(_Section, frozen=True):
    """The page, /metrics and their door."""

    listen: str = "127.0.0.1:9817"
    external_url: str | None = None


class State(_Section, frozen=True):
    """Where what must outlive the process is kept."""

    dir: str | None = None


class Config(_Section, frozen=True):
    """The whole file."""

    sample: Sampling = Sampling()
    external_labels: ExternalLabels = ExternalLabels()
    collectors: dict[str, CollectorSettings] = {}
    engine: Canary = Canary()
    engines: tuple[EngineTarget, ...] = ()
    rules: RulesSettings = RulesSettings()
    alerting: Alerting = Alerting()
    web: Web = Web()
    state: State = State()


def load(path: Path | None, collector_configs: Mapping[str, type | None]) -> Config:
    """
    The configuration in a YAML file, or every default where there is no file.

    `collector_configs` maps each known collector to its own Config type. Raises ConfigError with all faults.
    """
    if path is None:
        return Config()
    return parse(_mapping(path), str(path), collector_configs)


def enabled_collectors(path: Path | None) -> set[str]:
    """The collectors that a file enables by name, before it is checked: third parties' are loaded only then."""
    told = _mapping(path).get("collectors") if path is not None else None
    named = told if isinstance(told, dict) else {}
    return {name for name, keys in named.items() if isinstance(keys, dict) and keys.get("enabled") is True}


def _mapping(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: expected UTF-8 text"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: not YAML: {' '.join(str(error).split())}"]) from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError([f"{path}: expected a mapping of settings, found {_kind(document)}"])
    return document


def parse(document: dict[str, Any], where: str, collector_configs: Mapping[str, type | None]) -> Config:
    """The same, from a mapping already read; `where` opens each message."""
    reader = _Reader(where, collector_configs)
    config = reader.section(Config, document, "$")
    if not reader.faults:
        _check_meaning(config, reader)
    if reader.faults:
        raise ConfigError(reader.faults)
    return typing.cast("Config", config)


def _check_meaning(config: Config, reader: _Reader) -> None:
    if not 0.1 <= config.sample.interval <= 10:
        reader.fault("$.sample.interval", "expected 100ms to 10s")
    if config.sample.keep < 600:
        reader.fault("$.sample.keep", "expected 10m or more: built-in rules look back 5 to 10 minutes")
    for name, settings in config.collectors.items():
        if settings.interval is not None and not config.sample.interval <= settings.interval <= LONGEST_INTERVAL:
            expected = f"expected {config.sample.interval:g}s (sample.interval) to 2m (rules look back 5 minutes)"
            reader.fault(f"$.collectors.{name}.interval", expected)
    names = [engine.name for engine in config.engines]
    for name in {name for name in names if names.count(name) > 1}:
        reader.fault("$.engines", f"expected names to differ, found {name!r} twice")
    for index, engine in enumerate(config.engines):
        if not engine.url.startswith(("http://", "https://")):
            reader.fault(f"$.engines[{index}].url", f"expected http://HOST:PORT, found {engine.url!r}")
    _check_listen(config.web.listen, reader)


def _check_listen(listen: str, reader: _Reader) -> None:
    host, colon, port = listen.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 65536):
        reader.fault("$.web.listen", f"expected ADDRESS:PORT such as 127.0.0.1:9817, found {listen!r}")


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
        return kind(**{key: value for key, value in values.items() if value is not None})

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
        if origin is tuple and _is_section(arguments[0]):
            return self._list(arguments[0], raw, path)
        if _is_section(hint):
            return self.section(hint, {} if raw is None else raw, path)
        return self._plain(hint, raw, path)

    def _plain(self, hint: Any, raw: Any, path: str) -> Any:
        try:
            return msgspec.convert(raw, hint, strict=True)
        except msgspec.ValidationError as error:
            return self.fault(path, _lower_first(str(error).replace(" - at `$", " - inside at `")))

    def _seconds(self, raw: Any, path: str) -> float | None:
        try:
            if not isinstance(raw, str):
                raise ValueError(f"expected a duration with its unit such as 1s or 500ms, found {raw!r}")
            return duration(raw)
        except ValueError as error:
            return self.fault(path, str(error))

    def _list(self, kind: type, raw: Any, path: str) -> Any:
        if not isinstance(raw, list):
            return self.fault(path, f"expected a list, found {_kind(raw)}")
        return tuple(self.section(kind, item, f"{path}[{index}]") for index, item in enumerate(raw))

    def _collectors(self, raw: Any, path: str) -> Any:
        if not isinstance(raw, dict):
            return self.fault(path, f"expected a mapping of collectors, found {_kind(raw)}")
        self._unknown(raw, self.collector_configs, path)
        known = [name for name in raw if name in self.collector_configs]
        return {name: self._collector(name, raw[name], f"{path}.{name}") for name in known}

    def _collector(self, name: str, raw: Any, path: str) -> CollectorSettings | None:
        if not isinstance(raw, dict):
            return self.fault(path, f"expected a mapping, found {_kind(raw)}")
        own_type = self.collector_configs[name]
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


def _lower_first(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
