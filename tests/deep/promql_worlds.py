"""
Random series for generated expressions, and the ways in which History may hold the same samples.

- dense: every series has a value in every row, at even times;
- gapped: uneven times, series that end and come back, counters that reset, rows that are missing for minutes;
- scattered: the same, each metric sampled at times of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import NamedTuple

from collectors import Labels, Sample, gauge
from rules.history.history import History
from tests.deep.promql_peer import Stream

START_MS = 1_699_998_800_137  # no whole second, so never the edge of a window; and long before anything is asked
ROWS, INTERVAL_MS = 520, 5_000
KINDS = ("dense", "gapped", "scattered")
_OUTAGES = ((330, 341), (410, 486))  # rows; the second is longer than the lookback


class Row(NamedTuple):
    """One pass of a sampling group."""

    group: str
    at_ms: int
    values: dict[Labels, float]


def build_rows(kind: str, seed: int) -> list[Row]:
    """The samples of a world, in the order of time."""
    drawn = random.Random(f"{kind} {seed}")
    walks = [_Walk(name, labels, kind, drawn) for name, labels in _series()]
    groups = {walk.group for walk in walks}
    outages = {group: _outages(kind, drawn) for group in sorted(groups)}
    all_rows = []
    for row in range(ROWS):
        for group in sorted(groups):
            values = {
                walk.key: value for walk in walks if walk.group == group and (value := walk.next(row)) is not None
            }
            if row not in outages[group]:
                late = 0 if kind == "dense" else 100 * drawn.randrange(9)
                all_rows.append(Row(group, START_MS + row * INTERVAL_MS + late, values))
    return sorted(all_rows, key=lambda row: row.at_ms)


def _outages(kind: str, drawn: random.Random) -> set[int]:
    if kind == "dense":
        return set()
    moved = 0 if kind == "gapped" else drawn.randrange(-20, 30)
    return {row + moved for first, end in _OUTAGES for row in range(first, end)}


def _series() -> Iterator[tuple[str, Labels]]:
    for node in "01":
        for slot in "abc":
            yield "p", (("node", node), ("slot", slot))
            yield "n", (("node", node), ("slot", slot))
            yield "c_total", (("cpu", slot), ("node", node))
        for bound in ("0.1", "0.5", "2.5", "+Inf"):
            yield "h_bucket", (("le", bound), ("node", node))
        yield "z", (("node", node), ("slot", "a"))
        yield "limit", (("node", node),)
        yield "info", (("model", f"m{node}"), ("node", node))
        yield "t", (("node", node),)
        yield "odd", (("node", node), ("slot", "b"))


class _Walk:
    """The values of one series, row by row; None where it has none."""

    def __init__(self, name: str, labels: Labels, kind: str, drawn: random.Random) -> None:
        self.key: Labels = tuple(sorted([("__name__", name), *labels]))
        self.group = name if kind == "scattered" else "host"
        self._name, self._even, self._drawn = name, kind == "dense", drawn
        self._rank = ("0.1", "0.5", "2.5", "+Inf").index(dict(labels).get("le", "0.1"))
        # With gaps a counter must not come near zero within a window, not even counted on through its resets.
        self._base = 0.0 if self._even else 1e12
        self._total = self._base
        self._is_present = True
        # Some series never miss a row, so that one selector meets both.
        self._steady = self._even or drawn.random() < 0.3

    def next(self, row: int) -> float | None:
        value = self._value(row)
        if self._drawn.random() < (0.04 if self._is_present else 0.15):
            self._is_present = not self._is_present
        return value if self._is_present or self._steady else None

    def _value(self, row: int) -> float:
        drawn = self._drawn
        if self._name in ("p", "limit"):
            return drawn.uniform(20, 90)
        if self._name == "n":
            return float(drawn.randrange(10))
        if self._name == "z":
            return float(drawn.randrange(-5, 6))
        if self._name == "t":
            return float(drawn.choice((drawn.randrange(-(10**9), 5 * 10**9), 951782400, 1709164799, 4102444800)))
        if self._name == "odd":
            return drawn.choice((math.nan, math.inf, -math.inf, -0.0, 0.5, -7.25, 300.0, math.nan))
        if self._name == "info":
            return 1.0
        return self._next_count(row)

    def _next_count(self, row: int) -> float:
        drawn = self._drawn
        if self._name == "h_bucket":
            # Each bucket grows by itself, so that now and then one lags behind the one below it.
            self._total += drawn.randrange(3) * (1 + self._rank) ** 2
        elif drawn.random() < 0.015 and (self._even or self._base > 1e4):
            self._base /= 100
            self._total = self._base + drawn.randrange(4) / 4
        else:
            self._total += drawn.randrange(40) / 4
        return self._total


def build_streams(world: list[Row]) -> dict[Labels, Stream]:
    """The samples by series, with a staleness mark where a pass of its group has no more of one."""
    streams: dict[Labels, Stream] = {}
    alive: dict[str, set[Labels]] = {}
    for row in world:
        for labels, value in row.values.items():
            streams.setdefault(labels, []).append((row.at_ms, value))
        for labels in alive.get(row.group, set()) - set(row.values):
            streams[labels].append((row.at_ms, None))
        alive[row.group] = set(row.values)
    return streams


def build_histories(world: list[Row]) -> dict[str, History]:
    """The same samples as they come, split over several groups, and beside series that ended long ago."""
    return {
        "as sampled": _record_history(world, parts=1, ghosts=False),
        "split over groups": _record_history(world, parts=4, ghosts=False),
        "with holes in every window": _record_history(world, parts=1, ghosts=True),
    }


def _record_history(world: list[Row], *, parts: int, ghosts: bool) -> History:
    history = History(retention_ms=7_200_000)
    if ghosts:
        # A series without value makes the evaluation look at which rows have one, though it has none itself.
        for group, names in _names_of(world).items():
            gone = [Sample(gauge(name, "A test."), (("ghost", "1"),), 1.0) for name in sorted(names)]
            history.record(group, START_MS - 3_600_000, gone)
    for row in world:
        for part in range(parts):
            part_samples = [
                _sample(labels, value) for labels, value in row.values.items() if _part(labels, parts) == part
            ]
            history.record(row.group if parts == 1 else f"{row.group} {part}", row.at_ms, part_samples)
    return history


def _names_of(world: list[Row]) -> dict[str, set[str]]:
    names: dict[str, set[str]] = {}
    for row in world:
        names.setdefault(row.group, set()).update(dict(labels)["__name__"] for labels in row.values)
    return names


def _part(labels: Labels, parts: int) -> int:
    return sum(map(ord, "".join(value for _, value in labels))) % parts


def _sample(labels: Labels, value: float) -> Sample:
    name = dict(labels)["__name__"]
    return Sample(gauge(name, "A test."), tuple(pair for pair in labels if pair[0] != "__name__"), value)
