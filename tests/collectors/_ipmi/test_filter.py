"""Selection of sensors by vendors' real names: each name is classified, or refused with a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.bmc import SimulatedSensor
from collectors._ipmi.filter import classify_sensor, explain_refusal
from collectors._ipmi.sensor import Sensor, parse_sensor

PROCESSOR, BOARD, MEMORY_DEVICE, MEMORY_MODULE, REGULATOR = 3, 7, 0x20, 0x08, 0x14


def make_sensor(name: str, entity: int, **fields: object) -> Sensor:
    simulated = SimulatedSensor(
        name, 40, entity=entity, encoded_name=bytes((0xC0 | len(name),)) + name.encode(), **fields
    )  # type: ignore[arg-type]  # of many kinds
    parsed = parse_sensor(simulated.encode_record(1, 1))
    assert parsed is not None
    return parsed


@pytest.mark.parametrize(
    ("name", "entity", "kind"),
    [
        ("P1-DIMMA1 Temp", BOARD, "memory"),  # Supermicro
        ("P2-DIMME1 TEMP", MEMORY_DEVICE, "memory"),
        ("P1-DIMM1A.Temp", BOARD, "memory"),
        ("DIMMG0_TEMP", BOARD, "memory"),  # Gigabyte: groups
        ("DIMMG1_Temp", BOARD, "memory"),  # Inspur
        ("04-P1 DIMM 1-6", MEMORY_DEVICE, "memory"),  # HPE
        ("08-P1 Mem Zone", BOARD, "memory"),
        ("DIMM 1 Temp", BOARD, "memory"),  # Lenovo
        ("CPU1_DIMM1 Temp", BOARD, "memory"),  # NEC
        ("Temp DIMM#1", BOARD, "memory"),  # Kontron
        ("DIMMA0_TEMP", BOARD, "memory"),  # Meta
        ("Temp_DIMM_KLM", BOARD, "memory"),
        ("Temp", MEMORY_MODULE, "memory"),  # Dell: only the entity distinguishes it
        ("Temp", PROCESSOR, None),
        ("DIMM Thrm Mrgn 1", BOARD, "margin"),  # Intel
        ("P1 Mem Margin", BOARD, "margin"),
        ("VR_DIMMG0_TEMP", BOARD, None),
        ("VR_DIMMG0_TEMP", MEMORY_DEVICE, None),
        ("P1 MEM01 VRD Hot", BOARD, None),
        ("P1-DIMMAB VRM", REGULATOR, None),
        ("VmemABVRM Temp", REGULATOR, None),
        ("VDIMMEF VRM Temp", REGULATOR, None),
        ("MEM_VDDQ_TEMP", BOARD, None),
        ("PVDDQ_ABC Temp", MEMORY_DEVICE, None),
        ("GPU1 Mem Temp", BOARD, None),
        ("Inlet Temp", BOARD, "inlet"),
        ("01-Inlet Ambient", 0x40, "inlet"),
        ("SYS_Air_Inlet", BOARD, "inlet"),
        ("Front Temp", 0x37, "inlet"),
        ("Exhaust Temp", BOARD, None),
        ("CPU1 Temp", PROCESSOR, None),
        ("Remember", BOARD, None),
    ],
)
def test_vendors_names_land_right(name: str, entity: int, kind: str | None) -> None:
    """Memory is selected by entity or name; regulators and accelerators' memory never are."""
    assert classify_sensor(make_sensor(name, entity), (), ()) == kind


def test_the_operator_has_the_last_word() -> None:
    """Patterns ignore case: included sensors are also read, excluded ones are not."""
    supply, dimm = make_sensor("PSU1 Temp", BOARD), make_sensor("DIMMA1 Temp", MEMORY_DEVICE)

    assert classify_sensor(supply, ("psu*temp",), ()) == "other"
    assert classify_sensor(supply, ("psu*temp",), ("PSU1*",)) is None
    assert classify_sensor(dimm, (), ("dimma?*",)) is None
    assert classify_sensor(make_sensor("VR_DIMMG0_TEMP", BOARD), ("VR_*",), ()) == "other"
    assert classify_sensor(make_sensor("12V", BOARD, type=2, unit=4), ("*",), ()) is None


def test_what_cannot_be_read_is_refused_with_its_reason() -> None:
    """A discrete 0x00 is not 0 °C, a satellite controller's sensor needs bridging, volts are no temperature."""
    discrete = make_sensor("DIMM 1 Temp", BOARD, units=0xC0)

    assert classify_sensor(discrete, (), ()) == "memory"
    assert (explain_refusal(discrete) or "").startswith("is discrete")
    assert (explain_refusal(make_sensor("DIMM 1 Temp", BOARD, unit=4)) or "").startswith("is discrete")
    assert "another controller (0x2C)" in (explain_refusal(replace(make_sensor("DIMMA1", BOARD), owner=0x2C)) or "")
    assert explain_refusal(make_sensor("DIMMA1", BOARD)) is None


def test_a_fan_must_turn() -> None:
    """A fan's speed is selected, in revolutions or as a ratio; its presence is not."""
    assert classify_sensor(make_sensor("FAN1", 29, type=4, unit=18), (), ()) == "fan"
    assert classify_sensor(make_sensor("Fan 1", 29, type=4, unit=0, units=1), (), ()) == "fan"
    assert classify_sensor(make_sensor("Fan Presence", 29, type=4, units=0xC0), (), ()) is None
