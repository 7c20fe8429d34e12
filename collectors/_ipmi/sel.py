"""
The BMC's System Event Log, as far as it tells of memory: read from its end on, and never cleared.

One request for each pass in which nothing has come. IPMI 2.0, sections 31, 32 and 42.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from collectors._ipmi.client import NOT_PRESENT, Bmc, CodeError, Request
from collectors._ipmi.filter import is_memory
from collectors._ipmi.sensor import MEMORY, TEMPERATURE, THRESHOLD, Sensor

_FIRST, _LAST = 0x0000, 0xFFFF
_MOST = 64  # entries of one pass; more wait for the next
_SYSTEM_EVENT = 0x02
_SENSOR_SPECIFIC = 0x6F
KINDS = {
    0: "correctable_ecc",
    1: "uncorrectable_ecc",
    2: "parity",
    3: "scrub_failed",
    4: "disabled",
    5: "correctable_ecc_limit",
    7: "configuration_error",
    9: "throttled",
    10: "over_temperature",
}
"""What an entry of a memory sensor says, by its offset in table 42-3."""
_GOING_HIGH = (7, 9, 11)  # offsets of a threshold sensor: upper non-critical, critical, non-recoverable


class Entry(NamedTuple):
    """One entry; `offset` is what happened, `detail` the event's second and third byte, -1 where unspecified."""

    number: int
    seconds: int
    sensor_type: int
    sensor: int
    reading_type: int
    asserted: bool
    offset: int
    detail: tuple[int, int]


class Log:
    """How far the log has been read, and what it has told since it was first looked at."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KINDS.values(), 0)
        self.entries: int | None = None
        self._info = b""
        self._erased = b""
        self._last: int | None = None
        self._behind = False

    def count(self, bmc: Bmc, sensors: Iterable[Sensor]) -> None:
        """Counts the new entries about memory, and tells of each. Raises BmcError and CodeError."""
        by_number = {sensor.number: sensor for sensor in sensors}
        for entry in self.look(bmc):
            sensor = by_number.get(entry.sensor)
            kind = kind_of(entry, of_memory=sensor is not None and is_memory(sensor))
            if kind is not None:
                self.counts[kind] += 1
                _tell(bmc.name, kind, entry, sensor)

    def look(self, bmc: Bmc) -> list[Entry]:
        """The entries that came since the last look; none at the first one. Raises BmcError and CodeError."""
        if len(bmc.identity) > 5 and not bmc.identity[5] & 0b100:
            return []  # it says that it has no such log
        info = bmc.ask(Request.GET_SEL_INFO, least=13)
        self.entries = int.from_bytes(info[1:3], "little")
        erased, begun = info[9:13], self._info != b""
        if begun and info == self._info and not self._behind:
            return []
        if not begun:
            self._last = self._newest(bmc)
        elif erased != self._erased:
            self._last = None  # cleared: all that is there now came after
        found = self._read(bmc) if begun else []
        self._info, self._erased = info, erased
        return found

    def _newest(self, bmc: Bmc) -> int | None:
        entry = self._entry(bmc, _LAST)
        return None if entry is None else int.from_bytes(entry[2:4], "little")

    def _read(self, bmc: Bmc) -> list[Entry]:
        following = _FIRST
        if self._last is not None:
            known = self._entry(bmc, self._last)
            # Gone without an erase: a log that is full has written over it, and begins later now.
            following = _FIRST if known is None else int.from_bytes(known[:2], "little")
        found: list[bytes] = []
        while following != _LAST and len(found) < _MOST:
            answer = self._entry(bmc, following)
            if answer is None:
                break
            following, self._last = int.from_bytes(answer[:2], "little"), int.from_bytes(answer[2:4], "little")
            found.append(answer[2:])
        self._behind = len(found) == _MOST
        return [entry for entry in map(parse_entry, found) if entry is not None]

    def _entry(self, bmc: Bmc, number: int) -> bytes | None:
        """The id of the next entry and the entry itself, 18 bytes; None where there is no such entry."""
        try:
            return bmc.ask(Request.GET_SEL_ENTRY, bytes((0, 0, *number.to_bytes(2, "little"), 0, 0xFF)), least=18)
        except CodeError as error:
            if error.code != NOT_PRESENT:
                raise
            return None


def parse_entry(record: bytes) -> Entry | None:
    """An entry of the standard kind; None for those that only their vendor can read."""
    if record[2] != _SYSTEM_EVENT:
        return None
    what = record[13]
    second = record[14] if what >> 6 else -1
    third = record[15] if what >> 4 & 0b11 else -1
    return Entry(
        number=int.from_bytes(record[:2], "little"),
        seconds=int.from_bytes(record[3:7], "little"),
        sensor_type=record[10],
        sensor=record[11],
        reading_type=record[12] & 0x7F,
        asserted=not record[12] & 0x80,
        offset=what & 0x0F,
        detail=(second, third),
    )


def kind_of(entry: Entry, of_memory: bool) -> str | None:
    """What the entry says of memory, one of KINDS; `of_memory` is whether its temperature sensor is on memory."""
    if not entry.asserted:
        return None
    if entry.sensor_type == MEMORY and entry.reading_type == _SENSOR_SPECIFIC:
        return KINDS.get(entry.offset)
    too_hot = entry.reading_type == THRESHOLD and entry.offset in _GOING_HIGH
    return "over_temperature" if entry.sensor_type == TEMPERATURE and too_hot and of_memory else None


def _tell(name: str, kind: str, entry: Entry, sensor: Sensor | None) -> None:
    """A line on the eye's standard error, which is the agent's log."""
    on = f"sensor 0x{entry.sensor:02x}" if sensor is None else f"{sensor.name} (0x{entry.sensor:02x})"
    module = f", module {entry.detail[1]}" if entry.sensor_type == MEMORY and entry.detail[1] >= 0 else ""
    logging.getLogger(__name__).warning(
        "%s: event log: memory %s on %s%s, entry %d", name, kind, on, module, entry.number
    )
