"""
Prometheus' durations, such as `1h30m` and `500ms`: the one grammar for rules, queries, options and the configuration.

https://prometheus.io/docs/prometheus/latest/configuration/configuration/
"""

from __future__ import annotations

import re

_UNITS = (
    ("y", 31_536_000_000),
    ("w", 604_800_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
)
_PATTERN = re.compile("".join(rf"(?:(\d+){unit})?" for unit, _ in _UNITS), re.ASCII)
_MAX_MS = (2**63 - 1) // 1_000_000  # a Go duration counts nanoseconds in an int64
_MAX_LENGTH = 100  # int() of a long string of digits is slow, and no valid duration is as long


def parse_duration(text: str) -> int:
    """Parses a duration such as `1h30m` or `0` to milliseconds; raises ValueError with Prometheus' error texts."""
    if text == "0":
        return 0
    if not text:
        raise ValueError("empty duration string")
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError(f'not a valid duration string: "{text}"')
    if len(text) > _MAX_LENGTH:
        raise ValueError("duration out of range")
    ms = sum(int(count or 0) * unit_ms for count, (_, unit_ms) in zip(match.groups(), _UNITS, strict=True))
    if ms > _MAX_MS:
        raise ValueError("duration out of range")
    return ms


def format_duration(ms: int, *, whole_weeks: bool = True) -> str:
    """
    Formats milliseconds in the shortest form that parse_duration reads back: 90,000 is `1m30s`.

    As in Prometheus, years and weeks appear only if the rest divides evenly; without `whole_weeks` they never do.
    """
    if ms == 0:
        return "0s"
    text = ""
    for unit, unit_ms in _UNITS:
        if unit in "yw" and (ms % unit_ms or not whole_weeks):
            continue
        count, ms = divmod(ms, unit_ms)
        text += f"{count}{unit}" if count else ""
    return text
