"""A BMC in this process whose answers a test scripts, invalid ones too; its records are the simulator's sensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.bmc import SimulatedSensor
from collectors._ipmi.client import BmcError, IpmiRequest

Answer = tuple[int, bytes]
_LAST = 0xFFFF


class ScriptedBmc:
    """Answers every request of the collector; `asked` records them, `instead` holds the answers that a test scripts."""

    def __init__(self, sensors: Sequence[SimulatedSensor]) -> None:
        self.records = [sensor.encode_record(number, number) for number, sensor in enumerate(sensors, 1)]
        self.readings = {number: bytes((sensor.raw, 0xC0, 0xC0)) for number, sensor in enumerate(sensors, 1)}
        self.log: list[bytes] = []
        self.erased_at = 0
        self.added_at = 1000
        self.max_part_bytes = 0xFF
        self.has_timestamps = True
        self.requests: list[tuple[IpmiRequest, bytes]] = []
        self.answers: dict[IpmiRequest, Callable[[bytes], Answer]] = {}
        self.is_silent = False
        self.close_count = 0
        self.identity = bytes.fromhex("20 81 03 09 02 9f 91 12 00 02 0f")

    def ask(self, netfn: int, command: int, data: bytes, lun: int) -> Answer:
        request = IpmiRequest((netfn, command))
        self.requests.append((request, data))
        if self.is_silent:
            raise BmcError("no answer within 5 s")
        if request in self.answers:
            return self.answers[request](data)
        return getattr(self, f"_{request.name.lower()}")(data)  # type: ignore[no-any-return]  # one method for each

    def close(self) -> None:
        self.close_count += 1

    def count(self, request: IpmiRequest) -> int:
        """Counts the requests of that kind since the last call of `forget`."""
        return sum(1 for seen_request, _ in self.requests if seen_request is request)

    def clear_requests(self) -> None:
        """Clears the recorded requests."""
        self.requests.clear()

    def add_events(self, *events: bytes) -> None:
        """Adds entries to the event log; each is sensor type, sensor number, event type and three bytes of data."""
        for event in events:
            number = len(self.log) + 1
            self.log.append(bytes((number & 0xFF, number >> 8, 2, 1, 2, 3, 4, 0x20, 0, 4)) + event)
            self.added_at += 1

    def _get_device_id(self, _data: bytes) -> Answer:
        return 0, self.identity

    def _get_sdr_repository_info(self, _data: bytes) -> Answer:
        stamps = (self.added_at.to_bytes(4, "little") + bytes(4)) if self.has_timestamps else b"\xff" * 8
        return 0, bytes((0x51, len(self.records), 0, 0xFF, 0xFF)) + stamps + b"\x02"

    def _reserve_sdr_repository(self, _data: bytes) -> Answer:
        return 0, b"\x01\x00"

    def _get_sdr(self, data: bytes) -> Answer:
        number, offset, count = int.from_bytes(data[2:4], "little"), data[4], data[5]
        index = max(number, 1) - 1
        record = self.records[index]
        following = index + 2 if index + 1 < len(self.records) else _LAST
        part = record[offset:] if count == 0xFF else record[offset : offset + count]
        if len(part) > self.max_part_bytes:
            return 0xCA, b""
        return 0, following.to_bytes(2, "little") + part

    def _get_sensor_reading(self, data: bytes) -> Answer:
        reading = self.readings.get(data[0])
        return (0xCB, b"") if reading is None else (0, reading)

    def _get_sel_info(self, _data: bytes) -> Answer:
        stamps = self.added_at.to_bytes(4, "little") + self.erased_at.to_bytes(4, "little")
        return 0, bytes((0x51, len(self.log), 0, 0, 0)) + stamps + b"\x02"

    def _get_sel_entry(self, data: bytes) -> Answer:
        number = int.from_bytes(data[2:4], "little")
        numbers = [int.from_bytes(entry[:2], "little") for entry in self.log]
        index = 0 if number == 0 else len(numbers) - 1 if number == _LAST else -1
        if number in numbers:
            index = numbers.index(number)
        if index < 0 or not numbers:
            return 0xCB, b""
        following = numbers[index + 1] if index + 1 < len(numbers) else _LAST
        return 0, following.to_bytes(2, "little") + self.log[index]
