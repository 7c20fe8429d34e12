"""Sensors' modules: names that resolve to one slot, its node, and sensors that keep their own name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from collectors import Host, dmi
from collectors._dimm.slot_assignment import DimmSensor, SlotAssigner, SlotAssignment
from collectors._dimm.sources import from_dmi
from tests.machines.smbios import END, encode_array_address, encode_device_address, encode_memory_device

GIB = 1 << 30
NODE, CPU, MEMORY = "sys/devices/system/node", "sys/devices/system/cpu", "sys/devices/system/memory"
SUPERMICRO = tuple(f"P{socket}-DIMM{channel}1" for socket in (1, 2) for channel in "ABCD")


def make_machine(
    root: Path, *table: bytes, packages: Iterable[int] = (0, 1), blocks: Mapping[int, Iterable[int]] | None = None
) -> Host:
    """A machine with one CPU on each node, of the processors `packages`; memory blocks of 1 GiB."""
    files = {f"{MEMORY}/block_size_bytes": "40000000"} if blocks else {}
    numbers = list(packages)
    for node, package in enumerate(numbers):
        files[f"{NODE}/node{node}/cpulist"] = str(node)
        files[f"{CPU}/cpu{node}/topology/physical_package_id"] = str(package)
        for block in (blocks or {}).get(node, ()):
            files[f"{NODE}/node{node}/memory{block}/online"] = "1"
    files[f"{NODE}/has_cpu"] = f"0-{len(numbers) - 1}"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    if table:
        path = root / "sys/firmware/dmi/tables/DMI"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join((*table, END)))
    return Host(root)


def encode_board(locators: Iterable[str], **more: str) -> tuple[bytes, ...]:
    return tuple(encode_memory_device(0x20 + n, locator, **more) for n, locator in enumerate(locators))


def make_ipmi_sensors(*names: str) -> list[DimmSensor]:
    return [DimmSensor("ipmi", name, name) for name in names]


def make_assigner(
    host: Host, names: Mapping[str, str] | None = None, configured_nodes: Mapping[str, int] | None = None
) -> SlotAssigner:
    """A machine's assigner, with the table that dmi reads."""
    table = from_dmi([reading for reading in dmi.collect(host) if reading is not None])
    return SlotAssigner(host, table, names or {}, configured_nodes or {})


def assign_sensors(host: Host, *sensors: DimmSensor, names: Mapping[str, str] | None = None) -> list[SlotAssignment]:
    return make_assigner(host, names).assign(sensors)


def test_each_source_finds_the_same_module(tmp_path: Path) -> None:
    """A serial number, a BMC's name and a driver's label resolve to one module and one node."""
    table = (encode_memory_device(0x20, "P1-DIMMA1", serial="3A2B1C0D"), *encode_board(SUPERMICRO[1:]))
    assigner = make_assigner(make_machine(tmp_path, *table))
    sensors = (
        DimmSensor("hwmon", "3-0050", "3-0050", serial_number="3A2B1C0D"),
        DimmSensor("ipmi", "P1-DIMMA1 Temp", "P1-DIMMA1 Temp"),
        DimmSensor("edac", "mc0/dimm0", "P1_DIMMA1"),
    )

    assert [assigner.assign([sensor])[0] for sensor in sensors] == [SlotAssignment("P1-DIMMA1", "0")] * 3


def test_a_serial_number_goes_before_a_name(tmp_path: Path) -> None:
    """Where a label and the module's serial number disagree, the serial number decides."""
    table = (encode_memory_device(0x20, "A1", serial="11111111"), encode_memory_device(0x21, "A2", serial="22222222"))
    (assignment,) = assign_sensors(
        make_machine(tmp_path, *table), DimmSensor("hwmon", "3-0050", "A1", serial_number="22222222")
    )

    assert assignment.dimm == "A2"


def test_the_operators_map_goes_before_all(tmp_path: Path) -> None:
    """The operator's map decides, for a slot of the table with its node, and for any other name."""
    host = make_machine(tmp_path, *encode_board(SUPERMICRO))
    sensors = (DimmSensor("hwmon", "3-0050", "3-0050"), *make_ipmi_sensors("P1-DIMMA1 Temp"))
    names = {"hwmon/3-0050": "P2-DIMMB1", "ipmi/P1-DIMMA1 Temp": "front left"}

    assert assign_sensors(host, sensors[0], names=names) == [SlotAssignment("P2-DIMMB1", "1")]
    assert assign_sensors(host, sensors[1], names=names) == [SlotAssignment("front left", "0")]


def test_the_operators_node_goes_before_all(tmp_path: Path) -> None:
    """The configured node decides."""
    assigner = make_assigner(make_machine(tmp_path, *encode_board(SUPERMICRO)), configured_nodes={"P1-DIMMA1": 1})

    assert assigner.assign(make_ipmi_sensors("P1-DIMMA1 Temp")) == [SlotAssignment("P1-DIMMA1", "1")]


