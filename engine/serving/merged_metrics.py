"""
Merges the /metrics of several workers into one exposition; each series gets the label `worker`.

A counter must not fall when a worker is replaced: the successor's counts are added to those of its predecessor, which
stay meanwhile. The gauges of a worker that does not answer are missing.
https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_METADATA_LINE = re.compile(r"# (HELP|TYPE) (\S+) (.*)")
_SERIES_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.ASCII)
_PART_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


class WorkerMetrics(NamedTuple):
    """The exposition of one worker process; `start` counts the processes of the worker, from 1."""

    start: int
    text: str


class _MergedFamily(NamedTuple):
    """One metric with the series of all workers."""

    metadata: dict[str, str]
    lines: list[str]


class MergedMetrics:
    """Merges expositions, and keeps the counters of processes that have ended."""

    def __init__(self) -> None:
        self._last_values: dict[str, float] = {}
        self._previous_totals: dict[str, float] = {}
        self._metadata: dict[str, dict[str, str]] = {}
        self._worker_starts: dict[str, int] = {}

    def merge(self, answers: Mapping[str, WorkerMetrics]) -> str:
        """Returns one exposition of the workers that answered; `answers` are by worker name."""
        families: dict[str, _MergedFamily] = {}
        reported = set()
        for worker, metrics in answers.items():
            if self._worker_starts.setdefault(worker, metrics.start) != metrics.start:
                self._replace_worker(worker, metrics.start)
            for family, series, value in self._parse_exposition(metrics.text):
                name = _add_worker_label(series, worker)
                reported.add(name)
                merged_family = families.setdefault(family, _MergedFamily(self._metadata.get(family, {}), []))
                merged_family.lines.append(
                    f"{name} {self._add_previous_total(name, value) if _is_cumulative(merged_family) else value}"
                )
        self._add_missing(families, reported)
        return "".join(_format_family(name, family) for name, family in families.items())

    def _replace_worker(self, worker: str, start: int) -> None:
        """Adds the last counts of the former process to the totals: a new process counts from 0."""
        self._worker_starts[worker] = start
        for name in [name for name in self._last_values if f'{{worker="{worker}"' in name]:
            self._previous_totals[name] = self._previous_totals.get(name, 0.0) + self._last_values[name]
            self._last_values[name] = 0.0

    def _parse_exposition(self, text: str) -> Iterator[tuple[str, str, str]]:
        for line in text.splitlines():
            if (comment := _METADATA_LINE.fullmatch(line)) is not None:
                self._metadata.setdefault(comment[2], {})[comment[1]] = comment[3]
            elif (match := _SERIES_LINE.fullmatch(line)) is not None:
                name = match[1] if match[1] in self._metadata else _PART_SUFFIX.sub("", match[1])
                yield name, f"{match[1]}{{{match[2] or ''}}}", match[3]

    def _add_previous_total(self, name: str, text: str) -> str:
        value = self._last_values[name] = float(text)
        return repr(value + self._previous_totals.get(name, 0.0))

    def _add_missing(self, families: dict[str, _MergedFamily], reported: set[str]) -> None:
        for name in self._last_values.keys() - reported:
            series_name = name.partition("{")[0]
            family = series_name if series_name in self._metadata else _PART_SUFFIX.sub("", series_name)
            merged_family = families.setdefault(family, _MergedFamily(self._metadata.get(family, {}), []))
            merged_family.lines.append(f"{name} {self._last_values[name] + self._previous_totals.get(name, 0.0)!r}")


def _add_worker_label(series: str, worker: str) -> str:
    name, _, labels = series.partition("{")
    return f'{name}{{worker="{worker}"' + (f",{labels}" if labels != "}" else "}")


def _is_cumulative(family: _MergedFamily) -> bool:
    return family.metadata.get("TYPE") in ("counter", "histogram")


def _format_family(name: str, family: _MergedFamily) -> str:
    header = "".join(
        f"# {keyword} {name} {family.metadata[keyword]}\n" for keyword in ("HELP", "TYPE") if keyword in family.metadata
    )
    return header + "".join(f"{line}\n" for line in family.lines)
