"""
The format of the flight recorder: segments of framed records.

A segment is a magic line and records. A record is its length, the CRC-32 of length and payload (each 32-bit
little-endian), and the payload, whose first byte is its type. Readers skip a damaged record, and stop at a torn tail;
no reading is ever invented. A block of rows needs only its heading (the series of its columns), which is written once
per segment. Values keep every bit: each cell is XORed with the cell before it, the bytes are grouped by significance,
which leaves long runs of zeros, and deflated.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from collectors import Metric
from rules.history.rows import Heading, Rows

MAGIC = b"steadytok recording 1\n"
LEVEL = 1  # of deflate; higher levels take three times as long and save a tenth

_FRAME = struct.Struct("<II")
_HEADING = struct.Struct("<BI")
_ROWS = struct.Struct("<BIqqII?")
_SHIFT = struct.Struct("<Bq")
_THINNED = struct.Struct("<BQ")
_MAX_CELLS = 1 << 27  # of one block; a damaged size must not allocate all memory
_MAX_HEADING = 1 << 27  # bytes of one heading


class NumberedHeading(NamedTuple):
    """A heading, and the number by which the blocks of this segment refer to it."""

    number: int
    heading: Heading


class SegmentBlock(NamedTuple):
    """A block of packed rows, and the times of its first and last row in ms."""

    number: int
    first_ms: int
    last_ms: int
    payload: bytes


class ClockShift(NamedTuple):
    """A shift of the wall clock: every earlier time in the recording moves by `delta_ms`."""

    delta_ms: int


class ThinnedMarker(NamedTuple):
    """Marks that the segment with this record replaces the full segment of that number."""

    segment: int


Record = NumberedHeading | SegmentBlock | ClockShift | ThinnedMarker


class _StoredHeading(msgspec.Struct, array_like=True):
    group: str
    metrics: list[tuple[str, Literal["counter", "gauge"], str]]
    series: list[tuple[int, tuple[tuple[str, str], ...]]]


def frame_payload(payload: bytes) -> bytes:
    """Returns a payload with its length and checksum, as written to a segment."""
    return _FRAME.pack(len(payload), _checksum(payload)) + payload


def _checksum(payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack("<I", len(payload))))


def iter_payloads(data: bytes) -> Iterator[bytes]:
    """Yields the undamaged payloads of a segment, in order."""
    if not data.startswith(MAGIC):
        return
    offset = len(MAGIC)
    while offset + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, offset)
        offset += _FRAME.size
        payload = data[offset : offset + length]
        offset += length
        if len(payload) == length and _checksum(payload) == checksum:
            yield payload


def pack_heading(number: int, heading: Heading) -> bytes:
    """Packs a heading."""
    metric_indexes = {metric: index for index, metric in enumerate(dict.fromkeys(heading.metrics))}
    metrics = [(metric.name, metric.kind, metric.help) for metric in metric_indexes]
    series = [(metric_indexes[metric], labels) for metric, labels in zip(heading.metrics, heading.labels, strict=True)]
    text = msgspec.json.encode(_StoredHeading(heading.group, metrics, series))
    return _HEADING.pack(1, number) + zlib.compress(text, LEVEL)


def pack_rows(number: int, rows: Rows) -> bytes:
    """Packs a block of at least one row."""
    columns, count = rows.values.shape
    bits = np.array(rows.values, np.float64, order="C").view(np.uint64)
    bits[:, 1:] ^= bits[:, :-1].copy()
    planes = bits.view(np.uint8).reshape(columns, count, 8).transpose(2, 1, 0)
    mask = b"" if rows.present is None else np.packbits(rows.present).tobytes()
    body = zlib.compress(rows.times.astype("<i8").tobytes() + mask + planes.tobytes(), LEVEL)
    first_ms, last_ms = int(rows.times[0]), int(rows.times[-1])
    return _ROWS.pack(2, number, first_ms, last_ms, columns, count, rows.present is not None) + body


def pack_clock_shift(delta_ms: int) -> bytes:
    """Packs a shift of the wall clock."""
    return _SHIFT.pack(3, delta_ms)


def pack_thinned_marker(segment: int) -> bytes:
    """Packs the marker that a full segment was thinned out."""
    return _THINNED.pack(4, segment)


def parse_record(payload: bytes) -> Record | None:
    """Parses a payload; returns None where its form is unknown."""
    try:
        return _parse_record(payload)
    except (struct.error, zlib.error, msgspec.DecodeError, ValueError, IndexError):
        return None


def _parse_record(payload: bytes) -> Record | None:
    match payload[:1]:
        case b"\x01":
            return NumberedHeading(_HEADING.unpack_from(payload)[1], _parse_heading(payload[_HEADING.size :]))
        case b"\x02":
            _, number, first_ms, last_ms, *_ = _ROWS.unpack_from(payload)
            return SegmentBlock(number, first_ms, last_ms, payload)
        case b"\x03":
            return ClockShift(_SHIFT.unpack(payload)[1])
        case b"\x04":
            return ThinnedMarker(_THINNED.unpack(payload)[1])
    return None


def _parse_heading(body: bytes) -> Heading:
    stored = msgspec.json.decode(_inflate(body, _MAX_HEADING), type=_StoredHeading)
    metrics = [Metric(*fields) for fields in stored.metrics]
    column_metrics = tuple(metrics[index] for index, _ in stored.series)
    return Heading(stored.group, column_metrics, tuple(labels for _, labels in stored.series))


def unpack_rows(block: SegmentBlock, heading: Heading, delta_ms: int = 0) -> Rows | None:
    """Unpacks a block, and adds `delta_ms` to its times; returns None where it does not fit its heading."""
    try:
        return _unpack_rows(block.payload, heading, delta_ms)
    except (zlib.error, ValueError):
        return None


def _unpack_rows(payload: bytes, heading: Heading, delta_ms: int) -> Rows | None:
    _, _, _, _, columns, count, has_mask = _ROWS.unpack_from(payload)
    cells = columns * count
    if columns != len(heading.labels) or not 0 < count <= _MAX_CELLS or cells > _MAX_CELLS:
        return None
    times_end = 8 * count
    mask_end = times_end + ((cells + 7) // 8 if has_mask else 0)
    body = _inflate(payload[_ROWS.size :], mask_end + 8 * cells)
    if len(body) != mask_end + 8 * cells:
        return None
    times = np.frombuffer(body[:times_end], "<i8").astype(np.int64) + delta_ms
    planes = np.frombuffer(body[mask_end:], np.uint8).reshape(8, count, columns)
    bits = np.array(planes.transpose(2, 1, 0), order="C").view(np.uint64).reshape(columns, count)
    np.bitwise_xor.accumulate(bits, axis=1, out=bits)
    mask = np.frombuffer(body[times_end:mask_end], np.uint8)
    present = np.unpackbits(mask, count=cells).reshape(columns, count).astype(bool) if has_mask else None
    return Rows(heading, times, bits.view(np.float64), present)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    inflater: Any = zlib.decompressobj()
    data: bytes = inflater.decompress(body, max_bytes + 1)
    if len(data) > max_bytes or not inflater.eof:
        raise ValueError("the inflated size differs from the expected one")
    return data
