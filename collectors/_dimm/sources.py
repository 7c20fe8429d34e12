"""What each source's Samples say of memory modules, in one form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from collectors._dimm.sensor_names import refusal
from collectors._dimm.sensor_names import slot as slot_of
from collectors._dimm.slot_assignment import Device, Sensor
from collectors._host.sample import Labels, Sample

_CHIPS = ("jc42", "spd5118")
_SOURCE_ID = re.compile(r"CPU_SrcID#(\d+)_", re.ASCII)  # of Intel's drivers: the processor, counted from 0


class Read(NamedTuple):
    """What one sensor said; None where it did not. In °C, the margin to the limit below 0; errors since the boot."""

    sensor: Sensor
    celsius: float | None = None
    critical: float | None = None
    margin: float | None = None
    refresh: float | None = None
    correctable: float | None = None
    uncorrectable: float | None = None


Found = tuple[list[Read], dict[str, str]]
"""The modules' sensors, and why others are none, by their name."""


def of_hwmon(samples: Sequence[Sample]) -> Found:
    """Chips that only memory modules have; a module whose bus and address are not known has no name."""
    serials = {
        labels["device"]: labels.get("serial_number", "")
        for labels, _ in _named(samples, "steadytok_hwmon_module_info")
        if "device" in labels
    }
    critical = _values(samples, "steadytok_hwmon_temperature_critical_celsius")
    reads: dict[str, Read] = {}
    for labels, value in _named(samples, "steadytok_hwmon_temperature_celsius"):
        device = labels.get("device", "")
        if labels.get("chip") in _CHIPS and device:
            sensor = Sensor("hwmon", device, device, serials.get(device, ""))
            reads.setdefault(device, Read(sensor, celsius=value, critical=critical.get(_pairs(labels))))
    return list(reads.values()), {}


def of_ipmi(samples: Sequence[Sample]) -> Found:
    """Sensors on memory, or named after it, that are no regulator's and no zone's."""
    critical = _values(samples, "steadytok_ipmi_temperature_upper_critical_celsius")
    heat = [(*pair, False) for pair in _named(samples, "steadytok_ipmi_temperature_celsius")]
    margins = [(*pair, True) for pair in _named(samples, "steadytok_ipmi_temperature_margin_celsius")]
    times = Counter(labels.get("sensor", "") for labels, _, _ in heat + margins)
    reads, refused = [], {}
    for labels, value, is_margin in heat + margins:
        said = labels.get("sensor", "")
        reason = refusal(said, labels.get("entity_id", ""))
        if reason is not None:
            if "DIMM" in said.upper() or "MEM" in said.upper():  # an inlet need not say that it is no module
                refused[said] = reason
            continue
        sensor = _told_apart(labels, alone=times[said] == 1)
        if is_margin:
            reads.append(Read(sensor, margin=value))
        else:
            reads.append(Read(sensor, celsius=value, critical=critical.get(_pairs(labels))))
    return reads, refused


def _told_apart(labels: dict[str, str], *, alone: bool) -> Sensor:
    """A sensor by its name; by what it is on too where the name tells no place: some BMCs call each of them `Temp`."""
    said = labels.get("sensor", "")
    slot = slot_of(said)
    if alone and (slot.told or slot.group):
        return Sensor("ipmi", said, said)
    entity = f"{labels.get('entity_id', '?')}.{labels.get('entity_instance', '?')}"
    plain = "memory" if slot.name.lower() == "temp" else slot.name
    return Sensor("ipmi", f"{said} {entity}", f"{plain} {entity}")


def throttled(samples: Iterable[Sample]) -> Iterator[float]:
    """How often the BMC's log says that memory was throttled; it names no module that all vendors would agree on."""
    events = _named(samples, "steadytok_ipmi_memory_events_total")
    return (count for labels, count in events if labels.get("event") == "throttled")


def of_hsmp(samples: Sequence[Sample]) -> Found:
    """DIMMs as the processor counts them: by socket, channel and place in the channel."""
    refresh = _values(samples, "steadytok_hsmp_dimm_refresh_rate_ratio")
    reads = []
    for labels, value in _named(samples, "steadytok_hsmp_dimm_temperature_celsius"):
        socket, channel, dimm = (labels.get(name, "") for name in ("socket", "channel", "dimm"))
        name = f"socket {socket} channel {channel} dimm {dimm}"
        sensor = Sensor("hsmp", name, name, socket=int(socket))
        reads.append(Read(sensor, celsius=value, refresh=refresh.get(_pairs(labels))))
    return reads, {}


def of_edac(samples: Sequence[Sample]) -> Found:
    """Ranks, rows or modules of the memory controllers, with their labels."""
    corrected = _values(samples, "steadytok_edac_dimm_correctable_errors_total")
    uncorrected = _values(samples, "steadytok_edac_dimm_uncorrectable_errors_total")
    reads = []
    for pairs in dict.fromkeys((*corrected, *uncorrected)):
        labels = dict(pairs)
        name = f"{labels.get('controller', '')}/{labels.get('dimm', '')}"
        label = labels.get("label", "")
        source = _SOURCE_ID.match(label)
        sensor = Sensor("edac", name, label or name, socket=int(source[1]) if source is not None else None)
        reads.append(Read(sensor, correctable=corrected.get(pairs), uncorrectable=uncorrected.get(pairs)))
    return reads, {}


def of_dmi(samples: Sequence[Sample]) -> list[Device]:
    """The slots in the order of the firmware's table."""
    sizes = {
        dict(labels)["handle"]: size for labels, size in _values(samples, "steadytok_dmi_memory_size_bytes").items()
    }
    told = (labels for labels, _ in _named(samples, "steadytok_dmi_memory_info"))
    return [Device(**labels, filled=bool(sizes.get(labels["handle"]))) for labels in told]


def _named(samples: Iterable[Sample], name: str) -> Iterator[tuple[dict[str, str], float]]:
    return ((dict(sample.labels), sample.value) for sample in samples if sample.metric.name == name)


def _values(samples: Iterable[Sample], name: str) -> dict[Labels, float]:
    return {sample.labels: sample.value for sample in samples if sample.metric.name == name}


def _pairs(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))