def test_without_the_table_names_and_nodes_are_the_sensors_own(tmp_path: Path) -> None:
    """Without the table, sensors have the names printed on the board, and no reason is reported for each."""
    assignments = assign_sensors(make_machine(tmp_path), *make_ipmi_sensors("P1-DIMMA1 Temp", "P2-DIMMA1 Temp"))

    assert assignments == [SlotAssignment("P1-DIMMA1", "0"), SlotAssignment("P2-DIMMA1", "1")]


@pytest.mark.parametrize(
    ("locators", "sensor", "reason"),
    [
        (("A1", "A2"), "P1-DIMMA1 Temp", "no slot has its name"),
        (("P1-DIMMA1", "P2-DIMMA1"), "DIMMA1 Temp", "may be P1-DIMMA1 or P2-DIMMA1"),
    ],
)
def test_what_fits_none_or_several_keeps_its_name_and_says_why(
    tmp_path: Path, locators: tuple[str, ...], sensor: str, reason: str
) -> None:
    """A guess would send somebody to the wrong module."""
    (assignment,) = assign_sensors(make_machine(tmp_path, *encode_board(locators)), *make_ipmi_sensors(sensor))

    assert assignment.dimm == sensor.removesuffix(" Temp")
    assert assignment.reason.startswith(reason)


def test_a_group_stays_one(tmp_path: Path) -> None:
    """A sensor for six modules fits no slot, has the node of its processor, and no reason."""
    host = make_machine(tmp_path, *encode_board(f"PROC {socket} DIMM {n}" for socket in (1, 2) for n in range(1, 13)))

    assert assign_sensors(host, *make_ipmi_sensors("05-P2 DIMM 1-6")) == [SlotAssignment("P2 DIMM 1-6", "1")]


def test_slots_that_share_a_name_are_told_apart_by_their_bank(tmp_path: Path) -> None:
    """AMD's reference firmware names every module `DIMM 0`; ghes_edac writes bank and locator one after the other."""
    table = [encode_memory_device(n, "DIMM 0", f"P0 CHANNEL {channel}") for n, channel in enumerate("AB")]
    assignments = assign_sensors(
        make_machine(tmp_path, *table, packages=(0,)), DimmSensor("edac", "mc0/dimm1", "P0 CHANNEL B DIMM 0")
    )

    assert assignments == [SlotAssignment("P0 CHANNEL B DIMM 0", "0")]


def test_slots_that_share_all_names_are_told_apart_by_their_handle(tmp_path: Path) -> None:
    """Some firmware has one name for all slots: the handle distinguishes them, and no sensor matches by name."""
    host = make_machine(tmp_path, encode_memory_device(0x41, "DIMM"), encode_memory_device(0x42, "DIMM"))
    assigner = make_assigner(host)

    assert [slot.dimm for slot in assigner.known_slots] == ["DIMM 0x0041", "DIMM 0x0042"]
    assert assigner.assign(make_ipmi_sensors("DIMM Temp"))[0].dimm.startswith("DIMM")


def test_two_sensors_of_one_source_are_not_one_module(tmp_path: Path) -> None:
    """The second sensor keeps its own name with a reason: one series must not have two values."""
    first, second = assign_sensors(
        make_machine(tmp_path, *encode_board(SUPERMICRO)), *make_ipmi_sensors("P1-DIMMA1 Temp", "P1_DIMMA1 Temp")
    )

    assert first == SlotAssignment("P1-DIMMA1", "0")
    assert second == SlotAssignment("P1_DIMMA1 Temp", "0", "P1-DIMMA1 Temp already has P1-DIMMA1")


def test_ranks_share_a_module(tmp_path: Path) -> None:
    """EDAC counts each rank, and both ranks belong to one module."""
    assigner = make_assigner(make_machine(tmp_path, *encode_board(SUPERMICRO)))
    ranks = [DimmSensor("edac", f"mc0/rank{n}", "P1-DIMMA1") for n in range(2)]

    assert assigner.assign(ranks, shared=True) == [SlotAssignment("P1-DIMMA1", "0")] * 2


def test_a_place_never_changes(tmp_path: Path) -> None:
    """The first assignment stays, whatever is read later: labels do not change during a run."""
    assigner = make_assigner(make_machine(tmp_path))
    # Only one of two processors' sensors has a reading yet.
    (alone,) = assigner.assign(make_ipmi_sensors("P1-DIMMA1 Temp"))

    assert alone == SlotAssignment("P1-DIMMA1", "")
    assert assigner.assign(make_ipmi_sensors("P1-DIMMA1 Temp", "P2-DIMMA1 Temp")) == [
        alone,
        SlotAssignment("P2-DIMMA1", "1"),
    ]


