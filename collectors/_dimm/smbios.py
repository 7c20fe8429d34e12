"""
The memory devices that the firmware's tables tell of: what each slot is called, and what is in it.

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
_IN_KILOBYTES = 0x8000  # of a size; else it is in megabytes
_EXTENDED_ADDRESS = 0xFFFFFFFF
# What firmware writes where it has nothing to say; dmidecode shows the same words.
_NOTHING = frozenset(
    ("", "unknown", "not specified", "none", "no dimm", "n/a", "not available", "to be filled by o.e.m.")
)
_TYPES = {0x18: "DDR3", 0x1A: "DDR4", 0x1E: "LPDDR4", 0x20: "HBM", 0x21: "HBM2", 0x22: "DDR5", 0x23: "LPDDR5"}


Ranges = tuple[tuple[int, int], ...]
"""Physical addresses: first byte, and the one behind the last."""


class Structure(NamedTuple):
    """One structure of the table: its formatted part with the header, and its strings, of which the first is 1."""

    kind: int
    handle: int
    data: bytes
    strings: tuple[str, ...]

    def number(self, offset: int, size: int) -> int:
        """The little-endian number of so many bytes there; 0 where an older firmware's structure is shorter."""
        field = self.data[offset : offset + size]
        return int.from_bytes(field, "little") if len(field) == size else 0

    def text(self, offset: int) -> str:
        """The string that the byte there names; empty where there is none, or only a word for nothing."""
        place = self.number(offset, 1)
        said = self.strings[place - 1].strip() if 0 < place <= len(self.strings) else ""
        return "" if said.lower() in _NOTHING else said


class MemoryDevice(NamedTuple):
    """A slot: `size` in bytes, 0 where it is empty, None where unknown."""

    handle: int
    locator: str
    bank: str
    size: int | None
    type: str
    speed: int
    """Transfers per second as configured; 0 where unknown."""
    manufacturer: str
    serial_number: str
    part_number: str
    ranges: Ranges = ()


def memory_devices(host: Host) -> tuple[MemoryDevice, ...]:
    """All slots in the order of the table; none where there is no table, or, with a note, where it cannot be read."""
    raw = host.read_bytes(TABLE, optional=True)
    if raw is None:
        return ()
    try:
        table = list(structures(raw))
    except ValueError as error:
        host.note(TABLE, str(error))
        return ()
    arrays, devices = _ranges(table)
    found = []
    for structure in table:
        if structure.kind == _DEVICE and len(structure.data) > 0x12:  # up to the memory type: version 2.1
            array = structure.number(4, 2)
            ranges = devices.get(structure.handle) or arrays.get(array, [])
            found.append(_device(structure)._replace(ranges=tuple(ranges)))
    return tuple(found)


def structures(raw: bytes) -> Iterator[Structure]:
    """The structures of a table until its end mark; raises ValueError, one sentence, where it is damaged."""
    at = 0
    while at + _HEADER <= len(raw):
        kind, length, handle = struct.unpack_from("<BBH", raw, at)
        end = raw.find(b"\0\0", at + length)
        if length < _HEADER or end < 0:
            raise ValueError(f"expected a structure of SMBIOS at byte {at}, found {raw[at : at + 8].hex(' ')}")
        strings = raw[at + length : end].split(b"\0") if end > at + length else []
        yield Structure(kind, handle, raw[at : at + length], tuple(map(_printable, strings)))
        at = end + 2
        if kind == _END:
            return
    raise ValueError(f"expected a table of SMBIOS with its end mark, found {len(raw)} bytes without")


def _printable(raw: bytes) -> str:
    """Text as it can be a label: firmware writes padding and worse."""
    return "".join(letter for letter in raw.decode("ascii", "replace") if letter.isprintable()).strip()


def _device(structure: Structure) -> MemoryDevice:
    configured = structure.number(0x20, 2)
    speed = structure.number(0x58, 4) if configured == _UNKNOWN else configured
    return MemoryDevice(
        handle=structure.handle,
        locator=structure.text(0x10),
        bank=structure.text(0x11),
        size=_size(structure),
        type=_TYPES.get(structure.number(0x12, 1), ""),
        speed=speed * 1_000_000,
        manufacturer=structure.text(0x17),
        serial_number=structure.text(0x18),
        part_number=structure.text(0x1A),
    )


def _size(structure: Structure) -> int | None:
    size = structure.number(0x0C, 2)
    if size == _UNKNOWN:
        return None
    if size == _EXTENDED_SIZE:
        return (structure.number(0x1C, 4) & 0x7FFFFFFF) << 20
    return (size & ~_IN_KILOBYTES) << 10 if size & _IN_KILOBYTES else size << 20


_ByHandle = dict[int, list[tuple[int, int]]]


def _ranges(table: list[Structure]) -> tuple[_ByHandle, _ByHandle]:
    """Where each array and each device is in physical memory, by handle."""
    arrays: _ByHandle = {}
    devices: _ByHandle = {}
    for structure in table:
        if structure.kind == _ARRAY_ADDRESS:
            arrays.setdefault(structure.number(0x0C, 2), []).append(_range(structure, 0x0F))
        elif structure.kind == _DEVICE_ADDRESS:
            devices.setdefault(structure.number(0x0C, 2), []).append(_range(structure, 0x13))
    return arrays, devices


def _range(structure: Structure, extended: int) -> tuple[int, int]:
    start, end = structure.number(4, 4), structure.number(8, 4)  # in kilobytes, the end included
    if start == _EXTENDED_ADDRESS:
        return structure.number(extended, 8), structure.number(extended + 8, 8) + 1
    return start << 10, (end + 1) << 10
