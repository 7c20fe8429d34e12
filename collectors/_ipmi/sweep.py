"""One sweep over the wanted sensors: one Get Sensor Reading each, one after the other, and what each is worth."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from collectors._host.host import Host
from collectors._ipmi.client import NOT_PRESENT, Bmc, CodeError, Request
from collectors._ipmi.filter import Kind, kind_of, refusal
from collectors._ipmi.sensor import ASKED_FOR, Sensor

_UNAVAILABLE, _SCANNED = 0x20, 0x40  # bits of a reading's second byte, table 35-15
_COLDEST, _HOTTEST = -40.0, 150.0  # °C; outside lies no working server, only a BMC that answers nonsense
_FASTEST = 60_000.0  # revolutions per minute; the smallest server fans reach about 40,000
_COOLEST_LIMIT, _HOTTEST_LIMIT = 55.0, 100.0  # °C; a limit outside is not one of a DIMM
_LIMIT = 80.0  # °C, where the BMC says none
_PLAUSIBLE = {"fan": (0.0, _FASTEST), "margin": (-150.0, 100.0)}


class Wanted(NamedTuple):
    """A sensor that is read, and what for."""

    sensor: Sensor
    kind: Kind
    labels: dict[str, str]
    thresholds: dict[str, float]


def choose(
    sensors: Iterable[Sensor], include: Sequence[str], exclude: Sequence[str]
) -> tuple[list[Wanted], list[tuple[str, str]]]:
    """The wanted sensors that can be read; and (name, reason) of those that cannot."""
    chosen, refused = [], []
    for sensor in sensors:
        kind = kind_of(sensor, include, exclude)
        if kind is None:
            continue
        reason = refusal(sensor)
        if reason is not None:
            refused.append((sensor.name, reason))
            continue
        chosen.append(Wanted(sensor, kind, _labels(sensor), sensor.thresholds()))
    return chosen, refused


def headroom(wanted: Wanted, value: float) -> float:
    """°C until a DIMM's limit, 5 below its critical threshold where that is one; infinite for what is no DIMM."""
    if wanted.kind == "margin":
        return -value
    if wanted.kind != "memory":
        return math.inf
    limit = wanted.thresholds.get("upper_critical", 0.0) - 5
    return (limit if _COOLEST_LIMIT <= limit <= _HOTTEST_LIMIT else _LIMIT) - value


def _labels(sensor: Sensor) -> dict[str, str]:
    return {
        "sensor": sensor.name,
        "number": f"0x{sensor.number:02x}" + (f".{sensor.lun}" if sensor.lun else ""),
        "entity_id": str(sensor.entity_id),
        "entity_instance": str(sensor.entity_instance),
    }


class Sweep:
    """The sensors that are read, and what is remembered from one sweep to the next."""

    def __init__(self, sensors: Sequence[Sensor], include: Sequence[str], exclude: Sequence[str]) -> None:
        self.sensors = sensors
        self._chosen, self._refused = choose(sensors, include, exclude)
        self._seen: set[str] = set()
        self._next = 0

    def each(self, host: Host, bmc: Bmc, until: float) -> Iterator[tuple[Wanted, float]]:
        """
        Each wanted sensor that has a reading, with its value in °C, revolutions per minute or as a ratio.

        A sweep that runs out of time ends, and the next one begins where it ended. Raises BmcError.
        """
        for name, reason in self._refused:
            host.note(f"{bmc.name} {name}", reason)
        chosen, first, self._next = self._chosen, self._next, 0
        for turn in range(len(chosen)):
            place = (first + turn) % len(chosen)
            if turn and time.monotonic() > until:
                self._next = place
                host.note(bmc.name, "is too slow for all its sensors in one pass; the next one goes on")
                return
            value = self._read(host, bmc, chosen[place])
            if value is not None:
                yield chosen[place], value

    def _read(self, host: Host, bmc: Bmc, wanted: Wanted) -> float | None:
        """The value, or None: with a note, but for a sensor that never had one, such as that of an empty slot."""
        sensor, number = wanted.sensor, wanted.labels["number"]
        place = f"{bmc.name} {sensor.name}"
        try:
            answer = bmc.ask(Request.GET_SENSOR_READING, bytes((sensor.number,)), lun=sensor.lun)
            if len(answer) < 2:
                return host.note(place, f"expected a reading of 2 bytes, found {answer.hex(' ') or 'none'}")
            if answer[1] & _UNAVAILABLE or not answer[1] & _SCANNED:
                return host.note(place, "has no reading now") if number in self._seen else None
            value = sensor.value(answer[0], _factors(bmc, sensor, answer[0]))
        except CodeError as error:
            return None if error.code == NOT_PRESENT and number not in self._seen else host.note(place, str(error))
        least, most = _PLAUSIBLE.get(wanted.kind, (_COLDEST, _HOTTEST))
        if value is None or not least <= value <= most:
            return host.note(place, f"expected {least:g} to {most:g}, found {value} from the byte 0x{answer[0]:02X}")
        self._seen.add(number)
        return value


def _factors(bmc: Bmc, sensor: Sensor, raw: int) -> bytes | None:
    """The factors for this very reading of a non-linear sensor; None for all others."""
    if sensor.linearization < ASKED_FOR:
        return None
    answer = bmc.ask(Request.GET_SENSOR_READING_FACTORS, bytes((sensor.number, raw)), lun=sensor.lun, least=7)
    return answer[1:7]
