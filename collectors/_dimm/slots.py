"""The slots of the firmware's table, and a unique name for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from collectors._dimm.sensor_names import Slot, normalize_name, strip_decoration


class SlotDevice(NamedTuple):
    """A slot as the collector dmi describes it, with empty fields where unknown; `node` holds the slot's addresses."""

    handle: str
    locator: str = ""
    bank: str = ""
    manufacturer: str = ""
    part_number: str = ""
    serial_number: str = ""
    type: str = ""
    node: str = ""
    is_filled: bool = False
    """True where the slot has a module of known size."""


class KnownSlot(NamedTuple):
    """A slot in the firmware's table."""

    dimm: str
    slot: Slot
    device: SlotDevice
    node: str


def list_slot_names(known_slot: KnownSlot) -> tuple[str, ...]:
    """Returns the possible names of a slot; ghes_edac writes bank and locator one after the other."""
    return normalize_name(known_slot.dimm), normalize_name(f"{known_slot.device.bank} {known_slot.device.locator}")


def make_unique_names(devices: Sequence[SlotDevice]) -> list[str]:
    """Returns a name for each slot: the printed locator, with bank or handle where it is not unique."""
    locators = Counter(device.locator for device in devices)
    pairs = Counter((device.bank, device.locator) for device in devices)
    names = []
    for device in devices:
        name = device.locator if locators[device.locator] == 1 else f"{device.bank} {device.locator}".strip()
        unique = name and pairs[device.bank, device.locator] == 1
        names.append(strip_decoration(name) if unique else f"{name} {device.handle}".strip())
    return names
