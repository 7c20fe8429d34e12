"""The firmware's table of memory devices: the same values as dmidecode's, and damage is noted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors import Host
from collectors._dimm.smbios import TABLE, parse_structures, read_memory_devices
from tests.machines.smbios import (
    END,
    encode_array_address,
    encode_device_address,
    encode_memory_device,
    encode_structure,
)

Machine = Callable[[Mapping[str, str]], Host]
GIB = 1 << 30


def _make_host(tmp_path: Path, *parts: bytes) -> Host:
    path = tmp_path / TABLE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))
    return Host(tmp_path)


def test_a_module_is_read_whole(tmp_path: Path) -> None:
    """Slot, bank, size, type, configured speed, manufacturer, serial and part number are read without padding."""
    fields = {"serial": "3A2B1C0D ", "part": "M321R8GA0BB0-CQKET  ", "maker": "Samsung"}
    plain = encode_memory_device(0x11, "P1-DIMMA1", "P0_Node0", megabytes=65536, speed=4800, kind=0x22, **fields)
    (device,) = read_memory_devices(_make_host(tmp_path, plain, END))

    assert device == (
        *(0x11, "P1-DIMMA1", "P0_Node0", 64 * GIB, "DDR5", 4_800_000_000, "Samsung", "3A2B1C0D", "M321R8GA0BB0-CQKET"),
        (),
    )


@pytest.mark.parametrize(
    ("megabytes", "size"), [(0, 0), (16384, 16 * GIB), (0x8000 | 512, 512 << 10), (0xFFFF, None), (524_288, 512 * GIB)]
)
def test_sizes(tmp_path: Path, megabytes: int, size: int | None) -> None:
    """An empty slot is 0, an unknown size None; sizes may be in kilobytes or in the extended field."""
    raw = encode_memory_device(0x11, "A1", megabytes=megabytes)
    if megabytes in (0x8000 | 512, 0xFFFF):  # in the field itself, without the extended one
        raw = raw[:12] + megabytes.to_bytes(2, "little") + raw[14:]

    assert read_memory_devices(_make_host(tmp_path, raw, END))[0].size == size


@pytest.mark.parametrize("nothing", ["Unknown", "Not Specified", "NO DIMM", "  ", ""])
def test_a_word_for_nothing_is_nothing(tmp_path: Path, nothing: str) -> None:
    """Firmware's words for unknown values do not become labels."""
    (device,) = read_memory_devices(
        _make_host(tmp_path, encode_memory_device(0x11, "A1", serial=nothing, part=nothing, maker=nothing), END)
    )

    assert (device.serial_number, device.part_number, device.manufacturer) == ("", "", "")


def test_an_old_firmware_tells_less(tmp_path: Path) -> None:
    """A structure of version 2.1 ends before speed, manufacturer and numbers, which are then missing."""
    (device,) = read_memory_devices(
        _make_host(tmp_path, encode_memory_device(0x11, "DIMM1", "BANK0", length=0x15), END)
    )

    assert (device.locator, device.bank, device.size) == ("DIMM1", "BANK0", 16 * GIB)
    assert (device.speed, device.manufacturer, device.serial_number) == (0, "", "")


def test_addresses_are_the_devices_own_or_its_arrays(tmp_path: Path) -> None:
    """A device's mapped address precedes that of its array; a device may have neither."""
    table = (
        encode_memory_device(0x11, "A1", array=0x1000),
        encode_memory_device(0x12, "A2", array=0x1000),
        encode_memory_device(0x13, "B1", array=0x1001),
        encode_array_address(0x1900, 0x1000, 0, 64 * GIB),
        encode_device_address(0x2000, 0x12, 16 * GIB, 32 * GIB),
        END,
    )

    assert [device.ranges for device in read_memory_devices(_make_host(tmp_path, *table))] == [
        ((0, 64 * GIB),),
        ((16 * GIB, 32 * GIB),),
        (),
    ]


def test_other_structures_are_passed_over(tmp_path: Path) -> None:
    """Other structures, and bytes after the end mark, are no memory devices."""
    table = (
        encode_structure(0, 0, bytes(20), ["Vendor", "1.0"]),
        encode_memory_device(0x11, "A1"),
        END,
        encode_memory_device(0x12, "A2"),
    )

    assert [device.locator for device in read_memory_devices(_make_host(tmp_path, *table))] == ["A1"]


@pytest.mark.parametrize("cut", [1, 5, 30, -1])
def test_a_damaged_table_is_told_and_gives_nothing(tmp_path: Path, cut: int) -> None:
    """A table without its end mark, or with a structure shorter than its head, has a note."""
    table = encode_memory_device(0x11, "A1") + END
    host = _make_host(tmp_path, table[:cut])

    assert read_memory_devices(host) == ()
    assert [note.path for note in host.take_notes()] == [TABLE]


def test_a_machine_without_the_table_has_no_note(machine: Machine) -> None:
    """A container or an ARM board without SMBIOS is no fault."""
    host = machine({})

    assert read_memory_devices(host) == ()
    assert host.take_notes() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_table_for_root_only_is_told(tmp_path: Path) -> None:
    """The refusal is noted in the kernel's own words."""
    host = _make_host(tmp_path, END)
    (tmp_path / TABLE).chmod(0)

    assert read_memory_devices(host) == ()
    assert host.take_notes()[0].reason == "Permission denied"


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_a_sentence(raw: bytes) -> None:
    """Any bytes are a table, or a ValueError of one line."""
    try:
        structures = list(parse_structures(raw))
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert structures[-1].kind == 127
