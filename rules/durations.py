"""Durations as Prometheus writes them: https://prometheus.io/docs/prometheus/latest/configuration/configuration/."""

from __future__ import annotations

import re

_UNITS = (("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))
_PATTERN = re.compile("".join(rf"(?:(\d+){unit})?" for unit in ("y", "w", "d", "h", "m", "s", "ms")), re.ASCII)
_MAX_MS = (2**63 - 1) // 1_000_000  # a Go duration counts nanoseconds in an int64


def parse_duration(text: str) -> int:
    """Milliseconds of a duration such as `1h30m` or `0`; raises ValueError with Prometheus' words."""
    if text == "0":
        return 0
    if not text:
        raise ValueError("empty duration string")
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f'not a valid duration string: "{text}"')
    if len(text) > 100:  # int() of a long string of digits is slow, and no such duration fits
        raise ValueError("duration out of range")
    ms = sum(int(count or 0) * unit for count, unit in zip(match.groups(), (*(u for _, u in _UNITS), 1), strict=True))
    if ms > _MAX_MS:
        raise ValueError("duration out of range")
    return ms


def format_duration(ms: int) -> str:
    """The shortest form that parse_duration reads back: `90s` is `1m30s`."""
    if ms == 0:
        return "0s"
    text = ""
    for unit, size in (*_UNITS, ("ms", 1)):
        if unit in "yw" and ms % size:  # as Prometheus: years and weeks only where nothing is left over
            continue
        count, ms = divmod(ms, size)
        text += f"{count}{unit}" if count else ""
    return text