@pytest.mark.parametrize(
    ("packages", "nodes"),
    [
        ((0, 1), ("0", "1")),
        ((0, 0, 0, 0, 1, 1, 1, 1), ("", "")),  # NPS4: no name has the quarter
        ((0,), ("0", "0")),
        ((0, 1, 2), ("", "")),  # two names for three processors
    ],
)
def test_a_processors_node_is_known_where_it_has_one(
    tmp_path: Path, packages: tuple[int, ...], nodes: tuple[str, str]
) -> None:
    """Names count processors from 0 or 1; as many names as processors identify each processor's node."""
    for first in (0, 1):
        host = make_machine(tmp_path, *encode_board(f"P{first + n}-DIMMA1" for n in range(2)), packages=packages)
        assignments = assign_sensors(host, *make_ipmi_sensors(f"P{first}-DIMMA1 Temp", f"P{first + 1}-DIMMA1 Temp"))

        assert tuple(each.node for each in assignments) == nodes


def test_a_processor_that_tells_nothing_makes_no_other_take_its_place(tmp_path: Path) -> None:
    """With one number unreadable, processor 1 would be taken for processor 0, so no node is reported."""
    host = make_machine(tmp_path, *encode_board(SUPERMICRO))
    (tmp_path / f"{CPU}/cpu0/topology/physical_package_id").write_text("")

    assert assign_sensors(host, *make_ipmi_sensors("P2-DIMMA1 Temp")) == [SlotAssignment("P2-DIMMA1", "")]


def test_addresses_tell_the_node(tmp_path: Path) -> None:
    """Where names have no processor, the kernel's blocks of memory give the node, if it is a single node."""
    table = (
        encode_memory_device(0x11, "A1", array=0x1000),
        encode_memory_device(0x12, "A2", array=0x1001),
        encode_memory_device(0x13, "A3", array=0x1002),
        encode_array_address(0x1900, 0x1000, 0, 4 * GIB),
        encode_device_address(0x2000, 0x12, 4 * GIB, 8 * GIB),
        encode_array_address(0x1901, 0x1002, 2 * GIB, 6 * GIB),
    )
    host = make_machine(tmp_path, *table, packages=(0, 0), blocks={0: range(4), 1: range(4, 8)})

    assert [slot.node for slot in make_assigner(host).known_slots] == ["0", "1", ""]


def test_a_slots_node_stays(tmp_path: Path) -> None:
    """Memory that is added while dmi runs moves no slot to another node: labels do not change in a run."""
    table = (encode_memory_device(0x11, "A1", array=0x1000), encode_array_address(0x1900, 0x1000, 0, 4 * GIB))
    host = make_machine(tmp_path, *table, packages=(0, 0), blocks={0: range(2)})
    (before,) = make_assigner(host).known_slots
    make_machine(tmp_path, packages=(0, 0), blocks={1: range(2, 4)})

    assert before.node == "0"
    assert [slot.node for slot in make_assigner(host).known_slots] == ["0"]
    assert [slot.node for slot in make_assigner(Host(tmp_path)).known_slots] == [""]


def test_who_knows_the_processor_needs_no_name(tmp_path: Path) -> None:
    """HSMP and Intel's EDAC drivers count processors from 0, whatever the board prints."""
    host = make_machine(tmp_path, *encode_board(SUPERMICRO))
    (assignment,) = assign_sensors(
        host, DimmSensor("hsmp", "socket 1 channel 0 dimm 0", "socket 1 channel 0 dimm 0", socket=1)
    )

    assert (assignment.dimm, assignment.node) == ("socket 1 channel 0 dimm 0", "1")


def test_names_for_sensors_that_are_not_there_are_told(tmp_path: Path) -> None:
    """A typing error in the operator's map is reported."""
    assigner = make_assigner(make_machine(tmp_path), {"hwmon/3-0099": "A1", "ipmi/X": "A2"})
    assigner.assign([DimmSensor("hwmon", "3-0050", "3-0050")])

    assert list(assigner.list_unseen_sensors("hwmon")) == ["3-0099"]


def test_the_operators_sensor_has_its_module(tmp_path: Path) -> None:
    """A sensor with the same slot name does not displace the sensor in the operator's map."""
    host = make_machine(tmp_path, *encode_board(SUPERMICRO))
    assignments = assign_sensors(
        host, *make_ipmi_sensors("P1-DIMMA1 Temp", "DIMM 1 Temp"), names={"ipmi/DIMM 1 Temp": "P1-DIMMA1"}
    )

    assert [each.dimm for each in assignments] == ["P1-DIMMA1 Temp", "P1-DIMMA1"]


def test_nothing_is_no_name(tmp_path: Path) -> None:
    """A sensor without a name does not match a slot without one."""
    host = make_machine(tmp_path, encode_memory_device(0x41, ""), encode_memory_device(0x42, "A2"))

    assert assign_sensors(host, *make_ipmi_sensors("")) == [SlotAssignment("", "", "no slot has its name")]
