"""
Reads the memory devices in the firmware's tables: the name of each slot, and the module in it.

Reads sys/firmware/dmi/tables/DMI, which only root may. System Management BIOS Reference Specification 3.7 (DSP0134):
types 17 memory device, 19 memory array mapped address, 20 memory device mapped address.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from collectors._host.host import Host

TABLE = "sys/firmware/dmi/tables/DMI"
_DEVICE, _ARRAY_ADDRESS, _DEVICE_ADDRESS, _END = 17, 19, 20, 127
_HEADER = 4  # bytes: type, length, handle
_UNKNOWN = 0xFFFF
_EXTENDED_SIZE = 0x7FFF
_IN_KILOBYTES = 0x8000  # flag of a size; without it the size is in megabytes
_EXTENDED_ADDRESS = 0xFFFFFFFF
# Firmware's words for an unknown value; dmidecode shows the same words.
_UNKNOWN_WORDS = frozenset(
    ("", "unknown", "not specified", "none", "no dimm", "n/a", "not available", "to be filled by o.e.m.")
)
_TYPES = {0x18: "DDR3", 0x1A: "DDR4", 0x1E: "LPDDR4", 0x20: "HBM", 0x21: "HBM2", 0x22: "DDR5", 0x23: "LPDDR5"}


Ranges = tuple[tuple[int, int], ...]
"""Physical addresses: the first byte, and the byte after the last."""


class Structure(NamedTuple):
    """One structure of the table: its formatted part with the header, and its strings, numbered from 1."""

    kind: int
    handle: int
    data: bytes
    strings: tuple[str, ...]

    def read_number(self, offset: int, size: int) -> int:
        """Returns the little-endian number of this many bytes; 0 where an older firmware's structure is shorter."""
        field = self.data[offset : offset + size]
        return int.from_bytes(field, "little") if len(field) == size else 0

    def read_text(self, offset: int) -> str:
        """Returns the string that the byte at the offset names; empty where there is none, or a word for unknown."""
        index = self.read_number(offset, 1)
        text = self.strings[index - 1].strip() if 0 < index <= len(self.strings) else ""
        return "" if text.lower() in _UNKNOWN_WORDS else text


class MemoryDevice(NamedTuple):
    """A slot: `size` in bytes, 0 where it is empty, None where unknown."""

    handle: int
    locator: str
    bank: str
    size: int | None
    type: str
    speed: int
    """Transfers per second, as configured; 0 where unknown."""
    manufacturer: str
    serial_number: str
    part_number: str
    ranges: Ranges = ()


def read_memory_devices(host: Host) -> tuple[MemoryDevice, ...]:
    """Returns all slots in the table's order; none where there is no table, or, with a note, where it is unreadable."""
    raw = host.read_bytes(TABLE, optional=True)
    if raw is None:
        return ()
    try:
        table = list(parse_structures(raw))
    except ValueError as error:
        host.note(TABLE, str(error))
        return ()
    arrays, devices = _collect_ranges(table)
    slots = []
    for structure in table:
        if structure.kind == _DEVICE and len(structure.data) > 0x12:  # up to the memory type: version 2.1
            array = structure.read_number(4, 2)
            ranges = devices.get(structure.handle) or arrays.get(array, [])
            slots.append(_parse_device(structure)._replace(ranges=tuple(ranges)))
    return tuple(slots)


def parse_structures(raw: bytes) -> Iterator[Structure]:
    """Yields the structures of a table until its end mark; raises ValueError, in one sentence, where it is damaged."""
    offset = 0
    while offset + _HEADER <= len(raw):
        kind, length, handle = struct.unpack_from("<BBH", raw, offset)
        end = raw.find(b"\0\0", offset + length)
        if length < _HEADER or end < 0:
            raise ValueError(
                f"expected a structure of SMBIOS at byte {offset}, found {raw[offset : offset + 8].hex(' ')}"
            )
        strings = raw[offset + length : end].split(b"\0") if end > offset + length else []
        yield Structure(kind, handle, raw[offset : offset + length], tuple(map(_decode_printable, strings)))
        offset = end + 2
        if kind == _END:
            return
    raise ValueError(f"expected a table of SMBIOS with its end mark, found {len(raw)} bytes without")


def _decode_printable(raw: bytes) -> str:
    """Decodes text for a label; firmware writes padding and control characters."""
    return "".join(letter for letter in raw.decode("ascii", "replace") if letter.isprintable()).strip()


def _parse_device(structure: Structure) -> MemoryDevice:
    configured = structure.read_number(0x20, 2)
    speed = structure.read_number(0x58, 4) if configured == _UNKNOWN else configured
    return MemoryDevice(
        handle=structure.handle,
        locator=structure.read_text(0x10),
        bank=structure.read_text(0x11),
        size=_parse_size(structure),
        type=_TYPES.get(structure.read_number(0x12, 1), ""),
        speed=speed * 1_000_000,
        manufacturer=structure.read_text(0x17),
        serial_number=structure.read_text(0x18),
        part_number=structure.read_text(0x1A),
    )


def _parse_size(structure: Structure) -> int | None:
    size = structure.read_number(0x0C, 2)
    if size == _UNKNOWN:
        return None
    if size == _EXTENDED_SIZE:
        return (structure.read_number(0x1C, 4) & 0x7FFFFFFF) << 20
    return (size & ~_IN_KILOBYTES) << 10 if size & _IN_KILOBYTES else size << 20


_ByHandle = dict[int, list[tuple[int, int]]]


def _collect_ranges(table: list[Structure]) -> tuple[_ByHandle, _ByHandle]:
    """Returns the physical addresses of each array and of each device, by handle."""
    arrays: _ByHandle = {}
    devices: _ByHandle = {}
    for structure in table:
        if structure.kind == _ARRAY_ADDRESS:
            arrays.setdefault(structure.read_number(0x0C, 2), []).append(_parse_range(structure, 0x0F))
        elif structure.kind == _DEVICE_ADDRESS:
            devices.setdefault(structure.read_number(0x0C, 2), []).append(_parse_range(structure, 0x13))
    return arrays, devices


def _parse_range(structure: Structure, extended: int) -> tuple[int, int]:
    start, end = structure.read_number(4, 4), structure.read_number(8, 4)  # in kilobytes, the end included
    if start == _EXTENDED_ADDRESS:
        return structure.read_number(extended, 8), structure.read_number(extended + 8, 8) + 1
    return start << 10, (end + 1) << 10
