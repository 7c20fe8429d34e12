"""
The segments of the flight recorder as they lie in their folder, and the reading of them.

`full-00000012` has every row, `thin-00000003` one row in fifteen seconds of what full segments had before they were
deleted. Thin ones are older than full ones, and of a kind the higher number is the newer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.recorder.format import Block, Done, Numbered, Record, Step, parsed, payloads, unpacked
from rules.history.rows import Heading, Rows

FULL, THIN = "full", "thin"
_NAME = re.compile(r"(full|thin)-(\d{8,12})", re.ASCII)
_MOST_BYTES = 1 << 29  # of one file: none of ours is that large

Wanted = Callable[[Heading], bool]


class Segment(NamedTuple):
    """One segment: `steps_ms` is how far the clock stepped within it, the times are on the clock of its end."""

    path: Path
    kind: str
    number: int
    size: int
    first_ms: int | None
    last_ms: int | None
    steps_ms: int


def listed(folder: Path) -> list[tuple[Path, str, int]]:
    """The segments there are with kind and number, oldest first; OSError where the folder cannot be read."""
    found = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    named = ((path, match[1], int(match[2])) for path, match in found)
    return sorted(named, key=lambda each: (each[1] == FULL, each[2]))


class Survey(NamedTuple):
    """The segments that count, oldest first, and the numbers of full ones that thin ones have taken in."""

    segments: list[Segment]
    thinned: set[int]


def surveyed(folder: Path) -> Survey:
    """What there is in a folder; OSError where it cannot be read."""
    segments: list[Segment] = []
    thinned: set[int] = set()
    for path, kind, number in listed(folder):
        records = list(records_of(path))
        thinned |= {record.segment for record in records if isinstance(record, Done)}
        if kind != FULL or number not in thinned:
            segments.append(_survey(path, kind, number, records))
    return Survey(segments, thinned)


def records_of(path: Path) -> Iterator[Record]:
    """The undamaged records of a segment; none where it cannot be read, or has been deleted meanwhile."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return
        data = path.read_bytes()
    except OSError:
        return
    for payload in payloads(data):
        record = parsed(payload)
        if record is not None:
            yield record


def _survey(path: Path, kind: str, number: int, records: list[Record]) -> Segment:
    ahead, first, last = 0, [], []
    for record in reversed(records):
        if isinstance(record, Step):
            ahead += record.delta_ms
        elif isinstance(record, Block):
            first.append(record.first_ms + ahead)
            last.append(record.last_ms + ahead)
    return Segment(path, kind, number, _size(path), min(first, default=None), max(last, default=None), ahead)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # deleted meanwhile
        return 0


def rows_of(segment: Segment, later_ms: int = 0, wanted: Wanted | None = None) -> Iterator[Rows]:
    """The rows of a segment in the order they were written; `later_ms`: the steps of the clock after it."""
    records = list(records_of(segment.path))
    ahead = later_ms + sum(record.delta_ms for record in records if isinstance(record, Step))
    headings: dict[int, Heading] = {}
    for record in records:
        if isinstance(record, Numbered):
            headings[record.number] = record.heading
        elif isinstance(record, Step):
            ahead -= record.delta_ms
        elif isinstance(record, Block) and (heading := headings.get(record.number)) is not None:
            rows = unpacked(record, heading, ahead) if wanted is None or wanted(heading) else None
            if rows is not None:
                yield rows


def steps_in(segment: Segment) -> int:
    """How far the clock stepped within a segment, in ms."""
    return sum(record.delta_ms for record in records_of(segment.path) if isinstance(record, Step))


def rows_since(segments: Iterable[Segment], since_ms: int, wanted: Wanted | None = None) -> Iterator[Rows]:
    """The rows after that time, oldest first within each group; none twice."""
    last: dict[str, int] = {}
    for segment, later_ms in _with_later_steps(list(segments)):
        if segment.last_ms is None or segment.last_ms + later_ms <= since_ms:
            continue
        for rows in rows_of(segment, later_ms, wanted):
            group = rows.heading.group
            newer = rows.newer(max(since_ms, last.get(group, since_ms)))
            if len(newer.times):
                last[group] = int(newer.times[-1])
                yield newer


def newest_ms(segments: Iterable[Segment]) -> int | None:
    """The time of the newest row, on the clock as it was at the end; None where there is none."""
    later = _with_later_steps(list(segments))
    return max((segment.last_ms + steps for segment, steps in later if segment.last_ms is not None), default=None)


def _with_later_steps(segments: list[Segment]) -> list[tuple[Segment, int]]:
    later, found = 0, []
    for segment in reversed(segments):
        found.append((segment, later))
        later += segment.steps_ms
    return found[::-1]
