"""Records a BMC and the firmware's table of slots as files of a machine, for tests of vendors' names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from bench.bmc import SimulatedSensor
from tests.machines.smbios import END, encode_memory_device

_DEVICE_ID = "06 01 00: 00 20 81 03 09 02 9f 91 12 00 02 0f"
_REPOSITORY = "0a 20 00: 00 51 {count} 00 ff ff 01 02 03 04 00 00 00 00 02"
_RESERVATION = "0a 22 00: 00 01 00"
_EMPTY_LOG = "0a 40 00: 00 51 00 00 00 00 00 00 00 00 00 00 00 00 02"


def write_bmc(
    root: Path, sensors: Sequence[SimulatedSensor], absent: Collection[str] = (), discrete: Sequence[str] = ()
) -> None:
    """
    Writes dev/ipmi0: the answers of a BMC that has these sensors, each with its raw reading, and an empty log.

    Sensors in `absent` have no reading; those in `discrete` are states of memory modules, in compact records.
    """
    records = [sensor.encode_record(number, number - 1) for number, sensor in enumerate(sensors, 1)]
    records += [_encode_state(name, number) for number, name in enumerate(discrete, len(sensors) + 1)]
    answers = [f"{sensor.raw:02x} {'e0' if sensor.name in absent else 'c0'} c0" for sensor in sensors]
    answers += ["00 c0 40 80"] * len(discrete)  # the state "presence detected"
    lines = [_DEVICE_ID, _REPOSITORY.format(count=f"{len(records):02x}"), _RESERVATION, _EMPTY_LOG]
    for index, (record, answer) in enumerate(zip(records, answers, strict=True)):
        next_id = f"{index + 1:02x} 00" if index + 1 < len(records) else "ff ff"
        lines.append(f"0a 23 00 00 00 {index:02x} 00 00 ff: 00 {next_id} {record.hex(' ')}")
        lines.append(f"04 2d 00 {index + 1:02x}: 00 {answer}")
    path = root / "dev/ipmi0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _encode_state(name: str, number: int) -> bytes:
    """Encodes a Compact Sensor Record of a memory module's states; IPMI 2.0, table 43-2."""
    body = bytes((0x20, 0x00, number, 0x20, number, 0x00, 0x00, 0x0C, 0x6F)).ljust(26, b"\0")
    text = bytes((0xC0 | len(name),)) + name.encode()
    return bytes((number - 1, 0x00, 0x51, 0x02, len(body + text))) + body + text


def write_slots(root: Path, *slots: tuple[str, str]) -> None:
    """Writes the firmware's table: slots by locator and bank, each with a module."""
    table = [encode_memory_device(0x20 + number, *slot, kind=0x22) for number, slot in enumerate(slots)]
    path = root / "sys/firmware/dmi/tables/DMI"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((*table, END)))
