"""What a configuration that is well formed must still mean: values within bounds, names that differ, addresses."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator

from agent.config.schema import CANARY, AlertmanagerSettings, Config, EngineTarget, TlsClient
from agent.text.units import written

Fault = tuple[str, str]
"""The path inside the file, and what was expected there."""

LONGEST_INTERVAL = 120.0  # seconds: a rule looks back five minutes, so anything slower would blink out of sight
_SIZE = re.compile(r"auto|\d+(\.\d+)?\s*([KMG]i?B?|B)?", re.IGNORECASE)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")


def faults(config: Config) -> Iterator[Fault]:
    """Every fault of a configuration that has the right keys and types."""
    yield from _durations(config)
    yield from _collectors(config)
    yield from _engines(config)
    yield from _addresses(config)
    for name in config.external_labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            yield "$.external_labels", f"expected names of labels such as cluster, found {name!r}"


def _durations(config: Config) -> Iterator[Fault]:
    bounds = (
        ("$.sample.interval", config.sample.interval, 0.1, 10.0),
        ("$.sample.keep", config.sample.keep, 600.0, 7 * 86400.0),
        ("$.engine.burst", config.engine.burst, 0.01, 10.0),
        ("$.engine.every", config.engine.every, 1.0, 3600.0),
        ("$.rules.interval", config.rules.interval, 0.1, 60.0),
        ("$.alerting.resend_delay", config.alerting.resend_delay, 1.0, 3600.0),
        ("$.remediation.webhook_expire", config.remediation.webhook_expire, 10.0, 7 * 86400.0),
    )
    for path, value, least, most in bounds:
        if not least <= value <= most:
            yield path, f"expected {written(least)} to {written(most)}"
    if config.engine.burst > config.engine.every >= 1:
        yield "$.engine.burst", "expected no more than engine.every"
    for index, group in enumerate(config.alerting.alertmanagers):
        if not 0.1 <= group.timeout <= 300:
            yield f"$.alerting.alertmanagers[{index}].timeout", "expected 100ms to 5m"


def _collectors(config: Config) -> Iterator[Fault]:
    least = config.sample.interval
    for name, told in config.collectors.items():
        if told.interval is not None and not least <= told.interval <= LONGEST_INTERVAL:
            expected = f"expected {written(least)} (sample.interval) to 2m (rules look back 5 minutes)"
            yield f"$.collectors.{name}.interval", expected
        if told.deadline is not None and not 0.01 <= told.deadline <= 60:
            yield f"$.collectors.{name}.deadline", "expected 10ms to 1m"


def _engines(config: Config) -> Iterator[Fault]:
    told = config.collectors.get("engine")
    if told is not None and told.own is not None and told.own.engines:
        yield "$.collectors.engine.engines", "expected the engines at the top of the file, under engines:"
    if not _SIZE.fullmatch(config.engine.size):
        yield "$.engine.size", f"expected auto or a size such as 64MiB, found {config.engine.size!r}"
    names = [engine.name for engine in config.engines]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "$.engines", f"expected names to differ, found {name!r} twice"
    for index, engine in enumerate(config.engines):
        yield from _engine(f"$.engines[{index}]", engine)


def _engine(path: str, engine: EngineTarget) -> Iterator[Fault]:
    if engine.name == CANARY:
        yield f"{path}.name", f"expected another name: {CANARY!r} is the bundled engine's"
    elif not _NAME.fullmatch(engine.name):
        yield f"{path}.name", f"expected letters, digits and _.:/- , found {engine.name!r}"
    if not _is_url(engine.url):
        yield f"{path}.url", f"expected http://HOST:PORT, {found(engine.url)}"


def _addresses(config: Config) -> Iterator[Fault]:
    host, _, port = config.web.listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        yield "$.web.listen", f"expected ADDRESS:PORT such as 127.0.0.1:9817, found {config.web.listen!r}"
    if config.web.external_url is not None and not _is_url(config.web.external_url):
        yield "$.web.external_url", f"expected http://HOST:PORT/, {found(config.web.external_url)}"
    for index, group in enumerate(config.alerting.alertmanagers):
        yield from _alertmanagers(f"$.alerting.alertmanagers[{index}]", group)


def _alertmanagers(path: str, group: AlertmanagerSettings) -> Iterator[Fault]:
    for target in (target for static in group.static_configs for target in static.targets):
        if not is_host_port(target):
            yield f"{path}.static_configs", f"expected HOST:PORT without a scheme, {found(target)}"
    for file in (file for each in group.file_sd_configs for file in each.files):
        if not file.endswith((".json", ".yml", ".yaml")) or "*" in file.rpartition("/")[0]:
            yield f"{path}.file_sd_configs", f"expected a .json, .yml or .yaml file, with * in its name only: {file!r}"
    basic, other = group.basic_auth, group.authorization
    if basic is not None and other is not None:
        yield path, "expected basic_auth or authorization, not both"
    if basic is not None:
        yield from _one_of(f"{path}.basic_auth", username=basic.username, username_file=basic.username_file)
        yield from _one_of(f"{path}.basic_auth", password=basic.password, password_file=basic.password_file)
    if other is not None:
        credentials = {"credentials": other.credentials, "credentials_file": other.credentials_file}
        yield from _one_of(f"{path}.authorization", **credentials)
        if other.type.lower() == "basic" or not _TOKEN.fullmatch(other.type):
            yield f"{path}.authorization.type", "expected Bearer or another scheme; Basic is basic_auth's"
    if group.tls_config is not None:
        yield from _tls(f"{path}.tls_config", group.tls_config)


def _tls(path: str, tls: TlsClient) -> Iterator[Fault]:
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


def _one_of(path: str, **told: str | None) -> Iterator[Fault]:
    if sum(value is not None for value in told.values()) != 1:
        yield path, f"expected one of {' and '.join(told)}"


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return sound and "@" not in parts.netloc
    except ValueError:  # a port that is no number
        return False


def is_host_port(text: str) -> bool:
    """Whether a text is HOST:PORT and nothing else: no user and no password, which metrics and logs would show."""
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port is not None and parts.netloc == text and "@" not in text
    except ValueError:  # a port that is no number
        return False


def found(text: str) -> str:
    """What stands where an address should; one that may have a password in it is not shown."""
    if "@" in text:
        return "found a user in it, which metrics and logs would show; for Alertmanagers there is basic_auth"
    return f"found {text!r}"
