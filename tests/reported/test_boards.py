"""Public reports of boards and their sensors, each with the value that is right."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.bmc import SimulatedSensor
from collectors._dimm import memory_names
from collectors._dimm.sensor_names import parse_slot
from collectors._ipmi.filter import classify_sensor
from collectors._ipmi.sensor import Sensor
from tests.reported.recorded_bmc import write_bmc, write_slots
from tests.structure import HOUSE, list_modules

MEMORY, BOARD, CARD, MODULE, PROCESSOR, GROUP = 32, 7, 11, 8, 3, 43  # entities of IPMI


def make_sensors(*sensors: tuple[str, int, int]) -> list[SimulatedSensor]:
    """Makes temperatures by name, entity and degrees."""
    return [
        SimulatedSensor(name, celsius, entity=entity, instance=0x60 + number)
        for number, (name, entity, celsius) in enumerate(sensors)
    ]


def collect(root: Path, *names: str, config: str = "") -> tuple[list[dict[str, Any]], str]:
    """Returns the rows that `steadytok collect --json` prints, and what it says beside them."""
    path = root.parent / "config.yml"
    path.write_text(f"engine: {{enabled: false}}\n{config}")
    command = [sys.executable, "-m", "agent", "collect", "--json", "--root", str(root), "--config", str(path), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=55, cwd=HOUSE)
    return json.loads(done.stdout), done.stderr


def collect_dimms(
    root: Path,
    sensors: Sequence[SimulatedSensor],
    config: str = "",
    absent: Collection[str] = (),
    discrete: Sequence[str] = (),
) -> tuple[dict[str, float], list[str]]:
    """Returns the temperature of each module, and the sensors that belong to none."""
    write_bmc(root, sensors, absent, discrete)
    rows, _ = collect(root, "dmi", "ipmi", "dimm", config=config)
    temperatures = {
        row["labels"]["dimm"]: row["value"] for row in rows if row["name"] == "steadytok_dimm_temperature_celsius"
    }
    return temperatures, [row["labels"]["sensor"] for row in rows if row["name"] == "steadytok_dimm_unplaced_info"]


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    return tmp_path / "machine"


def test_a_sensor_for_six_slots(root: Path) -> None:
    """Supermicro names one sensor "DIMMA~F Temp", older boards "DIMMABCD", ipmiutil#20: a group, not unplaced."""
    write_slots(
        root, *((f"DIMM{letter}1", f"P0_Node0_Channel{index}_Dimm0") for index, letter in enumerate("ABCDEFGHIJKL"))
    )
    names = ("DIMMA~F Temp", "DIMMG~L Temp", "P1_DIMMA~D Temp", "DIMMABCD Temp")

    assert collect_dimms(root, make_sensors(*((name, MEMORY, 40 + n) for n, name in enumerate(names)))) == (
        {"DIMMA~F": 40, "DIMMG~L": 41, "P1_DIMMA~D": 42, "DIMMABCD": 43},
        [],
    )


def test_sensors_named_after_the_kind_of_memory(root: Path) -> None:
    """ASRock Rack names TEMP_DDR5_A1, all on one entity: each module has its own name, without the entity."""
    sensors = make_sensors(*((f"TEMP_DDR5_{letter}1", MEMORY, 29 + n) for n, letter in enumerate("ABCDEFGH")))

    assert collect_dimms(root, sensors) == ({f"DDR5_{letter}1": 29 + n for n, letter in enumerate("ABCDEFGH")}, [])


def test_a_temperature_that_is_spelled_tmp(root: Path) -> None:
    """Cisco names DDR4_P1_A1_TMP what is in slot DIMM_P1_A1: all modules are placed, whatever their entity."""
    slots = [(f"DIMM_P{socket}_{letter}1", f"NODE {socket - 1}") for socket in (1, 2) for letter in "ABC"]
    write_slots(root, *slots)
    sensors = make_sensors(
        *((f"DDR4_P1_{letter}1_TMP", MEMORY, 30 + n) for n, letter in enumerate("ABC")),
        *((f"DDR4_P2_{letter}1_TMP", BOARD, 40 + n) for n, letter in enumerate("ABC")),
    )

    assert collect_dimms(root, sensors) == (
        dict(zip((name for name, _ in slots), (30, 31, 32, 40, 41, 42), strict=True)),
        [],
    )


def test_one_sensor_for_a_processors_modules(root: Path) -> None:
    """Huawei's "CPU1 MEM Temp" is a group: the modules of a processor. Its regulators beside it are no modules."""
    write_slots(root, ("DIMM000", "SOCKET 0 CHANNEL 0 DIMM 0"), ("DIMM100", "SOCKET 1 CHANNEL 0 DIMM 0"))
    sensors = make_sensors(
        ("CPU1 MEM Temp", MODULE, 45),
        ("CPU2 MEM Temp", MODULE, 47),
        ("CPU1 VDDQ Temp", PROCESSOR, 80),
        ("Inlet Temp", 64, 22),
    )

    assert collect_dimms(root, sensors) == ({"CPU1 MEM": 45, "CPU2 MEM": 47}, [])


def test_modules_by_number(root: Path) -> None:
    """Lenovo's "DIMM n Temp" is slot n, beside a state "DIMM n", hardware-observer-operator#449; empty ones are out."""
    numbers = range(1, 5)
    write_slots(root, *((f"DIMM {number}", "") for number in numbers))
    sensors = make_sensors(*((f"DIMM {number} Temp", MEMORY, 40 + number) for number in numbers))
    states = [f"DIMM {number}" for number in numbers]

    expected: tuple[dict[str, float], list[str]] = ({"DIMM 1": 41, "DIMM 3": 43}, [])
    assert collect_dimms(root, sensors, absent=("DIMM 2 Temp", "DIMM 4 Temp"), discrete=states) == expected


