"""
Parses the parts of the Prometheus text format that engines' metrics need, many times a minute.

A line with another name costs one dictionary look-up: vLLM's exposition has 1,000 lines, ten of them of interest.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

_SAMPLE = re.compile(
    r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\s*\{((?:[^"{}]|"(?:[^"\\]|\\.)*")*)\})?'  # name and labels
    r"\s+([^\s#]+)(?:\s+-?\d+)?\s*(?:#.*)?",  # value, time and exemplar
    re.ASCII,
)
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
# Prometheus takes inf and nan in any case: C++ prints `nan` and `-nan` (https://github.com/ggml-org/llama.cpp/issues/11868).
_NUMBER = re.compile(
    r"[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|inf(?:inity)?|nan)", re.ASCII | re.IGNORECASE
)
_ESCAPED = re.compile(r"\\(.)")
_NAME_ENDS = re.compile(r"[{\s]")


class Point(NamedTuple):
    """One sample of an engine's exposition."""

    labels: dict[str, str]
    value: float


Points = dict[str, list[Point] | None]
"""Samples by exact name; None where one of them is unreadable, since the sum of the rest would be wrong."""


class BodyKind(Enum):
    """The kind of text that an engine answered with."""

    SAMPLES = "samples"
    EMPTY = "empty"  # comments at most: an engine without a request yet has no sample
    OTHER = "other"  # a web page, JSON


def classify_body(text: str) -> BodyKind:
    """Judges a text by its first line that is no comment."""
    lines = (line for line in text.split("\n") if line.strip() and not line.startswith("#"))
    first = next(lines, None)
    if first is None:
        return BodyKind.EMPTY
    match = _SAMPLE.fullmatch(first.strip())
    is_sample = match is not None and _NUMBER.fullmatch(match[3]) is not None
    return BodyKind.SAMPLES if is_sample else BodyKind.OTHER


def parse_points(text: str, names: Mapping[str, str]) -> Points:
    """Returns the samples of the metrics in `names`, under the name that each of them is mapped to."""
    parsed: Points = {}
    for line in text.split("\n"):
        name = names.get(_NAME_ENDS.split(line, maxsplit=1)[0])
        if name is None:
            continue
        point = _parse_point(line)
        series = parsed.setdefault(name, [])
        if point is None or series is None:
            parsed[name] = None
        else:
            series.append(point)
    return parsed


def _parse_point(line: str) -> Point | None:
    match = _SAMPLE.fullmatch(line.strip())
    if match is None or _NUMBER.fullmatch(match[3]) is None:
        return None
    labels = _parse_labels(match[2] or "")
    return None if labels is None else Point(labels, float(match[3]))


def _parse_labels(text: str) -> dict[str, str] | None:
    labels: dict[str, str] = {}
    position = 0
    while position < len(text.rstrip()):
        match = _LABEL.match(text, position)
        if match is None:
            return None
        labels[match[1]] = _ESCAPED.sub(lambda escaped: "\n" if escaped[1] == "n" else escaped[1], match[2])
        position = match.end()
    return labels
