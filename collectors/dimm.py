"""
Heat and errors of each DIMM under one name, whoever measured them: temperature, limit, headroom, errors, place.

Made from hwmon (DDR4 modules: jc42, DDR5: spd5118), ipmi, hsmp, edac and the firmware's table of slots. A sensor sits
on the module's board, not in the DRAM. https://docs.kernel.org/hwmon/spd5118.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from collectors import Host, Labels, Metric, Reading, Sample, counter, gauge
from collectors._dimm.slot_assignment import Device, Place, Places
from collectors._dimm.sources import Read, of_dmi, of_edac, of_hsmp, of_hwmon, of_ipmi, throttled

AFTER = ("dmi", "hwmon", "ipmi", "hsmp", "edac")
AWAITS = ("dmi",)  # the slots have the names that the modules keep

TEMPERATURE = gauge("steadytok_dimm_temperature_celsius", "Temperature of a memory module's sensor.")
LIMIT = gauge(
    "steadytok_dimm_limit_celsius",
    "Temperature at which trouble begins: the operator's, else 85 °C, JEDEC's normal range, or a lower critical limit.",
)
HEADROOM = gauge("steadytok_dimm_headroom_celsius", "Degrees left until the limit; below 0 it is exceeded.")
REFRESH = gauge(
    "steadytok_dimm_refresh_rate_ratio", "Refreshes in terms of the normal rate, where the processor tells: 2 when hot."
)
CORRECTABLE = counter(
    "steadytok_dimm_correctable_errors_total", "Errors corrected in a module, all its ranks together."
)
UNCORRECTABLE = counter("steadytok_dimm_uncorrectable_errors_total", "Errors in a module that could not be corrected.")
SENSOR = gauge(
    "steadytok_dimm_sensor_info",
    "Which module a source's sensor is of, where that has another name: for joins with it.",
)
THROTTLED = counter(
    "steadytok_dimm_throttled_total",
    "Times that the firmware told that it had throttled memory, since we look: of the host, as the BMC's log has it.",
)
UNPLACED = gauge(
    "steadytok_dimm_unplaced_info",
    "A sensor that fits no slot of the firmware's table, or is no module's, and why; steadytok check lists them.",
)
INFO = gauge("steadytok_dimm_info", "What the firmware's table says of the module in a slot.")
METRICS = (TEMPERATURE, LIMIT, HEADROOM, REFRESH, THROTTLED, CORRECTABLE, UNCORRECTABLE, SENSOR, UNPLACED, INFO)

_NORMAL_RANGE = 85.0  # °C, JEDEC: above it DRAM needs twice the refreshes, about 7 % of the bandwidth
_CREDIBLE = (55.0, 100.0)  # °C: a critical limit outside is one that nobody has set

Celsius = Annotated[float, msgspec.Meta(ge=20, le=120)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What only the operator knows of this board."""

    names: dict[str, str] = {}
    """The module that a sensor is of: `hwmon/3-0050: P1-DIMMA1`. SOURCE/SENSOR is what `steadytok check` says."""

    nodes: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """The NUMA node of a module: `P1-DIMMA1: 0`."""

    limit: Celsius | None = None
    """The limit of all modules in °C."""

    limits: dict[str, Celsius] = {}
    """The limit of one module: `P1-DIMMA1: 80`."""


class _Kept:
    """What is remembered as long as the configuration is the same, so that a module never changes its name."""

    def __init__(self) -> None:
        self.config: Config | None = None
        self.places: Places | None = None


def join(readings: Mapping[str, Sequence[Sample]], host: Host, config: Config | None = None) -> Iterator[Reading]:
    """
    What is made of the Samples of one or several sources, which come by the name of their collector.

    Of dmi the first are remembered, which come before all others'; else nothing here depends on another source's
    Samples, so that each may come at its own time.
    """
    kept, config = host.kept(_Kept), config or Config()
    if kept.places is None or kept.config != config:
        kept.config, kept.places = config, Places(host, of_dmi(readings.get("dmi", ())), config.names, config.nodes)
    for source, find in _SOURCES.items():
        if source in readings:
            reads, refused = find(readings[source])
            for name, reason in refused.items():
                yield UNPLACED.sample(1.0, source=source, sensor=name, reason=reason)
            yield from _of_source(kept.places, config, source, reads)
    yield from (THROTTLED.sample(count, source="ipmi") for count in throttled(readings.get("ipmi", ())))
    if "dmi" in readings:
        yield from _infos(kept.places)


