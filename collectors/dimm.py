"""
Temperature, limit, headroom, errors and slot of each DIMM, under one name in all sources.

Joins hwmon (DDR4 modules: jc42, DDR5: spd5118), ipmi, hsmp, edac and the firmware's table of slots. A sensor sits on
the module's board, not in the DRAM. https://docs.kernel.org/hwmon/spd5118.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated

import msgspec

from collectors import Host, Labels, Metric, Reading, Sample, counter, gauge
from collectors._dimm import sources
from collectors._dimm.slot_assignment import SlotAssigner, SlotAssignment
from collectors._dimm.slots import SlotDevice
from collectors._dimm.sources import SensorReading
from collectors._dimm.unplaced import UNPLACED, list_unplaced

AFTER = ("dmi", "hwmon", "ipmi", "hsmp", "edac")
AWAITS = ("dmi",)  # the firmware's table names the modules

TEMPERATURE = gauge("steadytok_dimm_temperature_celsius", "Temperature of a memory module's sensor.")
LIMIT = gauge(
    "steadytok_dimm_limit_celsius",
    "Temperature at which trouble begins: the operator's, else 85 °C, JEDEC's normal range, or a lower critical limit.",
)
HEADROOM = gauge("steadytok_dimm_headroom_celsius", "Degrees left until the limit; below 0 it is exceeded.")
REFRESH = gauge(
    "steadytok_dimm_refresh_rate_ratio",
    "Refreshes relative to the normal rate, where the processor reports them: 2 when hot.",
)
CORRECTABLE = counter(
    "steadytok_dimm_correctable_errors_total", "Errors corrected in a module, all its ranks together."
)
UNCORRECTABLE = counter("steadytok_dimm_uncorrectable_errors_total", "Errors in a module that could not be corrected.")
SENSOR = gauge(
    "steadytok_dimm_sensor_info",
    "The module of a source's sensor, where the sensor has another name; for joins.",
)
THROTTLED = counter(
    "steadytok_dimm_throttled_total",
    "Times that the firmware throttled memory, by the BMC's log since the agent started; for the whole host.",
)
INFO = gauge("steadytok_dimm_info", "The module in a slot, as the firmware's table describes it.")
METRICS = (TEMPERATURE, LIMIT, HEADROOM, REFRESH, THROTTLED, CORRECTABLE, UNCORRECTABLE, SENSOR, UNPLACED, INFO)
HINT_ABSENT = "made from the DIMM sensors of hwmon, ipmi and hsmp, and from edac's errors"

_NORMAL_RANGE_END = 85.0  # °C, JEDEC: above it DRAM needs twice the refreshes, about 7 % of the bandwidth
_CREDIBLE_LIMITS = (55.0, 100.0)  # °C: a critical limit outside was never set

Celsius = Annotated[float, msgspec.Meta(ge=20, le=120)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings that only the operator of this board knows."""

    names: dict[str, str] = {}
    """The module of a sensor: `hwmon/3-0050: P1-DIMMA1`. `steadytok check` lists SOURCE/SENSOR."""
    nodes: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    """The NUMA node of a module: `P1-DIMMA1: 0`."""
    limit: Celsius | None = None
    """The limit of all modules in °C."""
    limits: dict[str, Celsius] = {}
    """The limit of one module: `P1-DIMMA1: 80`."""


class _DimmState:
    """State for as long as the configuration is the same, so that a module never changes its name."""

    def __init__(self) -> None:
        self.config: Config | None = None
        self.assigner: SlotAssigner | None = None


def join(readings: Mapping[str, Sequence[Sample]], host: Host, config: Config | None = None) -> Iterator[Reading]:
    """
    Joins the Samples of one or several sources, given by the name of their collector.

    The first Samples of dmi, which precede all others, are remembered. Otherwise no source depends on another's
    Samples, so that each may arrive at its own time.
    """
    state, config = host.get_state(_DimmState), config or Config()
    if state.assigner is None or state.config != config:
        assigner = SlotAssigner(host, sources.from_dmi(readings.get("dmi", ())), config.names, config.nodes)
        state.config, state.assigner = config, assigner
    for source, convert in _SOURCES.items():
        if source in readings:
            sensor_readings, refused = convert(readings[source])
            for name, reason in refused.items():
                yield UNPLACED.sample(1.0, source=source, sensor=name, reason=reason)
            yield from _collect_source(state.assigner, config, source, sensor_readings)
    yield from (
        THROTTLED.sample(count, source="ipmi") for count in sources.read_throttle_counts(readings.get("ipmi", ()))
    )
    if "dmi" in readings:
        yield from _collect_infos(state.assigner)


