"""
Reads the memory entries of the BMC's System Event Log, from its end on, and never clears the log.

Sends one request in a pass without new entries. IPMI 2.0, sections 31, 32 and 42.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from collectors._dimm.memory_names import is_memory
from collectors._ipmi.client import NOT_PRESENT, Bmc, CompletionCodeError, IpmiRequest
from collectors._ipmi.sensor import MEMORY, TEMPERATURE, THRESHOLD, Sensor

_FIRST, _LAST = 0x0000, 0xFFFF
_MAX_ENTRIES = 64  # entries of one pass; the next pass reads the others
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
"""Kinds of a memory sensor's entries, by the entry's offset in table 42-3."""
_GOING_HIGH = (7, 9, 11)  # offsets of a threshold sensor: upper non-critical, critical, non-recoverable


class Entry(NamedTuple):
    """One entry; `offset` is the event, `detail` the event's second and third byte, -1 where unspecified."""

    number: int
    seconds: int
    sensor_type: int
    sensor: int
    reading_type: int
    asserted: bool
    offset: int
    detail: tuple[int, int]


class EventLog:
    """The position in the log, and the counts of entries since the first pass."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KINDS.values(), 0)
        self.entries: int | None = None
        self._info = b""
        self._erase_time = b""
        self._last_number: int | None = None
        self._has_backlog = False

    def count_new(self, bmc: Bmc, sensors: Iterable[Sensor]) -> None:
        """Counts and logs the new entries about memory. Raises BmcError and CompletionCodeError."""
        by_number = {sensor.number: sensor for sensor in sensors}
        for entry in self.read_new(bmc):
            sensor = by_number.get(entry.sensor)
            kind = classify_entry(entry, of_memory=sensor is not None and is_memory(sensor.name, sensor.entity_id))
            if kind is not None:
                self.counts[kind] += 1
                _log_entry(bmc.name, kind, entry, sensor)

    def read_new(self, bmc: Bmc) -> list[Entry]:
        """Returns the entries since the last pass; none in the first pass. Raises BmcError and CompletionCodeError."""
        if len(bmc.identity) > 5 and not bmc.identity[5] & 0b100:
            return []  # the BMC reports that it has no such log
        info = bmc.ask(IpmiRequest.GET_SEL_INFO, min_bytes=13)
        self.entries = int.from_bytes(info[1:3], "little")
        erase_time, has_begun = info[9:13], self._info != b""
        if has_begun and info == self._info and not self._has_backlog:
            return []
        if not has_begun:
            self._last_number = self._find_newest_number(bmc)
        elif erase_time != self._erase_time:
            self._last_number = None  # the log was cleared: all entries in it are new
        entries = self._read_following(bmc) if has_begun else []
        self._info, self._erase_time = info, erase_time
        return entries

    def _find_newest_number(self, bmc: Bmc) -> int | None:
        entry = self._read_entry(bmc, _LAST)
        return None if entry is None else int.from_bytes(entry[2:4], "little")

    def _read_following(self, bmc: Bmc) -> list[Entry]:
        next_number = _FIRST
        if self._last_number is not None:
            last_entry = self._read_entry(bmc, self._last_number)
            # The entry vanished without an erase: a full log has overwritten it and starts later now.
            next_number = _FIRST if last_entry is None else int.from_bytes(last_entry[:2], "little")
        records: list[bytes] = []
        while next_number != _LAST and len(records) < _MAX_ENTRIES:
            answer = self._read_entry(bmc, next_number)
            if answer is None:
                break
            next_number, self._last_number = int.from_bytes(answer[:2], "little"), int.from_bytes(answer[2:4], "little")
            records.append(answer[2:])
        self._has_backlog = len(records) == _MAX_ENTRIES
        return [entry for entry in map(parse_entry, records) if entry is not None]

    def _read_entry(self, bmc: Bmc, number: int) -> bytes | None:
        """Returns the id of the next entry and the entry itself, 18 bytes; None where there is no such entry."""
        try:
            return bmc.ask(
                IpmiRequest.GET_SEL_ENTRY, bytes((0, 0, *number.to_bytes(2, "little"), 0, 0xFF)), min_bytes=18
            )
        except CompletionCodeError as error:
            if error.code != NOT_PRESENT:
                raise
            return None


def parse_entry(record: bytes) -> Entry | None:
    """Parses an entry of the standard kind; returns None for those that only their vendor can read."""
    if record[2] != _SYSTEM_EVENT:
        return None
    flags = record[13]
    second = record[14] if flags >> 6 else -1
    third = record[15] if flags >> 4 & 0b11 else -1
    return Entry(
        number=int.from_bytes(record[:2], "little"),
        seconds=int.from_bytes(record[3:7], "little"),
        sensor_type=record[10],
        sensor=record[11],
        reading_type=record[12] & 0x7F,
        asserted=not record[12] & 0x80,
        offset=flags & 0x0F,
        detail=(second, third),
    )


def classify_entry(entry: Entry, of_memory: bool) -> str | None:
    """Returns the entry's kind, one of KINDS, or None; `of_memory`: its temperature sensor is on memory."""
    if not entry.asserted:
        return None
    if entry.sensor_type == MEMORY and entry.reading_type == _SENSOR_SPECIFIC:
        return KINDS.get(entry.offset)
    too_hot = entry.reading_type == THRESHOLD and entry.offset in _GOING_HIGH
    return "over_temperature" if entry.sensor_type == TEMPERATURE and too_hot and of_memory else None


def _log_entry(name: str, kind: str, entry: Entry, sensor: Sensor | None) -> None:
    """Writes a line to the eye's standard error, which is the agent's log."""
    sensor_text = f"sensor 0x{entry.sensor:02x}" if sensor is None else f"{sensor.name} (0x{entry.sensor:02x})"
    module_text = f", module {entry.detail[1]}" if entry.sensor_type == MEMORY and entry.detail[1] >= 0 else ""
    logging.getLogger(__name__).warning(
        "%s: event log: memory %s on %s%s, entry %d", name, kind, sensor_text, module_text, entry.number
    )