_SOURCES: dict[str, Callable[[Sequence[Sample]], tuple[list[Read], dict[str, str]]]] = {
    "hwmon": of_hwmon,
    "ipmi": of_ipmi,
    "hsmp": of_hsmp,
    "edac": of_edac,
}


def _of_source(places: Places, config: Config, source: str, reads: Sequence[Read]) -> Iterator[Reading]:
    placed = places.place([read.sensor for read in reads], shared=source == "edac")
    for read, place in zip(reads, placed, strict=True):
        if place.reason:
            yield UNPLACED.sample(1.0, source=source, sensor=read.sensor.name, dimm=place.dimm, reason=place.reason)
        if place.dimm != read.sensor.name:
            yield SENSOR.sample(1.0, dimm=place.dimm, node=place.node, sensor=read.sensor.name, source=source)
        yield from _heat(read, _limit(config, place.dimm, read.critical), _labels(place, source))
    if source == "edac":
        yield from _errors(places, placed, reads)
    for name in places.strangers(source):
        yield UNPLACED.sample(1.0, source=source, sensor=name, reason="is in collectors.dimm.names and nowhere else")


def _labels(place: Place, source: str) -> Labels:
    node = (("node", place.node),) if place.node else ()
    return (("dimm", place.dimm), *node, ("source", source))


def _heat(read: Read, limit: float, labels: Labels) -> Iterator[Reading]:
    if read.celsius is not None:
        yield Sample(TEMPERATURE, labels, read.celsius)
        yield Sample(LIMIT, labels, limit)
        yield Sample(HEADROOM, labels, limit - read.celsius)
    elif read.margin is not None:
        yield Sample(HEADROOM, labels, -read.margin)  # the BMC knows the limit and keeps it to itself
    if read.refresh is not None:
        yield Sample(REFRESH, labels, read.refresh)


def _limit(config: Config, dimm: str, critical: float | None) -> float:
    """
    The operator's, else the end of the normal range or the sensor's critical limit, whichever is lower.

    A module rated for 95 °C survives there, but from 85 °C on it is refreshed twice as often: trouble has begun.
    """
    told = config.limits.get(dimm, config.limit)
    if told is not None:
        return told
    credible = critical is not None and _CREDIBLE[0] <= critical <= _CREDIBLE[1]
    return min(critical, _NORMAL_RANGE) if credible and critical is not None else _NORMAL_RANGE


def _errors(places: Places, placed: Sequence[Place], reads: Sequence[Read]) -> Iterator[Reading]:
    """The sums over a module's ranks or rows."""
    rows: dict[Place, list[Read]] = {}
    for read, place in zip(reads, placed, strict=True):
        rows.setdefault(place, []).append(read)
    for place, of_module in rows.items():
        if len(of_module) == places.sharing("edac", place.dimm):
            yield from _sum(CORRECTABLE, [read.correctable for read in of_module], place)
            yield from _sum(UNCORRECTABLE, [read.uncorrectable for read in of_module], place)


def _sum(metric: Metric, counts: Sequence[float | None], place: Place) -> Iterator[Reading]:
    """Nothing where one is missing: the rest would look like a counter that was reset."""
    told = [count for count in counts if count is not None]
    if told and len(told) == len(counts):
        yield metric.sample(sum(told), dimm=place.dimm, node=place.node, source="edac")


def _infos(places: Places) -> Iterator[Reading]:
    for known in places.known:
        if known.device.filled:
            yield INFO.sample(1.0, dimm=known.dimm, node=known.node, **_told(known.device))


def _told(device: Device) -> dict[str, str]:
    fields = ("locator", "bank", "manufacturer", "part_number", "serial_number", "type")
    return {field: getattr(device, field) for field in fields}
