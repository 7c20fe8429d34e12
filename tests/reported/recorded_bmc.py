"""Records a BMC and the firmware's table of slots as files of a machine, for tests of vendors' names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.bmc import SimulatedSensor
from tests.machines.smbios import END, encode_memory_device

_DEVICE_ID = "06 01 00: 00 20 81 03 09 02 9f 91 12 00 02 0f"
_REPOSITORY = "0a 20 00: 00 51 {count} 00 ff ff 01 02 03 04 00 00 00 00 02"
_RESERVATION = "0a 22 00: 00 01 00"
_EMPTY_LOG = "0a 40 00: 00 51 00 00 00 00 00 00 00 00 00 00 00 00 02"


def write_bmc(root: Path, sensors: Sequence[SimulatedSensor]) -> None:
    """Writes dev/ipmi0: the answers of a BMC that has these sensors, each with its raw reading, and an empty log."""
    lines = [_DEVICE_ID, _REPOSITORY.format(count=f"{len(sensors):02x}"), _RESERVATION, _EMPTY_LOG]
    for index, sensor in enumerate(sensors):
        next_id = f"{index + 1:02x} 00" if index + 1 < len(sensors) else "ff ff"
        record = sensor.encode_record(index + 1, index).hex(" ")
        lines.append(f"0a 23 00 00 00 {index:02x} 00 00 ff: 00 {next_id} {record}")
        lines.append(f"04 2d 00 {index + 1:02x}: 00 {sensor.raw:02x} c0 c0")
    path = root / "dev/ipmi0"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_slots(root: Path, *slots: tuple[str, str]) -> None:
    """Writes the firmware's table: slots by locator and bank, each with a module."""
    table = [encode_memory_device(0x20 + number, *slot, kind=0x22) for number, slot in enumerate(slots)]
    path = root / "sys/firmware/dmi/tables/DMI"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((*table, END)))
