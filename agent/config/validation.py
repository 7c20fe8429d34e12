"""Validates the values of a well-formed configuration: bounds, unique names, addresses."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator

from agent.config.schema import CANARY, AgentConfig, AlertmanagerSettings, EngineTarget, TlsClient
from agent.text.units import format_duration

ConfigFault = tuple[str, str]
"""The path inside the file, and the expected value."""

MAX_INTERVAL = 120.0  # seconds; rules look back five minutes, so slower series would come and go
_SIZE = re.compile(r"auto|\d+(\.\d+)?\s*([KMG]i?B?|B)?", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")


def find_faults(config: AgentConfig) -> Iterator[ConfigFault]:
    """Yields every fault of a configuration whose keys and types are right."""
    yield from _check_durations(config)
    yield from _check_collectors(config)
    yield from _check_engines(config)
    yield from _check_addresses(config)
    for name in config.external_labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            yield "$.external_labels", f"expected names of labels such as cluster, found {name!r}"


def _check_durations(config: AgentConfig) -> Iterator[ConfigFault]:
    bounds = (
        ("$.sample.interval", config.sample.interval, 0.1, 10.0),
        ("$.sample.keep", config.sample.keep, 600.0, 7 * 86400.0),
        ("$.engine.burst", config.engine.burst, 0.01, 10.0),
        ("$.engine.every", config.engine.every, 1.0, 3600.0),
        ("$.rules.interval", config.rules.interval, 0.1, 60.0),
        ("$.alerting.resend_delay", config.alerting.resend_delay, 1.0, 3600.0),
        ("$.remediation.webhook_expire", config.remediation.webhook_expire, 10.0, 7 * 86400.0),
    )
    for path, value, minimum, maximum in bounds:
        if not minimum <= value <= maximum:
            yield path, f"expected {format_duration(minimum)} to {format_duration(maximum)}"
    if config.engine.burst > config.engine.every >= 1:
        yield "$.engine.burst", "expected no more than engine.every"
    for index, group in enumerate(config.alerting.alertmanagers):
        if not 0.1 <= group.timeout <= 300:
            yield f"$.alerting.alertmanagers[{index}].timeout", "expected 100ms to 5m"


def _check_collectors(config: AgentConfig) -> Iterator[ConfigFault]:
    minimum = config.sample.interval
    for name, settings in config.collectors.items():
        if settings.interval is not None and not minimum <= settings.interval <= MAX_INTERVAL:
            expected = f"expected {format_duration(minimum)} (sample.interval) to 2m (rules look back 5 minutes)"
            yield f"$.collectors.{name}.interval", expected
        if settings.deadline is not None and not 0.01 <= settings.deadline <= 60:
            yield f"$.collectors.{name}.deadline", "expected 10ms to 1m"
        if hasattr(settings.config, "find_faults"):
            for key, expected in settings.config.find_faults():
                yield f"$.collectors.{name}.{key}", expected


def _check_engines(config: AgentConfig) -> Iterator[ConfigFault]:
    if not _SIZE.fullmatch(config.engine.size):
        yield "$.engine.size", f"expected auto or a size such as 64MiB, found {config.engine.size!r}"
    names = [engine.name for engine in config.engines]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "$.engines", f"expected names to differ, found {name!r} twice"
    for index, engine in enumerate(config.engines):
        yield from _check_engine(f"$.engines[{index}]", engine)


def _check_engine(path: str, engine: EngineTarget) -> Iterator[ConfigFault]:
    if engine.name == CANARY:
        yield f"{path}.name", f"expected another name: {CANARY!r} is the bundled engine's"
    elif not _NAME.fullmatch(engine.name):
        yield f"{path}.name", f"expected letters, digits and _.:/- , found {engine.name!r}"
    if not _is_url(engine.url):
        yield f"{path}.url", f"expected http://HOST:PORT, {describe_address(engine.url)}"


def _check_addresses(config: AgentConfig) -> Iterator[ConfigFault]:
    host, _, port = config.web.listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        yield "$.web.listen", f"expected ADDRESS:PORT such as 127.0.0.1:9817, found {config.web.listen!r}"
    if config.web.external_url is not None and not _is_url(config.web.external_url):
        yield "$.web.external_url", f"expected http://HOST:PORT/, {describe_address(config.web.external_url)}"
    for index, group in enumerate(config.alerting.alertmanagers):
        yield from _check_alertmanagers(f"$.alerting.alertmanagers[{index}]", group)


def _check_alertmanagers(path: str, group: AlertmanagerSettings) -> Iterator[ConfigFault]:
    for target in (target for static_config in group.static_configs for target in static_config.targets):
        if not is_host_port(target):
            yield f"{path}.static_configs", f"expected HOST:PORT without a scheme, {describe_address(target)}"
    for file in (file for file_config in group.file_sd_configs for file in file_config.files):
        if not file.endswith((".json", ".yml", ".yaml")) or "*" in file.rpartition("/")[0]:
            yield f"{path}.file_sd_configs", f"expected a .json, .yml or .yaml file, with * in its name only: {file!r}"
    basic_auth, authorization = group.basic_auth, group.authorization
    if basic_auth is not None and authorization is not None:
        yield path, "expected basic_auth or authorization, not both"
    if basic_auth is not None:
        yield from _check_exactly_one(
            f"{path}.basic_auth", username=basic_auth.username, username_file=basic_auth.username_file
        )
        yield from _check_exactly_one(
            f"{path}.basic_auth", password=basic_auth.password, password_file=basic_auth.password_file
        )
    if authorization is not None:
        credentials = {"credentials": authorization.credentials, "credentials_file": authorization.credentials_file}
        yield from _check_exactly_one(f"{path}.authorization", **credentials)
        if authorization.type.lower() == "basic" or not _TOKEN.fullmatch(authorization.type):
            yield f"{path}.authorization.type", "expected Bearer or another scheme; Basic is basic_auth's"
    if group.tls_config is not None:
        yield from _check_tls(f"{path}.tls_config", group.tls_config)


def _check_tls(path: str, tls: TlsClient) -> Iterator[ConfigFault]:
    pieces = (("ca", tls.ca, tls.ca_file), ("cert", tls.cert, tls.cert_file), ("key", tls.key, tls.key_file))
    for name, text, file in pieces:
        if text is not None and file is not None:
            yield path, f"expected {name} or {name}_file, not both"
        if text is not None and "-----BEGIN " not in text:
            yield f"{path}.{name}", f"expected PEM, which begins with -----BEGIN; a path is {name}_file's"
    if (tls.cert is None and tls.cert_file is None) != (tls.key is None and tls.key_file is None):
        yield path, "expected cert_file and key_file together, or cert and key"
    if tls.min_version > tls.max_version:
        yield f"{path}.min_version", f"expected no more than max_version ({tls.max_version})"


def _check_exactly_one(path: str, **values: str | None) -> Iterator[ConfigFault]:
    if sum(value is not None for value in values.values()) != 1:
        yield path, f"expected one of {' and '.join(values)}"


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return is_valid and "@" not in parts.netloc
    except ValueError:  # a port that is no number
        return False


def is_host_port(text: str) -> bool:
    """Returns True for HOST:PORT without a user or a password, which metrics and logs would show."""
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port is not None and parts.netloc == text and "@" not in text
    except ValueError:  # a port that is no number
        return False


def describe_address(text: str) -> str:
    """Describes an invalid address for a message; hides one that may contain a password."""
    if "@" in text:
        return "found a user in it, which metrics and logs would show; for Alertmanagers there is basic_auth"
    return f"found {text!r}"
