"""Vendors' names for memory sensors, and the parts of each name: a corpus, name by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors._dimm.memory_names import explain_refusal
from collectors._dimm.sensor_names import (
    Slot,
    matches_slot,
    normalize_name,
    parse_slot,
    parse_slots,
    strip_decoration,
)

MEMORY, BOARD, CARD, PROCESSOR = 32, 7, 11, 3  # entities of IPMI
REGULATOR = "a voltage regulator, which runs hotter than the modules beside it"
ZONE = "the air of a zone and not a module"
AIR = "the air and not a module"
OTHER = "the memory of another device and not a module"
BUFFER = "a buffer chip, which has its own limit"
STATE = "a state and no temperature"
ELSEWHERE = "neither on memory nor named after it"

# (name, entity, its slot or the reason for refusal). Names as published, vendor by vendor.
CORPUS = [
    # Supermicro
    ("P1-DIMMA1 Temp", MEMORY, Slot("P1-DIMMA1", 1, "A", 1)),
    ("P1-DIMMA1 TEMP", MEMORY, Slot("P1-DIMMA1", 1, "A", 1)),
    ("P1-DIMM1A.Temp", MEMORY, Slot("P1-DIMM1A", 1, "A", 1)),
    ("P2-DIMME1 Temp", MEMORY, Slot("P2-DIMME1", 2, "E", 1)),
    ("P1-DIMMA1", MEMORY, Slot("P1-DIMMA1", 1, "A", 1)),
    ("VmemABVRM Temp", BOARD, REGULATOR),
    ("P1-VDIMMABCVRM Temp", BOARD, REGULATOR),
    ("VDIMMABVRM", MEMORY, REGULATOR),
    ("DIMMA~F Temp", MEMORY, Slot("DIMMA~F", is_group=True)),
    ("P1_DIMMA~D Temp", MEMORY, Slot("P1_DIMMA~D", 1, is_group=True)),
    ("DIMMABCD", MEMORY, Slot("DIMMABCD", is_group=True)),
    # ASRock Rack, Cisco, Huawei, OpenPOWER
    ("TEMP_DDR5_A1", MEMORY, Slot("DDR5_A1", None, "A", 1)),
    ("DDR4_P1_A1_TMP", BOARD, Slot("DDR4_P1_A1", 1, "A", 1)),
    ("DDR3_P2_F1_TMP", MEMORY, Slot("DDR3_P2_F1", 2, "F", 1)),
    ("CPU1 MEM Temp", 8, Slot("CPU1 MEM", 1, is_group=True)),
    ("CPU2_DIMM_TEMP", BOARD, Slot("CPU2_DIMM", 2, is_group=True)),
    ("dimm0_dram_temp", 43, Slot("dimm0_dram", None, "", 0)),
    # Gigabyte, Inspur
    ("DIMMG0_TEMP", BOARD, Slot("DIMMG0", is_group=True)),
    ("DIMMG1_TEMP", BOARD, Slot("DIMMG1", is_group=True)),
    ("DIMMG0_Temp", BOARD, Slot("DIMMG0", is_group=True)),
    ("VR_DIMMG0_TEMP", BOARD, REGULATOR),
    ("DIMM_P0_A0", MEMORY, Slot("DIMM_P0_A0", 0, "A", 0)),
    ("CPU0_C0D0", MEMORY, Slot("CPU0_C0D0", 0, "0", 0)),
    # HPE
    ("04-P1 DIMM 1-6", MEMORY, Slot("P1 DIMM 1-6", 1, is_group=True)),
    ("05-P1 DIMM 7-12", MEMORY, Slot("P1 DIMM 7-12", 1, is_group=True)),
    ("08-P1 Mem Zone", BOARD, ZONE),
    ("PROC 1 DIMM 3", MEMORY, Slot("PROC 1 DIMM 3", 1, "", 3)),
    # Intel
    ("DIMM Thrm Mrgn 1", MEMORY, Slot("DIMM Thrm Mrgn 1", is_group=True)),
    ("DIMM Thrm Mrgn 4", MEMORY, Slot("DIMM Thrm Mrgn 4", is_group=True)),
    ("Mem P1 Thrm Trip", MEMORY, STATE),
    ("P1 MEM01 VRD Hot", MEMORY, REGULATOR),
    ("CPU1_DIMM_A1", MEMORY, Slot("CPU1_DIMM_A1", 1, "A", 1)),
    # IBM, Lenovo
    ("DIMM 1 Temp", MEMORY, Slot("DIMM 1", None, "", 1)),
    ("DIMM 24 Temp", MEMORY, Slot("DIMM 24", None, "", 24)),
    # Dell: every sensor is `Temp`, so only the entity distinguishes them; slots are A1 to A16, B1 to B16
    ("Temp", 8, Slot("Temp")),
    ("Temp", PROCESSOR, ELSEWHERE),
    ("A1", MEMORY, Slot("A1", 1, "", 1)),
    ("B12", MEMORY, Slot("B12", 2, "", 12)),
    # NEC, Kontron, Meta, others
    ("CPU1_DIMM1 Temp", MEMORY, Slot("CPU1_DIMM1", 1, "", 1)),
    ("Temp DIMM#1", BOARD, Slot("DIMM#1", None, "", 1)),
    ("DIMMA0_TEMP", BOARD, Slot("DIMMA0", None, "A", 0)),
    ("Temp_DIMM_KLM", BOARD, Slot("DIMM_KLM", is_group=True)),
    ("MEM Temp", BOARD, Slot("MEM")),
    ("MEMAB Temp", BOARD, Slot("MEMAB")),
    ("MEM01 Temp", BOARD, Slot("MEM01")),
    # AMD's reference firmware (bank and locator), and a desktop's
    ("P0 CHANNEL A DIMM 0", MEMORY, Slot("P0 CHANNEL A DIMM 0", 0, "A", 0)),
    ("ChannelA-DIMM0", MEMORY, Slot("ChannelA-DIMM0", None, "A", 0)),
    # Linux' own drivers count channels per controller, so these names identify no slot
    ("CPU_SrcID#1_MC#0_Chan#1_DIMM#0", MEMORY, Slot("CPU_SrcID#1_MC#0_Chan#1_DIMM#0", 1)),
    ("mc#2csrow#1channel#1", MEMORY, Slot("mc#2csrow#1channel#1")),
    ("DIMM A1 (blue)", MEMORY, Slot("DIMM A1 (blue)", None, "A", 1)),
    # Sensors on something else
    ("Inlet Temp", 55, AIR),
    ("CPU1 Temp", PROCESSOR, ELSEWHERE),
    ("FAN1", 29, ELSEWHERE),
    ("GPU1 Mem Temp", CARD, OTHER),
    ("GPU1 Mem Temp", MEMORY, OTHER),
    ("GPU0_Mem_Temp", BOARD, OTHER),
    ("gpu0_mem_temp", BOARD, OTHER),
    ("HGX_GPU_3_DRAM_0_Temp_0", MEMORY, OTHER),
    ("GPU2_HBM_Temp", MEMORY, OTHER),
    ("NIC1 Mem Temp", BOARD, OTHER),
    ("NVMe_MEM_Temp", BOARD, OTHER),
    ("BMC DDR4 Temp", BOARD, OTHER),
    ("dimm0_pmic_temp", 43, REGULATOR),
    ("DIMM_A1_PMIC", MEMORY, REGULATOR),
    ("CPU1 VDDQ Temp", PROCESSOR, REGULATOR),
    ("CPU1 DDR VPP1", PROCESSOR, REGULATOR),
    ("dimm0_extmb_temp", 43, BUFFER),
    ("DIMM Inlet Temp", MEMORY, AIR),
    ("MEM_OUTLET_TEMP", BOARD, AIR),
    # Words that only begin as memory's do
    ("Membrane Temp", BOARD, ELSEWHERE),
    ("Memphis Temp", BOARD, ELSEWHERE),
    ("Remember", BOARD, ELSEWHERE),
]


@pytest.mark.parametrize(("name", "entity", "expected"), CORPUS, ids=[f"{name}@{entity}" for name, entity, _ in CORPUS])
def test_every_name_lands_or_is_refused_with_its_reason(name: str, entity: int, expected: Slot | str) -> None:
    """A name gives processor, channel and module, or the reason why its sensor is not a module's."""
    assert (explain_refusal(name, entity) or parse_slots([name])[name]) == expected


