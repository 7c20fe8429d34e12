"""The firmware's table of memory devices before the program that everybody reads it with."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import pytest

from collectors import Host
from collectors._dimm.smbios import TABLE, read_memory_devices
from tests.machines.smbios import (
    END,
    encode_array_address,
    encode_device_address,
    encode_memory_device,
    encode_structure,
)
from tests.processes import require_program

HOUSE = Path(__file__).parents[2]
UNITS = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
MADE = (
    encode_structure(0, 0, bytes(20), ["Vendor", "1.0"])
    + encode_memory_device(
        0x11, "P1-DIMMA1", "P0_Node0_Channel0_Dimm0", serial="3A2B1C0D", part="M321R8GA0BB0", maker="Samsung"
    )
    + encode_memory_device(0x12, "P1-DIMMB1", megabytes=0)
    + encode_memory_device(0x13, "DIMM 0", "P0 CHANNEL A", megabytes=131_072, kind=0x22, speed=6400)
    + encode_memory_device(0x14, "DIMM_A1", megabytes=0x8000 | 512, length=0x28)
    + encode_memory_device(0x15, "OLD", "BANK0", length=0x15)
    + encode_array_address(0x1900, 0x1000, 0, 64 << 30)
    + encode_device_address(0x2000, 0x11, 1 << 40, 2 << 40)
    + END
)


def _dump(table: bytes) -> bytes:
    """What `dmidecode --from-dump` reads: an entry point of version 3.3, and the table behind it."""
    entry = bytearray(struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, 24, 3, 3, 0, 1, 0, len(table), 32))
    entry[5] = -sum(entry) & 0xFF
    return bytes(entry).ljust(32, b"\0") + table


def _parse_dmidecode(text: str) -> list[dict[str, str]]:
    """dmidecode's blocks of type 17, by field."""
    blocks = [block for block in text.split("\n\n") if "DMI type 17," in block]
    return [
        dict(re.findall(r"^\t([^:\t]+): (.*)$", block, re.MULTILINE)) | {"handle": block.split()[1]} for block in blocks
    ]


def _bytes(text: str) -> int | None:
    if text in ("No Module Installed", "Unknown"):
        return 0 if text.startswith("No") else None
    number, unit = text.split()
    return int(number) * UNITS[unit]


def _transfers(text: str) -> int:
    return int(text.split()[0]) * 1_000_000 if text.endswith("MT/s") else 0


def _text(text: str) -> str:
    return "" if text in ("Not Specified", "Unknown", "") else text


@pytest.mark.deep
@pytest.mark.parametrize("machine", ["made", "dimm", "dmi"])
def test_slots_are_as_dmidecode_shows_them(machine: str, tmp_path: Path) -> None:
    """Locator, bank, size, type, speed, maker, serial and part number of each slot are those that dmidecode shows."""
    table = MADE if machine == "made" else (HOUSE / "tests/collectors" / machine / "root" / TABLE).read_bytes()
    dump = tmp_path / "dump"
    dump.write_bytes(_dump(table))
    done = subprocess.run(
        [require_program("dmidecode"), "--from-dump", dump], capture_output=True, text=True, check=True, timeout=30
    )
    (tmp_path / TABLE).parent.mkdir(parents=True)
    (tmp_path / TABLE).write_bytes(table)
    expected, devices = _parse_dmidecode(done.stdout), read_memory_devices(Host(tmp_path))

    assert len(expected) == len(devices) > 2
    for theirs, ours in zip(expected, devices, strict=True):
        assert theirs["handle"] == f"0x{ours.handle:04X},"
        assert _text(theirs["Locator"]) == ours.locator
        assert _text(theirs["Bank Locator"]) == ours.bank
        assert _bytes(theirs["Size"]) == ours.size
        if ours.size:  # of an empty slot dmidecode shows no more
            assert _transfers(theirs.get("Configured Memory Speed", "")) == ours.speed
            assert theirs["Type"] == ours.type
            assert _text(theirs.get("Manufacturer", "")) == ours.manufacturer
            assert _text(theirs.get("Serial Number", "")) == ours.serial_number
            assert _text(theirs.get("Part Number", "")) == ours.part_number
