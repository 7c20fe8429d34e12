"""Converts each source's Samples about memory modules into one common form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from collectors._dimm.memory_names import MODULE_CHIPS, OTHER_DEVICE, explain_refusal, is_named_after_memory
from collectors._dimm.sensor_names import parse_slot as slot_of
from collectors._dimm.slot_assignment import DimmSensor
from collectors._dimm.slots import SlotDevice
from collectors._host.sample import Labels, Sample

_SOURCE_ID = re.compile(r"CPU_SrcID#(\d+)_", re.ASCII)  # of Intel's drivers: the processor, counted from 0


class SensorReading(NamedTuple):
    """One sensor's values; None where it has none. Temperatures in °C, the margin below 0, errors since boot."""

    sensor: DimmSensor
    celsius: float | None = None
    critical: float | None = None
    margin: float | None = None
    refresh: float | None = None
    correctable: float | None = None
    uncorrectable: float | None = None


SourceReadings = tuple[list[SensorReading], dict[str, str]]
"""The modules' sensors, and by name the reasons why other sensors are not modules'."""


def from_hwmon(samples: Sequence[Sample]) -> SourceReadings:
    """Converts chips that only memory modules have; skips a module whose bus and address are unknown."""
    serials = {
        labels["device"]: labels.get("serial_number", "")
        for labels, _ in _filter_by_name(samples, "steadytok_hwmon_module_info")
        if "device" in labels
    }
    critical = _index_by_labels(samples, "steadytok_hwmon_temperature_critical_celsius")
    readings: dict[str, SensorReading] = {}
    for labels, value in _filter_by_name(samples, "steadytok_hwmon_temperature_celsius"):
        device = labels.get("device", "")
        if labels.get("chip") in MODULE_CHIPS and device:
            sensor = DimmSensor("hwmon", device, device, serials.get(device, ""))
            readings.setdefault(device, SensorReading(sensor, celsius=value, critical=critical.get(_to_pairs(labels))))
    return list(readings.values()), {}


def from_ipmi(samples: Sequence[Sample]) -> SourceReadings:
    """Converts sensors on memory, or named after it, except those of regulators and zones."""
    critical = _index_by_labels(samples, "steadytok_ipmi_temperature_upper_critical_celsius")
    temperatures = [(*pair, False) for pair in _filter_by_name(samples, "steadytok_ipmi_temperature_celsius")]
    margins = [(*pair, True) for pair in _filter_by_name(samples, "steadytok_ipmi_temperature_margin_celsius")]
    occurrences = Counter(labels.get("sensor", "") for labels, _, _ in temperatures + margins)
    readings, refused = [], {}
    for labels, value, is_margin in temperatures + margins:
        sensor_name = labels.get("sensor", "")
        entity = labels.get("entity_id", "")
        reason = explain_refusal(sensor_name, int(entity) if entity.isdecimal() else None)
        if reason is not None:
            # Only names like memory's need a reason: an inlet is obviously no module, nor is the memory of a GPU.
            if is_named_after_memory(sensor_name) and reason != OTHER_DEVICE:
                refused[sensor_name] = reason
            continue
        sensor = _make_unique_sensor(labels, is_unique=occurrences[sensor_name] == 1)
        if is_margin:
            readings.append(SensorReading(sensor, margin=value))
        else:
            readings.append(SensorReading(sensor, celsius=value, critical=critical.get(_to_pairs(labels))))
    return readings, refused


def _make_unique_sensor(labels: dict[str, str], *, is_unique: bool) -> DimmSensor:
    """Names a sensor; adds its entity where names repeat, since some BMCs name each sensor `Temp`."""
    sensor_name = labels.get("sensor", "")
    slot = slot_of(sensor_name)
    if is_unique and (slot.is_specific or slot.is_group):
        return DimmSensor("ipmi", sensor_name, sensor_name)
    entity = f"{labels.get('entity_id', '?')}.{labels.get('entity_instance', '?')}"
    plain = "memory" if slot.name.lower() == "temp" else slot.name
    return DimmSensor("ipmi", f"{sensor_name} {entity}", f"{plain} {entity}")


def read_throttle_counts(samples: Iterable[Sample]) -> Iterator[float]:
    """Yields how often the BMC's log reports throttled memory; vendors do not agree on how to name the module."""
    events = _filter_by_name(samples, "steadytok_ipmi_memory_events_total")
    return (count for labels, count in events if labels.get("event") == "throttled")


def from_hsmp(samples: Sequence[Sample]) -> SourceReadings:
    """Converts DIMMs as the processor counts them: by socket, channel and position in the channel."""
    refresh = _index_by_labels(samples, "steadytok_hsmp_dimm_refresh_rate_ratio")
    readings = []
    for labels, value in _filter_by_name(samples, "steadytok_hsmp_dimm_temperature_celsius"):
        socket, channel, dimm = (labels.get(name, "") for name in ("socket", "channel", "dimm"))
        name = f"socket {socket} channel {channel} dimm {dimm}"
        sensor = DimmSensor("hsmp", name, name, socket=int(socket))
        readings.append(SensorReading(sensor, celsius=value, refresh=refresh.get(_to_pairs(labels))))
    return readings, {}


def from_edac(samples: Sequence[Sample]) -> SourceReadings:
    """Converts ranks, rows or modules of the memory controllers, with their labels."""
    corrected = _index_by_labels(samples, "steadytok_edac_dimm_correctable_errors_total")
    uncorrected = _index_by_labels(samples, "steadytok_edac_dimm_uncorrectable_errors_total")
    readings = []
    for pairs in dict.fromkeys((*corrected, *uncorrected)):
        labels = dict(pairs)
        name = f"{labels.get('controller', '')}/{labels.get('dimm', '')}"
        label = labels.get("label", "")
        source = _SOURCE_ID.match(label)
        sensor = DimmSensor("edac", name, label or name, socket=int(source[1]) if source is not None else None)
        readings.append(SensorReading(sensor, correctable=corrected.get(pairs), uncorrectable=uncorrected.get(pairs)))
    return readings, {}


def from_dmi(samples: Sequence[Sample]) -> list[SlotDevice]:
    """Returns the slots in the order of the firmware's table."""
    sizes = {
        dict(labels)["handle"]: size
        for labels, size in _index_by_labels(samples, "steadytok_dmi_memory_size_bytes").items()
    }
    slot_labels = (labels for labels, _ in _filter_by_name(samples, "steadytok_dmi_memory_info"))
    return [SlotDevice(**labels, is_filled=bool(sizes.get(labels["handle"]))) for labels in slot_labels]


def _filter_by_name(samples: Iterable[Sample], name: str) -> Iterator[tuple[dict[str, str], float]]:
    return ((dict(sample.labels), sample.value) for sample in samples if sample.metric.name == name)


def _index_by_labels(samples: Iterable[Sample], name: str) -> dict[Labels, float]:
    return {sample.labels: sample.value for sample in samples if sample.metric.name == name}


def _to_pairs(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))
