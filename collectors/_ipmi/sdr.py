"""
Reads the BMC's list of sensors (Sensor Data Records) once, caches it, and reads it again after a change.

The list has 50 to 500 records of one to eight requests each, which takes 10 s and more on many BMCs. A pass reads as
many records as it has time for, and the next pass continues. IPMI 2.0, sections 33 and 35.

pyghmi's own reader loops for ever where a BMC answers nonsense, and its cache mixes up two BMCs of one model
(docs/upstream.md).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from collectors._host.host import Host
from collectors._ipmi.client import Bmc, BmcError, CompletionCodeError, IpmiRequest
from collectors._ipmi.sensor import Sensor, parse_sensor

_CACHE_NAME = "ipmi-sdr.json"
_END = 0xFFFF
_MAX_RECORDS = 4096  # records; more than any BMC has
_WHOLE_RECORD = 0xFF  # "read the entire record"
_HEADER = 5  # bytes of a record: id, version, type, and the length of the rest
_MAX_PART, _MIN_PART = (
    64,
    8,
)  # bytes of a part where one answer cannot hold a whole record; where even that fails
_MAX_TRIES = 10  # for one record, with a new reservation or with smaller parts
_RESERVATION_LOST = 0xC5
_TOO_LARGE = frozenset({0xC7, 0xC8, 0xCA, 0xFF})  # BMCs' codes for a record too large for one answer
_UNDATED = (b"\x00" * 4, b"\xff" * 4)


class _Requests(NamedTuple):
    info: IpmiRequest
    reserve: IpmiRequest
    get: IpmiRequest


_REPOSITORY = _Requests(IpmiRequest.GET_SDR_REPOSITORY_INFO, IpmiRequest.RESERVE_SDR_REPOSITORY, IpmiRequest.GET_SDR)
_DEVICE = _Requests(IpmiRequest.GET_DEVICE_SDR_INFO, IpmiRequest.RESERVE_DEVICE_SDR, IpmiRequest.GET_DEVICE_SDR)


class SensorRecords(msgspec.Struct):
    """The records read so far of the list with this key; `next` is the id that follows, 0xFFFF after the last one."""

    key: str
    records: list[tuple[int, str]] = []
    next: int = 0


class Repository:
    """The state of a BMC's sensor list from pass to pass."""

    def __init__(self) -> None:
        self._records = SensorRecords("")
        self._has_timestamp = True
        self._sensors: tuple[Sensor, ...] | None = None
        self._faults: tuple[tuple[str, str], ...] = ()
        self._part_size = _WHOLE_RECORD
        self._reservation = b""

    def read_sensors(self, host: Host, bmc: Bmc, deadline: float) -> tuple[Sensor, ...] | None:
        """
        Returns all sensors, or None where the deadline ends before the list; notes the list's faults.

        Sends one request where nothing has changed. Raises BmcError and CompletionCodeError.
        """
        requests = _REPOSITORY if bmc.identity[5] & 0b10 or not bmc.identity[1] & 0x80 else _DEVICE
        info = bmc.ask(requests.info, min_bytes=2)
        key = f"{bmc.name} {bmc.identity.hex()} {info.hex()}"
        if self._records.key != key:
            self._has_timestamp = _has_timestamp(requests, info)
            self._begin(host, key)
        if self._sensors is None:
            self._continue_reading(host, bmc, requests, deadline)
        for fault in self._faults:
            host.note(*fault)
        if self._sensors is None:
            return host.note(f"{bmc.name} SDR", "is being read for the first time; the next pass continues")
        return self._sensors

    def forget_undated(self) -> None:
        """Forgets, after a new log-in, a list without a time stamp, since it may have changed."""
        if not self._has_timestamp:
            self._records = SensorRecords("")

    def _begin(self, host: Host, key: str) -> None:
        self._sensors, self._faults, self._records, self._reservation = None, (), SensorRecords(key), b""
        text = host.cache.get(_CACHE_NAME) if self._has_timestamp else None
        if text is not None:
            try:
                cached = msgspec.json.decode(text, type=SensorRecords)
            except msgspec.MsgspecError:
                return  # a damaged cache counts as absent
            self._records = cached if cached.key == key else self._records

    def _continue_reading(self, host: Host, bmc: Bmc, requests: _Requests, deadline: float) -> None:
        sensor_records = self._records
        count_before = len(sensor_records.records)
        try:
            while sensor_records.next != _END and time.monotonic() < deadline:
                self._append_record(sensor_records, *self._read_record(bmc, requests, sensor_records.next))
        finally:
            if len(sensor_records.records) > count_before:
                host.cache.put(_CACHE_NAME, msgspec.json.encode(sensor_records).decode())
        if sensor_records.next == _END:
            self._sensors, self._faults = _parse_sensors(bmc.name, sensor_records.records)

    @staticmethod
    def _append_record(sensor_records: SensorRecords, record: bytes, next_id: int) -> None:
        record_ids = {number for number, _ in sensor_records.records}
        sensor_records.records.append((sensor_records.next, record.hex()))
        if next_id != _END and (
            next_id in record_ids or next_id == sensor_records.next or len(record_ids) > _MAX_RECORDS
        ):
            sensor_records.records.clear()
            sensor_records.next = 0
            raise BmcError(f"its SDR has no end: record 0x{next_id:04X} comes again")
        sensor_records.next = next_id

    def _read_record(self, bmc: Bmc, requests: _Requests, number: int) -> tuple[bytes, int]:
        """Returns a record and the id of the next, in parts as large as this BMC has proved able to send."""
        for _ in range(_MAX_TRIES):
            try:
                return (
                    self._read_whole_record(bmc, requests, number)
                    if self._part_size > _MAX_PART
                    else self._read_record_in_parts(bmc, requests, number)
                )
            except CompletionCodeError as error:
                if error.code == _RESERVATION_LOST:
                    self._reservation = b""
                elif error.code in _TOO_LARGE and self._part_size > _MIN_PART:
                    self._part_size = min(self._part_size // 2, _MAX_PART)
                else:
                    raise
        raise BmcError("its SDR changes faster than it can be read")

    def _read_whole_record(self, bmc: Bmc, requests: _Requests, number: int) -> tuple[bytes, int]:
        answer = bmc.ask(requests.get, _encode_request(b"\0\0", number, 0, _WHOLE_RECORD), min_bytes=2 + _HEADER)
        if len(answer) < 2 + _HEADER + answer[6]:  # the BMC cut it short without an error
            self._part_size = _MAX_PART
            return self._read_record_in_parts(bmc, requests, number)
        return answer[2:], int.from_bytes(answer[:2], "little")

    def _read_record_in_parts(self, bmc: Bmc, requests: _Requests, number: int) -> tuple[bytes, int]:
        if not self._reservation:
            self._reservation = bmc.ask(requests.reserve, min_bytes=2)[:2]
        answer = bmc.ask(requests.get, _encode_request(self._reservation, number, 0, _HEADER), min_bytes=2 + _HEADER)
        next_id, record = int.from_bytes(answer[:2], "little"), answer[2 : 2 + _HEADER]
        length = _HEADER + record[4]
        while len(record) < length:
            count = min(self._part_size, length - len(record))
            part = bmc.ask(requests.get, _encode_request(self._reservation, number, len(record), count), min_bytes=3)
            record += part[2 : 2 + count]
        return record, next_id


def _encode_request(reservation: bytes, number: int, offset: int, count: int) -> bytes:
    return reservation + number.to_bytes(2, "little") + bytes((offset, count))


def _has_timestamp(requests: _Requests, info: bytes) -> bool:
    """Returns True where `info` reveals changes: times of the last addition and erase, or the device's indicator."""
    if requests is _DEVICE:
        return len(info) >= 6 and bool(info[1] & 0x80)
    return info[5:9] not in _UNDATED or info[9:13] not in _UNDATED


def _parse_sensors(name: str, records: list[tuple[int, str]]) -> tuple[tuple[Sensor, ...], tuple[tuple[str, str], ...]]:
    """Returns the sensors of the records, and (subject, fault) of the other records."""
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
            faults.append((f"{name} {sensor.name}", f"has the same number as {first.name}, which is read instead"))
    return tuple(sensors.values()), tuple(faults)
