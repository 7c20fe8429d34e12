"""
The BMC's list of sensors, its Sensor Data Records: read once, kept on the shelf, read again when it has changed.

Reading it costs one to eight requests for each of 50 to 500 records, 10 s and more on many BMCs: a pass reads as much
as it has time for, and the next one goes on. IPMI 2.0, sections 33 and 35. pyghmi's own reader has no end where a BMC
answers nonsense, and its cache ignores which of two equal BMCs it is talking to (docs/upstream.md).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from collectors._host.host import Host
from collectors._ipmi.client import Bmc, BmcError, CodeError, Request
from collectors._ipmi.sensor import Sensor, parse_sensor

_SHELF = "ipmi-sdr.json"
_END = 0xFFFF
_MOST = 4096  # records; more than any BMC has
_WHOLE = 0xFF  # "read the entire record"
_HEADER = 5  # bytes of a record: id, version, type, and the length of the rest
_HALF, _LEAST = 64, 8  # bytes of a part where a whole record is too much for one answer, and where parts of that are
_TRIES = 10  # for one record, with a new reservation or with smaller parts
_RESERVATION_LOST = 0xC5
_TOO_MUCH = frozenset({0xC7, 0xC8, 0xCA, 0xFF})  # how BMCs say that a whole record does not fit into one answer
_UNDATED = (b"\x00" * 4, b"\xff" * 4)


class _Requests(NamedTuple):
    info: Request
    reserve: Request
    get: Request


_REPOSITORY = _Requests(Request.GET_SDR_REPOSITORY_INFO, Request.RESERVE_SDR_REPOSITORY, Request.GET_SDR)
_DEVICE = _Requests(Request.GET_DEVICE_SDR_INFO, Request.RESERVE_DEVICE_SDR, Request.GET_DEVICE_SDR)


class Listed(msgspec.Struct):
    """The records read so far of the list with this key; `next` is the id that follows, 0xFFFF when all are there."""

    key: str
    records: list[tuple[int, str]] = []
    next: int = 0


class Repository:
    """What is known of a BMC's sensors, from pass to pass."""

    def __init__(self) -> None:
        self._listed = Listed("")
        self._dated = True
        self._sensors: tuple[Sensor, ...] | None = None
        self._faults: tuple[tuple[str, str], ...] = ()
        self._part = _WHOLE
        self._reservation = b""

    def sensors(self, host: Host, bmc: Bmc, until: float) -> tuple[Sensor, ...] | None:
        """
        All sensors, or None where the list is not read to its end by then; notes of its faults.

        One request where nothing has changed. Raises BmcError and CodeError.
        """
        requests = _REPOSITORY if bmc.identity[5] & 0b10 or not bmc.identity[1] & 0x80 else _DEVICE
        info = bmc.ask(requests.info, least=2)
        key = f"{bmc.name} {bmc.identity.hex()} {info.hex()}"
        if self._listed.key != key:
            self._dated = _is_dated(requests, info)
            self._begin(host, key)
        if self._sensors is None:
            self._go_on(host, bmc, requests, until)
        for fault in self._faults:
            host.note(*fault)
        if self._sensors is None:
            return host.note(f"{bmc.name} SDR", "is being read for the first time; the next pass goes on")
        return self._sensors

    def forget_undated(self) -> None:
        """After a new log-in: a list without a time stamp may be another one now."""
        if not self._dated:
            self._listed = Listed("")

    def _begin(self, host: Host, key: str) -> None:
        self._sensors, self._faults, self._listed, self._reservation = None, (), Listed(key), b""
        told = host.shelf.get(_SHELF) if self._dated else None
        if told is not None:
            try:
                kept = msgspec.json.decode(told, type=Listed)
            except msgspec.MsgspecError:
                return  # half a file is none
            self._listed = kept if kept.key == key else self._listed

    def _go_on(self, host: Host, bmc: Bmc, requests: _Requests, until: float) -> None:
        listed = self._listed
        before = len(listed.records)
        try:
            while listed.next != _END and time.monotonic() < until:
                self._take(listed, *self._record(bmc, requests, listed.next))
        finally:
            if len(listed.records) > before:
                host.shelf.put(_SHELF, msgspec.json.encode(listed).decode())
        if listed.next == _END:
            self._sensors, self._faults = _parsed(bmc.name, listed.records)

    @staticmethod
    def _take(listed: Listed, record: bytes, following: int) -> None:
        known = {number for number, _ in listed.records}
        listed.records.append((listed.next, record.hex()))
        if following != _END and (following in known or following == listed.next or len(known) > _MOST):
            listed.records.clear()
            listed.next = 0
            raise BmcError(f"its SDR has no end: record 0x{following:04X} comes again")
        listed.next = following

    def _record(self, bmc: Bmc, requests: _Requests, number: int) -> tuple[bytes, int]:
        """A record, and the id of the next; as much of it at a time as the BMC has shown that it can give."""
        for _ in range(_TRIES):
            try:
                return self._whole(bmc, requests, number) if self._part > _HALF else self._parts(bmc, requests, number)
            except CodeError as error:
                if error.code == _RESERVATION_LOST:
                    self._reservation = b""
                elif error.code in _TOO_MUCH and self._part > _LEAST:
                    self._part = min(self._part // 2, _HALF)
                else:
                    raise
        raise BmcError("its SDR changes faster than it can be read")

    def _whole(self, bmc: Bmc, requests: _Requests, number: int) -> tuple[bytes, int]:
        answer = bmc.ask(requests.get, _place(b"\0\0", number, 0, _WHOLE), least=2 + _HEADER)
        if len(answer) < 2 + _HEADER + answer[6]:  # cut short, and not a word said
            self._part = _HALF
            return self._parts(bmc, requests, number)
        return answer[2:], int.from_bytes(answer[:2], "little")

    def _parts(self, bmc: Bmc, requests: _Requests, number: int) -> tuple[bytes, int]:
        if not self._reservation:
            self._reservation = bmc.ask(requests.reserve, least=2)[:2]
        answer = bmc.ask(requests.get, _place(self._reservation, number, 0, _HEADER), least=2 + _HEADER)
        following, record = int.from_bytes(answer[:2], "little"), answer[2 : 2 + _HEADER]
        whole = _HEADER + record[4]
        while len(record) < whole:
            count = min(self._part, whole - len(record))
            part = bmc.ask(requests.get, _place(self._reservation, number, len(record), count), least=3)
            record += part[2 : 2 + count]
        return record, following


def _place(reservation: bytes, number: int, offset: int, count: int) -> bytes:
    return reservation + number.to_bytes(2, "little") + bytes((offset, count))


def _is_dated(requests: _Requests, info: bytes) -> bool:
    """Whether a change of the list shows in `info`: time of the last addition and erase, or the device's indicator."""
    if requests is _DEVICE:
        return len(info) >= 6 and bool(info[1] & 0x80)
    return info[5:9] not in _UNDATED or info[9:13] not in _UNDATED


def _parsed(name: str, records: list[tuple[int, str]]) -> tuple[tuple[Sensor, ...], tuple[tuple[str, str], ...]]:
    """The sensors of the records, and what is wrong with the others."""
    sensors: dict[tuple[int, int, int], Sensor] = {}
    faults = []
    for number, record in records:
        try:
            sensor = parse_sensor(bytes.fromhex(record))
        except ValueError as error:
            faults.append((f"{name} SDR 0x{number:04X}", str(error)))
            continue
        if sensor is None:
            continue
        first = sensors.setdefault((sensor.owner, sensor.lun, sensor.number), sensor)
        if first != sensor:
            faults.append((f"{name} {sensor.name}", f"has the number of {first.name}, which is read in its place"))
    return tuple(sensors.values()), tuple(faults)