def test_g_among_other_letters_is_a_channel() -> None:
    """On a board with sensors of channels A to H, `DIMMG0` is channel G and not a group."""
    slots = parse_slots(["DIMMA0_TEMP", "DIMMG0_TEMP", "DIMMH0_TEMP"])

    assert slots["DIMMG0_TEMP"] == Slot("DIMMG0", None, "G", 0)


@pytest.mark.parametrize(
    ("sensor", "locator", "fits"),
    [
        ("P1-DIMMA1 Temp", "P1-DIMMA1", True),
        ("P1-DIMM1A.Temp", "P1_DIMMA1", True),
        ("DIMMA1 Temp", "P1-DIMMA1", True),  # a single processor may be left out
        ("P2-DIMMA1 Temp", "P1-DIMMA1", False),
        ("P1-DIMMA2 Temp", "P1-DIMMA1", False),
        ("DIMM 1 Temp", "DIMM 1", True),
        ("DIMM 1 Temp", "ChannelA-DIMM1", False),  # module 1 need not be in channel A
        ("04-P1 DIMM 1-6", "PROC 1 DIMM 1", False),
        ("MEM Temp", "DIMM", False),
        ("Temp", "P1-DIMMA1", False),
        ("DDR4_P1_A1_TMP", "DIMM_P1_A1", True),
        ("DDR4_P1_A1_TMP", "DIMM_P2_A1", False),
        ("DIMM1 Temp 1", "DIMM11", False),  # two numbers are not one
    ],
)
def test_a_name_fits_a_slot_where_all_that_it_says_is_true_there(sensor: str, locator: str, fits: bool) -> None:
    """A sensor's name may omit any part but the channel."""
    assert matches_slot(parse_slot(sensor), parse_slot(locator)) is fits


@given(st.text(max_size=40))
def test_any_name_can_be_read(name: str) -> None:
    """Any name parses, twice to the same slot, and keeps a name."""
    assert parse_slot(name) == parse_slot(name)
    assert bool(strip_decoration(name)) == bool(name.strip())
    assert normalize_name(normalize_name(name)) == normalize_name(name) or "temp" in normalize_name(name)
