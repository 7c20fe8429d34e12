"""
Reads the segments of the flight recorder from their folder.

`full-00000012` has every row. `thin-00000003` has one row in fifteen seconds of full segments that were deleted. Every
thin segment is older than every full one; within a kind, the higher number is the newer segment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from agent.recorder.format import (
    ClockShift,
    NumberedHeading,
    Record,
    SegmentBlock,
    ThinnedMarker,
    iter_payloads,
    parse_record,
    unpack_rows,
)
from collectors import read_regular_file
from rules.history.rows import Heading, Rows

FULL, THIN = "full", "thin"
_NAME = re.compile(r"(full|thin)-(\d{8,12})", re.ASCII)
_MAX_BYTES = 1 << 29  # of one file; the recorder writes none that large

HeadingFilter = Callable[[Heading], bool]


class Segment(NamedTuple):
    """One segment; `shift_ms` sums the clock shifts within it, and its times are on the clock at its end."""

    path: Path
    kind: str
    number: int
    size: int
    first_ms: int | None
    last_ms: int | None
    shift_ms: int


def list_segment_files(folder: Path) -> list[tuple[Path, str, int]]:
    """Lists the segment files with kind and number, oldest first. Raises OSError."""
    matches = [(path, match) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    files = ((path, match[1], int(match[2])) for path, match in matches)
    return sorted(files, key=lambda file: (file[1] == FULL, file[2]))


class Survey(NamedTuple):
    """The current segments, oldest first, and the numbers of full segments that were thinned out."""

    segments: list[Segment]
    thinned: set[int]


def survey_folder(folder: Path) -> Survey:
    """Surveys the segments of a folder. Raises OSError."""
    segments: list[Segment] = []
    thinned: set[int] = set()
    for path, kind, number in list_segment_files(folder):
        records = list(read_records(path))
        thinned |= {record.segment for record in records if isinstance(record, ThinnedMarker)}
        if kind != FULL or number not in thinned:
            segments.append(_build_segment(path, kind, number, records))
    return Survey(segments, thinned)


def read_records(path: Path) -> Iterator[Record]:
    """Yields the undamaged records of a segment; none where it cannot be read, or was deleted meanwhile."""
    try:
        data = read_regular_file(path, _MAX_BYTES)
    except OSError:
        return
    for payload in iter_payloads(data):
        record = parse_record(payload)
        if record is not None:
            yield record


def _build_segment(path: Path, kind: str, number: int, records: list[Record]) -> Segment:
    shift_ms, first, last = 0, [], []
    for record in reversed(records):
        if isinstance(record, ClockShift):
            shift_ms += record.delta_ms
        elif isinstance(record, SegmentBlock):
            first.append(record.first_ms + shift_ms)
            last.append(record.last_ms + shift_ms)
    return Segment(path, kind, number, _read_size(path), min(first, default=None), max(last, default=None), shift_ms)


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # deleted meanwhile
        return 0


def read_rows(segment: Segment, later_shift_ms: int = 0, heading_filter: HeadingFilter | None = None) -> Iterator[Rows]:
    """Yields the rows of a segment in the order written; `later_shift_ms` sums the clock shifts after it."""
    records = list(read_records(segment.path))
    shift_ms = later_shift_ms + sum(record.delta_ms for record in records if isinstance(record, ClockShift))
    headings: dict[int, Heading] = {}
    for record in records:
        if isinstance(record, NumberedHeading):
            headings[record.number] = record.heading
        elif isinstance(record, ClockShift):
            shift_ms -= record.delta_ms
        elif isinstance(record, SegmentBlock) and (heading := headings.get(record.number)) is not None:
            rows = unpack_rows(record, heading, shift_ms) if heading_filter is None or heading_filter(heading) else None
            if rows is not None:
                yield rows


def sum_clock_shifts(segment: Segment) -> int:
    """Sums the clock shifts within a segment, in ms."""
    return sum(record.delta_ms for record in read_records(segment.path) if isinstance(record, ClockShift))


def read_rows_since(
    segments: Iterable[Segment], since_ms: int, heading_filter: HeadingFilter | None = None
) -> Iterator[Rows]:
    """Yields the rows after `since_ms`, oldest first within each group; no row twice."""
    last_ms: dict[str, int] = {}
    for segment, later_shift_ms in _pair_with_later_shifts(list(segments)):
        if segment.last_ms is None or segment.last_ms + later_shift_ms <= since_ms:
            continue
        for rows in read_rows(segment, later_shift_ms, heading_filter):
            group = rows.heading.group
            newer = rows.select_newer(max(since_ms, last_ms.get(group, since_ms)))
            if len(newer.times):
                last_ms[group] = int(newer.times[-1])
                yield newer


def find_newest_ms(segments: Iterable[Segment]) -> int | None:
    """Returns the time of the newest row, on the clock at the end of the recording; None without rows."""
    pairs = _pair_with_later_shifts(list(segments))
    return max((segment.last_ms + shift_ms for segment, shift_ms in pairs if segment.last_ms is not None), default=None)


def _pair_with_later_shifts(segments: list[Segment]) -> list[tuple[Segment, int]]:
    later_shift_ms, pairs = 0, []
    for segment in reversed(segments):
        pairs.append((segment, later_shift_ms))
        later_shift_ms += segment.shift_ms
    return pairs[::-1]
