"""
The /metrics of several workers as one: each series with the label `worker`, so that who asks may add up or compare.

A counter must not fall when a worker is replaced: what the one before had counted is added to what its successor
counts, and stays while there is none. A gauge of a worker that is gone is missing.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_TOLD = re.compile(r"# (HELP|TYPE) (\S+) (.*)")
_SERIES = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.ASCII)
_PARTS = re.compile(r"_(?:bucket|sum|count)$")


class Told(NamedTuple):
    """What a worker's process told; `start` is its number, 1 for the first."""

    start: int
    text: str


class _Family(NamedTuple):
    """One metric with what all workers say of it."""

    told: dict[str, str]
    lines: list[str]


class Summed:
    """Remembers the counters of workers that are gone."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._families: dict[str, dict[str, str]] = {}
        self._starts: dict[str, int] = {}

    def merged(self, answers: Mapping[str, Told]) -> str:
        """One exposition of those workers that answered, by name."""
        families: dict[str, _Family] = {}
        seen = set()
        for worker, told in answers.items():
            if self._starts.setdefault(worker, told.start) != told.start:
                self._succeed(worker, told.start)
            for family, series, value in self._points(told.text):
                name = _labelled(series, worker)
                seen.add(name)
                of = families.setdefault(family, _Family(self._families.get(family, {}), []))
                of.lines.append(f"{name} {self._counted(name, value) if _monotone(of) else value}")
        self._add_silent(families, seen)
        return "".join(_written(name, family) for name, family in families.items())

    def _succeed(self, worker: str, start: int) -> None:
        """A new process counts from 0: what the one before had counted is kept."""
        self._starts[worker] = start
        for name in [name for name in self._last if f'{{worker="{worker}"' in name]:
            self._before[name] = self._before.get(name, 0.0) + self._last[name]
            self._last[name] = 0.0

    def _points(self, text: str) -> Iterator[tuple[str, str, str]]:
        for line in text.splitlines():
            if (told := _TOLD.fullmatch(line)) is not None:
                self._families.setdefault(told[2], {})[told[1]] = told[3]
            elif (match := _SERIES.fullmatch(line)) is not None:
                name = match[1] if match[1] in self._families else _PARTS.sub("", match[1])
                yield name, f"{match[1]}{{{match[2] or ''}}}", match[3]

    def _counted(self, name: str, text: str) -> str:
        value = self._last[name] = float(text)
        return repr(value + self._before.get(name, 0.0))

    def _add_silent(self, families: dict[str, _Family], seen: set[str]) -> None:
        for name in self._last.keys() - seen:
            full = name.partition("{")[0]
            family = full if full in self._families else _PARTS.sub("", full)
            of = families.setdefault(family, _Family(self._families.get(family, {}), []))
            of.lines.append(f"{name} {self._last[name] + self._before.get(name, 0.0)!r}")


def _labelled(series: str, worker: str) -> str:
    name, _, labels = series.partition("{")
    return f'{name}{{worker="{worker}"' + (f",{labels}" if labels != "}" else "}")


def _monotone(family: _Family) -> bool:
    return family.told.get("TYPE") in ("counter", "histogram")


def _written(name: str, family: _Family) -> str:
    told = "".join(f"# {word} {name} {family.told[word]}\n" for word in ("HELP", "TYPE") if word in family.told)
    return told + "".join(f"{line}\n" for line in family.lines)