_SOURCES: dict[str, Callable[[Sequence[Sample]], tuple[list[SensorReading], dict[str, str]]]] = {
    "hwmon": sources.from_hwmon,
    "ipmi": sources.from_ipmi,
    "hsmp": sources.from_hsmp,
    "edac": sources.from_edac,
}


def _collect_source(
    assigner: SlotAssigner, config: Config, source: str, sensor_readings: Sequence[SensorReading]
) -> Iterator[Reading]:
    assignments = assigner.assign([reading.sensor for reading in sensor_readings], shared=source == "edac")
    for reading, assignment in zip(sensor_readings, assignments, strict=True):
        if assignment.reason:
            yield UNPLACED.sample(
                1.0, source=source, sensor=reading.sensor.name, dimm=assignment.dimm, reason=assignment.reason
            )
        if assignment.dimm != reading.sensor.name:
            yield SENSOR.sample(
                1.0, dimm=assignment.dimm, node=assignment.node, sensor=reading.sensor.name, source=source
            )
        yield from _collect_temperature(
            reading, _choose_limit(config, assignment.dimm, reading.critical), _make_labels(assignment, source)
        )
    if source == "edac":
        yield from _collect_errors(assigner, assignments, sensor_readings)
    for name in assigner.list_unseen_sensors(source):
        yield UNPLACED.sample(
            1.0, source=source, sensor=name, reason="is in collectors.dimm.names, but no such sensor was found"
        )


def explain(samples: Sequence[Sample]) -> Iterator[str]:
    """Yields lines about the sensors without a slot."""
    return list_unplaced(samples)


def _make_labels(assignment: SlotAssignment, source: str) -> Labels:
    node = (("node", assignment.node),) if assignment.node else ()
    return (("dimm", assignment.dimm), *node, ("source", source))


def _collect_temperature(reading: SensorReading, limit: float, labels: Labels) -> Iterator[Reading]:
    if reading.celsius is not None:
        yield Sample(TEMPERATURE, labels, reading.celsius)
        yield Sample(LIMIT, labels, limit)
        yield Sample(HEADROOM, labels, limit - reading.celsius)
    elif reading.margin is not None:
        yield Sample(HEADROOM, labels, -reading.margin)  # the BMC reports the margin without the limit
    if reading.refresh is not None:
        yield Sample(REFRESH, labels, reading.refresh)


def _choose_limit(config: Config, dimm: str, critical: float | None) -> float:
    """
    Returns the operator's limit, else the lower one of the normal range's end and the sensor's critical limit.

    A module rated for 95 °C survives there, but from 85 °C on it is refreshed twice as often: trouble has begun.
    """
    configured = config.limits.get(dimm, config.limit)
    if configured is not None:
        return configured
    credible = critical is not None and _CREDIBLE_LIMITS[0] <= critical <= _CREDIBLE_LIMITS[1]
    return min(critical, _NORMAL_RANGE_END) if credible and critical is not None else _NORMAL_RANGE_END


def _collect_errors(
    assigner: SlotAssigner, assignments: Sequence[SlotAssignment], sensor_readings: Sequence[SensorReading]
) -> Iterator[Reading]:
    """Yields the sums over a module's ranks or rows."""
    rows: dict[SlotAssignment, list[SensorReading]] = {}
    for reading, assignment in zip(sensor_readings, assignments, strict=True):
        rows.setdefault(assignment, []).append(reading)
    for assignment, module_readings in rows.items():
        if len(module_readings) == assigner.count_sensors("edac", assignment.dimm):
            yield from _sum_counts(CORRECTABLE, [reading.correctable for reading in module_readings], assignment)
            yield from _sum_counts(UNCORRECTABLE, [reading.uncorrectable for reading in module_readings], assignment)


def _sum_counts(metric: Metric, counts: Sequence[float | None], assignment: SlotAssignment) -> Iterator[Reading]:
    """Yields nothing where a count is missing: the rest would look like a counter reset."""
    known_counts = [count for count in counts if count is not None]
    if known_counts and len(known_counts) == len(counts):
        yield metric.sample(sum(known_counts), dimm=assignment.dimm, node=assignment.node, source="edac")


def _collect_infos(assigner: SlotAssigner) -> Iterator[Reading]:
    for known_slot in assigner.known_slots:
        if known_slot.device.is_filled:
            yield INFO.sample(1.0, dimm=known_slot.dimm, node=known_slot.node, **_make_info_labels(known_slot.device))


def _make_info_labels(device: SlotDevice) -> dict[str, str]:
    fields = ("locator", "bank", "manufacturer", "part_number", "serial_number", "type")
    return {field: getattr(device, field) for field in fields}
