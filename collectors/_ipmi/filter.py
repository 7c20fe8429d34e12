"""
Selects a BMC's sensors by the entity that they are on, and by vendors' names for them.

The entity decides first, since some vendors name every sensor `Temp`. A regulator beside the DIMMs is no DIMM, even
where its entity is memory.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable
from typing import Literal

from collectors._dimm.memory_names import is_memory, is_regulator
from collectors._ipmi.sensor import BMC_ADDRESS, FAN, TEMPERATURE, Sensor

SensorKind = Literal["memory", "margin", "inlet", "fan", "other"]
"""A sensor's quantity: memory temperature, margin to a limit, incoming air, a fan, or an included `other`."""

_INLET_ENTITIES = (0x37, 0x40)  # air inlet, under both its numbers
_MARGIN_NAME = re.compile(r"Mrgn|Margin", re.IGNORECASE)
_INLET_NAME = re.compile(r"Inlet|Ambient|Air[-_ ]?In(?![A-Za-z])", re.IGNORECASE)


def classify_sensor(sensor: Sensor, include: Iterable[str], exclude: Iterable[str]) -> SensorKind | None:
    """Returns the kind of a selected sensor, None for the others; the operator's patterns (`PSU*Temp`) decide first."""
    if _matches_any(sensor.name, exclude):
        return None
    kind = _classify_by_default(sensor)
    if kind is not None or not _matches_any(sensor.name, include):
        return kind
    return "fan" if sensor.type == FAN else "other" if sensor.type == TEMPERATURE else None


def _classify_by_default(sensor: Sensor) -> SensorKind | None:
    if sensor.type == FAN:
        return "fan" if sensor.is_analog else None  # a discrete one only reports whether a fan is present
    if sensor.type != TEMPERATURE:
        return None
    if is_memory(sensor.name, sensor.entity_id):
        return "margin" if _MARGIN_NAME.search(sensor.name) else "memory"
    inlet = sensor.entity_id in _INLET_ENTITIES or _INLET_NAME.search(sensor.name)
    return "inlet" if inlet and not is_regulator(sensor.name) else None


def explain_refusal(sensor: Sensor) -> str | None:
    """Returns why a selected sensor cannot be read, or None."""
    if sensor.owner != BMC_ADDRESS:
        return f"belongs to another controller (0x{sensor.owner:02X}), which only bridged requests reach"
    units = ("rpm", "percent") if sensor.type == FAN else ("celsius", "fahrenheit", "kelvin")
    if not sensor.is_analog or sensor.unit not in units:
        return "is discrete or has an unknown unit: its reading is a state and not a measurement"
    return None


def _matches_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)
