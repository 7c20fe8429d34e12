"""A memory module's SPD: the EEPROM of a sensor, and the layout of its contents."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors import Host
from collectors._dimm.spd import ModuleIdentity, read_module_identity

DDR4, DDR5 = (0x0C, 325, 20), (0x12, 517, 30)


def write_eeprom(root: Path, device: str, layout: tuple[int, int, int], serial: bytes, part: str) -> Host:
    """Writes an EEPROM in JEDEC's layout."""
    kind, at, length = layout
    raw = bytearray(1024)
    raw[2], raw[at : at + 4], raw[at + 4 : at + 4 + length] = kind, serial, part.encode().ljust(length)
    path = root / "sys/bus/i2c/devices" / device / "eeprom"
    path.parent.mkdir(parents=True)
    path.write_bytes(raw)
    return Host(root)


@pytest.mark.parametrize(
    ("device", "sensor", "layout"),
    [("3-0050", "3-0050", DDR5), ("0-0051", "0-0019", DDR4), ("12-0057", "12-001f", DDR4)],
)
def test_a_sensors_module_is_known(tmp_path: Path, device: str, sensor: str, layout: tuple[int, int, int]) -> None:
    """On DDR5 one chip is both; on DDR4 the low bits of sensor (0x18…) and EEPROM (0x50…) are the slot."""
    host = write_eeprom(tmp_path, device, layout, bytes.fromhex("3a2b1cfd"), "M321R2GA3BB6-CQKET")

    assert read_module_identity(host, sensor) == ModuleIdentity("3A2B1CFD", "M321R2GA3BB6-CQKET")
    assert host.take_notes() == []


@pytest.mark.parametrize("device", ["", "coretemp.0", "3-0051", "3-0048"])
def test_what_has_no_eeprom_has_no_plate(tmp_path: Path, device: str) -> None:
    """Without a driver, or at another address, there is no identity and no fault."""
    host = write_eeprom(tmp_path, "3-0050", DDR5, b"\1\2\3\4", "X")

    assert read_module_identity(host, device) is None
    assert host.take_notes() == []


@pytest.mark.parametrize("serial", [b"\0\0\0\0", b"\xff\xff\xff\xff"])
def test_no_serial_number_is_none(tmp_path: Path, serial: bytes) -> None:
    """A module without a serial number would match every other such module."""
    assert read_module_identity(write_eeprom(tmp_path, "3-0050", DDR5, serial, "X"), "3-0050") is None


def test_another_kind_of_memory_is_told(tmp_path: Path) -> None:
    """Other generations have an unknown layout, so nothing is read from them."""
    host = write_eeprom(tmp_path, "3-0050", (0x0B, 122, 18), b"\1\2\3\4", "X")

    assert read_module_identity(host, "3-0050") is None
    assert [note.reason for note in host.take_notes()] == ["expected the SPD of a DDR4 or DDR5 module, found type 0x0B"]
