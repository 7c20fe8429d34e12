"""What a configuration that is well formed must still mean: values within bounds, names that differ, addresses."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator

from agent.settings import CANARY, Config, EngineTarget
from agent.units import written

Fault = tuple[str, str]
"""The path inside the file, and what was expected there."""

LONGEST_INTERVAL = 120.0  # seconds: a rule looks back five minutes, so anything slower would blink out of sight
_SIZE = re.compile(r"auto|\d+(\.\d+)?\s*([KMG]i?B?|B)?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}")


def faults(config: Config) -> Iterator[Fault]:
    """Every fault of a configuration that has the right keys and types."""
    yield from _durations(config)
    yield from _collectors(config)
    yield from _engines(config)
    yield from _addresses(config)


def _durations(config: Config) -> Iterator[Fault]:
    bounds = (
        ("$.sample.interval", config.sample.interval, 0.1, 10.0),
        ("$.sample.keep", config.sample.keep, 600.0, 7 * 86400.0),
        ("$.engine.burst", config.engine.burst, 0.01, 10.0),
        ("$.engine.every", config.engine.every, 1.0, 3600.0),
        ("$.rules.interval", config.rules.interval, 0.1, 60.0),
        ("$.alerting.resend_delay", config.alerting.resend_delay, 1.0, 3600.0),
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
        yield f"{path}.url", f"expected http://HOST:PORT, found {engine.url!r}"


def _addresses(config: Config) -> Iterator[Fault]:
    host, _, port = config.web.listen.rpartition(":")
    if not (host and port.isdecimal() and int(port) < 65536):
        yield "$.web.listen", f"expected ADDRESS:PORT such as 127.0.0.1:9817, found {config.web.listen!r}"
    if config.web.external_url is not None and not _is_url(config.web.external_url):
        yield "$.web.external_url", f"expected http://HOST:PORT/, found {config.web.external_url!r}"
    for index, group in enumerate(config.alerting.alertmanagers):
        for target in (target for static in group.static_configs for target in static.targets):
            if not _is_host_port(target):
                path = f"$.alerting.alertmanagers[{index}].static_configs"
                yield path, f"expected HOST:PORT without a scheme, found {target!r}"


def _is_url(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def _is_host_port(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        return bool(parts.hostname) and parts.port is not None and parts.netloc == text
    except ValueError:  # a port that is no number
        return False
