"""Reads the selected sensors one after another, one Get Sensor Reading each, and validates the values."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from collectors._host.host import Host
from collectors._ipmi.client import NOT_PRESENT, Bmc, CompletionCodeError, IpmiRequest
from collectors._ipmi.filter import SensorKind, classify_sensor, explain_refusal
from collectors._ipmi.sensor import NEEDS_FACTORS, Sensor

_UNAVAILABLE, _SCANNED = 0x20, 0x40  # bits of a reading's second byte, table 35-15
_MIN_CELSIUS, _MAX_CELSIUS = -40.0, 150.0  # °C; values outside are nonsense from the BMC, not a working server
_MAX_RPM = 60_000.0  # revolutions per minute; the smallest server fans reach about 40,000
_MIN_LIMIT, _MAX_LIMIT = 55.0, 100.0  # °C; a limit outside cannot be a DIMM's
_DEFAULT_LIMIT = 80.0  # °C, where the BMC has no limit
_PLAUSIBLE = {"fan": (0.0, _MAX_RPM), "margin": (-150.0, 100.0)}


class SelectedSensor(NamedTuple):
    """A sensor that is read, its kind, its labels and its thresholds."""

    sensor: Sensor
    kind: SensorKind
    labels: dict[str, str]
    thresholds: dict[str, float]


def select_sensors(
    sensors: Iterable[Sensor], include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[SelectedSensor], list[tuple[str, str]]]:
    """Returns the selected sensors that can be read, and (name, reason) of those that cannot."""
    selected, refused = [], []
    for sensor in sensors:
        kind = classify_sensor(sensor, include, exclude)
        if kind is None:
            continue
        reason = explain_refusal(sensor)
        if reason is not None:
            refused.append((sensor.name, reason))
            continue
        selected.append(SelectedSensor(sensor, kind, _make_labels(sensor), sensor.convert_thresholds()))
    return selected, refused


def compute_headroom(selected: SelectedSensor, value: float) -> float:
    """
    Returns the °C left until a DIMM's limit, 5 below its critical threshold; infinite for other sensors.

    A threshold that is no plausible DIMM limit is replaced by the default.
    """
    if selected.kind == "margin":
        return -value
    if selected.kind != "memory":
        return math.inf
    limit = selected.thresholds.get("upper_critical", 0.0) - 5
    return (limit if _MIN_LIMIT <= limit <= _MAX_LIMIT else _DEFAULT_LIMIT) - value


def _make_labels(sensor: Sensor) -> dict[str, str]:
    return {
        "sensor": sensor.name,
        "number": f"0x{sensor.number:02x}" + (f".{sensor.lun}" if sensor.lun else ""),
        "entity_id": str(sensor.entity_id),
        "entity_instance": str(sensor.entity_instance),
    }


class Sweep:
    """The sensors that are read, and the state from one sweep to the next."""

    def __init__(self, sensors: Sequence[Sensor], include: Sequence[str], exclude: Sequence[str]) -> None:
        self.sensors = sensors
        self._selected, self._refused = select_sensors(sensors, include, exclude)
        self._numbers_read: set[str] = set()
        self._next_position = 0

    def read_sensors(self, host: Host, bmc: Bmc, deadline: float) -> Iterator[tuple[SelectedSensor, float]]:
        """
        Yields each selected sensor that has a reading, with its value in °C, revolutions per minute or as a ratio.

        A sweep that runs out of time stops, and the next one continues there. Raises BmcError.
        """
        for name, reason in self._refused:
            host.note(f"{bmc.name} {name}", reason)
        selected, first, self._next_position = self._selected, self._next_position, 0
        for step in range(len(selected)):
            position = (first + step) % len(selected)
            if step and time.monotonic() > deadline:
                self._next_position = position
                host.note(bmc.name, "is too slow for all its sensors in one pass; the next pass continues")
                return
            value = self._read_sensor(host, bmc, selected[position])
            if value is not None:
                yield selected[position], value

    def _read_sensor(self, host: Host, bmc: Bmc, selected: SelectedSensor) -> float | None:
        """
        Returns the value, or None with a note; a sensor that never had a value, as of an empty slot, leaves no note.
        """
        sensor, number = selected.sensor, selected.labels["number"]
        subject = f"{bmc.name} {sensor.name}"
        try:
            answer = bmc.ask(IpmiRequest.GET_SENSOR_READING, bytes((sensor.number,)), lun=sensor.lun)
            if len(answer) < 2:
                return host.note(subject, f"expected a reading of 2 bytes, found {answer.hex(' ') or 'none'}")
            if answer[1] & _UNAVAILABLE or not answer[1] & _SCANNED:
                return host.note(subject, "has no reading now") if number in self._numbers_read else None
            value = sensor.convert_reading(answer[0], _read_factors(bmc, sensor, answer[0]))
        except CompletionCodeError as error:
            return (
                None
                if error.code == NOT_PRESENT and number not in self._numbers_read
                else host.note(subject, str(error))
            )
        lowest, highest = _PLAUSIBLE.get(selected.kind, (_MIN_CELSIUS, _MAX_CELSIUS))
        if value is None or not lowest <= value <= highest:
            return host.note(
                subject, f"expected {lowest:g} to {highest:g}, found {value} from the byte 0x{answer[0]:02X}"
            )
        self._numbers_read.add(number)
        return value


def _read_factors(bmc: Bmc, sensor: Sensor, raw: int) -> bytes | None:
    """Returns the factors for this reading of a non-linear sensor; None for all other sensors."""
    if sensor.linearization < NEEDS_FACTORS:
        return None
    answer = bmc.ask(IpmiRequest.GET_SENSOR_READING_FACTORS, bytes((sensor.number, raw)), lun=sensor.lun, min_bytes=7)
    return answer[1:7]