def test_the_memory_of_a_gpu_that_the_operator_reads(root: Path) -> None:
    """OpenBMC's "GPU1 Mem Temp" and Gigabyte's GPU0_Mem_Temp run at 95 °C and are no modules, also where included."""
    sensors = make_sensors(
        ("GPU1 Mem Temp", CARD, 93),
        ("GPU0_Mem_Temp", BOARD, 95),
        ("gpu2_mem_temp", MEMORY, 94),
        ("DIMM0 Temp", MEMORY, 45),
    )
    temperatures, unplaced = collect_dimms(root, sensors, 'collectors: {ipmi: {include: ["GPU*Temp"]}}\n')
    rows, _ = collect(root, "ipmi", config='collectors: {ipmi: {include: ["GPU*Temp"]}}\n')

    assert (temperatures, unplaced) == ({"DIMM0": 45}, [])
    assert sum(row["name"] == "steadytok_ipmi_temperature_celsius" for row in rows) == 4


def test_the_regulator_on_a_module(root: Path) -> None:
    """OpenPOWER's dimm0_pmic_temp is a regulator at 91 °C, dimm0_extmb_temp a buffer: only the DRAM is a module."""
    sensors = make_sensors(
        *((f"dimm{n}_dram_temp", GROUP, 48 + n) for n in range(4)),
        *((f"dimm{n}_pmic_temp", GROUP, 91) for n in range(4)),
        *((f"dimm{n}_extmb_temp", GROUP, 80) for n in range(4)),
    )
    temperatures, _ = collect_dimms(root, sensors)

    assert temperatures == {f"dimm{n}_dram": 48 + n for n in range(4)}


def test_modules_of_zero_degrees(root: Path) -> None:
    """POWER8 reads 0 °C where no module is, xcat-core#461; "DIMM1 Temp 2" is neither DIMM12 nor placed there."""
    write_slots(root, ("DIMM12", ""), ("DIMM11", ""))
    sensors = make_sensors(*((f"DIMM1 Temp {n}", MEMORY, 40 if n % 2 else 0) for n in range(1, 5)))
    temperatures, _ = collect_dimms(root, sensors)

    assert temperatures == {"DIMM1 1": 40, "DIMM1 2": 0, "DIMM1 3": 40, "DIMM1 4": 0}


def test_two_chips_of_one_name_under_one_device(root: Path) -> None:
    """A driver may register its chip twice, tt-kmd#25, node_exporter#3637: the series is printed once, with a note."""
    for number, millidegrees in ((2, 41000), (3, 43000)):
        folder = root / f"sys/class/hwmon/hwmon{number}"
        folder.mkdir(parents=True)
        for name, text in (("name", "wormhole"), ("temp1_input", f"{millidegrees}"), ("temp1_label", "asic1_temp")):
            (folder / name).write_text(f"{text}\n")
        (folder / "device").symlink_to("../../../0000:01:00.0")
    rows, said = collect(root, "hwmon", config="collectors: {hwmon: {chips: [wormhole]}}\n")

    assert [(row["name"], row["value"]) for row in rows] == [("steadytok_hwmon_temperature_celsius", 41)]
    assert "this series was given twice; its first value counts" in said


DEVICES = ("GPU", "GPU1", "VGA", "HBM", "NIC", "NVMe", "M.2", "BMC", "FPGA", "SXM2", "TPU", "MEZZ", "PEX0", "PSU1")
WORDS = (
    *DEVICES,
    "PMIC",
    "VRM",
    "VRMABC",
    "MemVR",
    "VNN",
    "VIN",
    "VRHOT",
    "VDDQ",
    "EXTMB",
    "Buffer",
    "Buff",
    "Inlet",
    "Outlet",
)


@given(
    st.sampled_from(WORDS),
    st.sampled_from(("MEM", "DIMM", "DIMM A1", "DDR5", "Memory")),
    st.sampled_from(" _-."),
    st.booleans(),
)
def test_no_part_of_the_house_takes_another_device_for_a_module(
    word: str, memory: str, edge: str, is_first: bool
) -> None:
    """Whatever the order and the separators of its words, a name that names another device is no module for anybody."""
    name = edge.join((word, memory) if is_first else (memory, word))
    for entity, include in itertools.product((MEMORY, MODULE, BOARD, CARD), ((), ("*",))):
        sensor = Sensor(f"{name} Temp", 1, 0, 0x20, entity, 1, 1, 1, "celsius", 0, 0, b"\x01" * 6)
        assert classify_sensor(sensor, include, ()) not in ("memory", "margin"), name
        assert memory_names.explain_refusal(sensor.name, entity) is not None, name


@given(st.sampled_from(("MEM", "DIMM", "GPU", "NIC", "PMIC")), st.text("abcdefghiklm", min_size=2, max_size=6))
def test_a_word_that_only_begins_so_is_another(word: str, more: str) -> None:
    """Words are matched whole: a longer word is neither memory nor a device that is none."""
    name = f"{word}{more} Temp"

    assert memory_names.explain_foreign(name) is None
    assert memory_names.is_named_after_memory(name) == (word == "DIMM" or "dimm" in more)
    assert parse_slot(name).socket is None


def test_the_rule_stands_once() -> None:
    """What is memory, and what is not, is decided in one file, so that no list lacks what another has."""
    words = ("GPU", "PMIC", "HBM", "VDD", "EXTMB")
    lists = {
        path.name
        for path in list_modules("collectors")
        if "_engine" not in path.parts and sum(f"{word}" in path.read_text() for word in words) > 1
    }

    assert lists == {"memory_names.py"}
