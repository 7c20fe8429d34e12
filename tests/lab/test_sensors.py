"""DIMM sensors through the kernel's own driver, and frequencies through the kernel's own cpufreq."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import StageReader
from tests.lab.machine import SLOT, TWO_NODES

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]


def get_dimm(result: dict[str, Any], name: str, when: str, address: int = 0x18) -> float | None:
    """Returns a reading of a DIMM at a step of the stage; None if it is missing."""
    value = result[when]["series"].get(
        f'steadytok_dimm_{name}_celsius{{dimm="{result["bus"]}-{address:04x}",source="hwmon"}}'
    )
    return None if value is None else float(value)


def test_a_dimm_is_read_through_its_driver(read_stage: StageReader) -> None:
    """The temperature is that of the chip's register, in sixteenths of a degree, also below zero."""
    result = read_stage("dimms")
    moments = ("cool", "hot", "cold", "cool_again")

    assert [get_dimm(result, "temperature", when) for when in moments] == [45.0, 88.25, -5.5, 45.0]
    assert [get_dimm(result, "temperature", when, 0x19) for when in moments] == [45.0] * 4
    assert all(result[when]["notes"] == [] for when in moments)


def test_the_lower_limit_rules(read_stage: StageReader) -> None:
    """A critical limit of 95 °C is ignored, since refresh doubles at 85; one of 80 °C is used."""
    result = read_stage("dimms")

    assert (get_dimm(result, "limit", "cool"), get_dimm(result, "limit", "cool", 0x19)) == (85.0, 80.0)
    assert (get_dimm(result, "headroom", "cool"), get_dimm(result, "headroom", "cool", 0x19)) == (40.0, 35.0)
    assert get_dimm(result, "headroom", "hot") == -3.25


def test_the_chips_limits_are_read(read_stage: StageReader) -> None:
    """hwmon has the limits of the chip's registers."""
    result = read_stage("dimms")
    series, labels = result["cool"]["series"], f'{{chip="jc42",device="{result["bus"]}-0019",sensor="temp1"}}'

    assert series[f"steadytok_hwmon_temperature_max_celsius{labels}"] == 75.0
    assert series[f"steadytok_hwmon_temperature_critical_celsius{labels}"] == 80.0


def test_a_dimm_that_is_gone_is_gone(read_stage: StageReader) -> None:
    """An unbound sensor is absent from the next pass without a note, its neighbour stays, and it returns."""
    result = read_stage("dimms")

    assert (get_dimm(result, "temperature", "one_left"), get_dimm(result, "temperature", "one_left", 0x19)) == (
        45.0,
        None,
    )
    assert result["one_left"]["notes"] == []
    assert get_dimm(result, "temperature", "both_again", 0x19) == 45.0


def test_a_module_is_found_by_its_serial_number(read_stage: StageReader) -> None:
    """With its SPD a DIMM has the name of the firmware's slot; without, that of its sensor."""
    result = read_stage("modules")
    location = f"{SLOT['loc_pfx']} 0"

    assert (get_dimm(result, "temperature", "before", 0x19), get_dimm(result, "temperature", "after", 0x19)) == (
        45.0,
        None,
    )
    assert result["after"]["series"][f'steadytok_dimm_temperature_celsius{{dimm="{location}",source="hwmon"}}'] == 45.0
    assert get_dimm(result, "temperature", "after", 0x18) == 45.0
    for when, addresses in (("before", ("18", "19")), ("after", ("18",))):
        unplaced = [name for name in result[when]["series"] if name.startswith("steadytok_dimm_unplaced_info")]
        assert len(unplaced) == len(addresses)
        assert all(f'sensor="{result["bus"]}-00{at}"' in name for at, name in zip(addresses, unplaced, strict=True))


def test_the_firmwares_table_is_read(read_stage: StageReader) -> None:
    """The command prints slot, bank, maker, part and serial number of QEMU's own table."""
    printed = read_stage("modules")["printed"].splitlines()
    (info,) = (line for line in printed if line.startswith("steadytok_dimm_info{"))
    (size,) = (line for line in printed if line.startswith("steadytok_dmi_memory_size_bytes{"))

    expected_labels = {"dimm": f"{SLOT['loc_pfx']} 0", "part_number": SLOT["part"], "serial_number": SLOT["serial"]}
    assert all(f'{label}="{value}"' in info for label, value in expected_labels.items())
    assert size.endswith(f" {sum(TWO_NODES.memory) << 20}")


def get_frequency(series: dict[str, float], name: str, policy: int) -> float:
    """Returns a frequency of a policy, in hertz; CPUs 0 and 1 are of node 0."""
    return series[f'steadytok_cpufreq_{name}_hertz{{node="{policy // 2}",policy="{policy}"}}']


def test_policies_are_as_the_firmware_made_them(read_stage: StageReader) -> None:
    """Four policies of acpi-cpufreq, each on its CPU's node, up to the 3.2 GHz of the firmware's table."""
    before = read_stage("cpufreq")["before"]

    assert [get_frequency(before, "frequency_max", policy) for policy in range(4)] == [3.2e9] * 4
    assert {get_frequency(before, "frequency", policy) for policy in range(4)} <= {1.2e9, 2.4e9, 3.2e9}
    (state,) = (name for name in before if name.startswith("steadytok_cpufreq_policies"))
    assert 'driver="acpi-cpufreq"' in state
    assert before[state] == 4


def test_a_governor_is_seen(read_stage: StageReader) -> None:
    """Every policy runs at its lowest under powersave, at its highest under performance; a manual limit is read."""
    result = read_stage("cpufreq")

    assert [get_frequency(result["powersave"], "frequency", policy) for policy in range(4)] == [1.2e9] * 4
    assert result["powersave"]['steadytok_cpufreq_policies{driver="acpi-cpufreq",governor="powersave"}'] == 4
    assert [get_frequency(result["limited"], "frequency_limit", policy) for policy in range(4)] == [
        2.4e9,
        3.2e9,
        3.2e9,
        3.2e9,
    ]
    assert [get_frequency(result["limited"], "frequency", policy) for policy in range(4)] == [
        2.4e9,
        3.2e9,
        3.2e9,
        3.2e9,
    ]
    assert result["limited"]['steadytok_cpufreq_policies{driver="acpi-cpufreq",governor="performance"}'] == 4


def test_a_changed_governor_is_seen_within_six_passes(read_stage: StageReader) -> None:
    """Settings are read in turn, so all policies' changes are read after six passes."""
    assert read_stage("cpufreq")["passes_until_seen"] <= 6
