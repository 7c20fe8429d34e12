"""
Memory and inlet temperatures, fans, and the memory errors in the event log, as the BMC tells them over IPMI.

On most servers only the BMC sees the DIMMs' heat. It is asked in-band (/dev/ipmi0) or over the LAN (RMCP+).
https://www.intel.com/content/dam/www/public/us/en/documents/product-briefs/ipmi-second-gen-interface-spec-v2-rev1-1.pdf
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from collectors import Host, Reading, counter, gauge

INTERVAL = 10.0
DEADLINE = 15.0
ISOLATED = True

_OF = "labels: the sensor's own name, its number, and the entity that it is on (8 and 32 are memory)."
TEMPERATURE = gauge("steadytok_ipmi_temperature_celsius", f"Temperature that a sensor of the BMC measures; {_OF}")
MARGIN = gauge(
    "steadytok_ipmi_temperature_margin_celsius",
    "Distance to the limit as the BMC gives it in place of a temperature: -20 is 20 °C below the limit.",
)
UPPER_NONCRITICAL = gauge(
    "steadytok_ipmi_temperature_upper_noncritical_celsius", "The BMC's upper non-critical threshold, where it is set."
)
UPPER_CRITICAL = gauge(
    "steadytok_ipmi_temperature_upper_critical_celsius", "The BMC's upper critical threshold, where it is set."
)
UPPER_NONRECOVERABLE = gauge(
    "steadytok_ipmi_temperature_upper_nonrecoverable_celsius",
    "The BMC's upper non-recoverable threshold, where it is set.",
)
FAN = gauge("steadytok_ipmi_fan_rpm", "Speed of a fan in revolutions per minute; 0 is a fan that stands still.")
FAN_RATIO = gauge("steadytok_ipmi_fan_ratio", "Speed of a fan as a part of its full speed, where the BMC says no more.")
FAN_LOWER_CRITICAL = gauge("steadytok_ipmi_fan_lower_critical_rpm", "Speed below which the BMC calls a fan failed.")
MEMORY_EVENTS = counter(
    "steadytok_ipmi_memory_events_total", "Entries about memory that came into the system event log since we look."
)
SEL_ENTRIES = gauge("steadytok_ipmi_sel_entries", "Entries in the BMC's system event log.")
SENSORS = gauge("steadytok_ipmi_sensors", "Sensors of the BMC that are read, by what they measure.")
METRICS = (
    TEMPERATURE,
    MARGIN,
    UPPER_NONCRITICAL,
    UPPER_CRITICAL,
    UPPER_NONRECOVERABLE,
    FAN,
    FAN_RATIO,
    FAN_LOWER_CRITICAL,
    MEMORY_EVENTS,
    SEL_ENTRIES,
    SENSORS,
)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which BMC is asked, and for which sensors."""

    address: str = "local"
    credentials_file: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """
    Every sensor has the labels
        sensor="DIMMA1 Temp"      its own name, as the BMC gives it
        number="0x31"             its number (with .LUN where that is not 0): unique, for names such as Dell's `Temp` are not
        entity_id="32"            what it is on: 8 memory module, 32 memory device, 55 and 64 air inlet, 29 fan, 3 processor
        entity_instance="96"      which of them
    A margin has the same labels; so have the thresholds.
    """
    yield from ()
