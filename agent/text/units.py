"""Parses and formats durations, sizes and addresses: `500ms`, `1h30m`, `64MiB`, `https://chat.example`."""

from __future__ import annotations

import re

_SECONDS = {"y": 365 * 86400.0, "w": 7 * 86400.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# Prometheus' own grammar: units from large to small, each at most once, whole numbers.
_DURATION = re.compile("".join(rf"(?:(?P<{unit}>\d+){unit})?" for unit in _SECONDS), re.ASCII)
_ORIGIN = re.compile(r"(\w+://)(?:[^/?#]*@)?([^/?#]+)")

_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(rf"(\d{{1,12}}) ?({'|'.join(_BYTES)})", re.ASCII)


def parse_duration(text: str) -> float:
    """Returns the seconds of a Prometheus duration such as `1s`, `500ms` or `1h30m`. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if text == "0":
        return 0.0
    if not text or match is None:
        raise ValueError(f"expected a duration such as 1s, 500ms or 1h30m, found {text!r}")
    return sum(float(count) * _SECONDS[unit] for unit, count in match.groupdict().items() if count)


def format_duration(seconds: float) -> str:
    """Formats seconds in the same grammar, as short as possible."""
    remaining, parts = round(seconds * 1000), []
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, remaining = divmod(remaining, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


def parse_size(text: str) -> int:
    """Returns the bytes of a size such as `64MiB`. Raises ValueError."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a size such as 64MiB or 4GiB, found {text[:40]!r}")
    return int(match[1]) * _BYTES[match[2]]


def format_bytes(count: float) -> str:
    """Formats a number of bytes with a binary unit: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def url_origin(url: str) -> str:
    """Returns the scheme, host and port of a URL; its user, path and query are secret in many webhooks."""
    match = _ORIGIN.match(url)
    return f"{match[1]}{match[2]}" if match else "an invalid address"
