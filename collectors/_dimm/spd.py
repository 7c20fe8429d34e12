"""
Reads the identity of a memory module from its SPD EEPROM: manufacturer, part and serial number.

The kernel's drivers ee1004 (DDR4) and spd5118 (DDR5) show the EEPROM as the device's file `eeprom`. JEDEC standard 21-C
annex L and JESD400-5 define its layout. Few bytes are read, because the bus is slow and shared with the firmware.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from collectors._host.host import Host

_TYPE = 2  # offset of the memory type
_DEVICE = re.compile(r"(\d+)-00([0-9a-f]{2})")
_SENSOR, _EEPROM, _SAME_SLOT = 0x18, 0x50, 0x07  # bus addresses; the three low bits of both are the slot's


class _Layout(NamedTuple):
    """The offsets of the serial number (four bytes) and of the part number after it."""

    serial: int
    part_length: int


_LAYOUTS = {0x0C: _Layout(325, 20), 0x12: _Layout(517, 30)}  # DDR4, DDR5


class ModuleIdentity(NamedTuple):
    """A module's identity; the serial number is in hexadecimal, as firmware writes it."""

    serial_number: str
    part_number: str


def read_module_identity(host: Host, device: str) -> ModuleIdentity | None:
    """Returns the identity of the module with this sensor, an i2c device (3-0050, 0-0018); None where unreadable."""
    path = _find_eeprom_path(device)
    if path is None:
        return None
    try:
        descriptor = os.open(host.path(path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # no driver, or readable by root only; the collector dimm reports the missing serial number
    try:
        return _read_identity(descriptor)
    except OSError as error:
        return host.note(path, error.strerror or str(error))
    finally:
        os.close(descriptor)


def _find_eeprom_path(device: str) -> str | None:
    match = _DEVICE.fullmatch(device)
    if match is None:
        return None
    address = int(match[2], 16)
    if address & ~_SAME_SLOT == _SENSOR:
        address = _EEPROM | address & _SAME_SLOT
    return f"sys/bus/i2c/devices/{match[1]}-{address:04x}/eeprom"


def _read_identity(descriptor: int) -> ModuleIdentity | None:
    kind = int.from_bytes(os.pread(descriptor, 1, _TYPE), "little")
    layout = _LAYOUTS.get(kind)
    if layout is None:
        raise OSError(0, f"expected the SPD of a DDR4 or DDR5 module, found type 0x{kind:02X}")
    raw = os.pread(descriptor, 4 + layout.part_length, layout.serial)
    serial, part = raw[:4], raw[4:].decode("ascii", "replace").strip(" \0")
    if len(serial) < 4 or serial in (b"\0" * 4, b"\xff" * 4):
        return None
    return ModuleIdentity(serial.hex().upper(), part if part.isprintable() else "")
