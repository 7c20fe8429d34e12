"""The hardware of the service machine: a memory module with a sensor on the stub of an I2C bus, and a BMC."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tests.lab.guest_host import run_program, wait_until

DIMM, CAPABILITY, CRITICAL, TEMPERATURE, MAKER, DEVICE = "0x18", 0x00, 0x04, 0x05, 0x06, 0x07
EEPROM, PAGES = "0x50", "0x36,0x37"  # its SPD; the stub has one page, so the second page reads the same bytes
SERIAL_NUMBER = "3A2B1C0E"  # as in machine.SLOT
SPD = {0x02: 0x0C, **dict(zip(range(325 - 256, 329 - 256), bytes.fromhex(SERIAL_NUMBER), strict=True))}


def add_dimm() -> None:
    """Adds a memory module at 45 °C, with a critical limit of 95 °C and its serial number in its SPD."""
    for name in ("i2c-dev", "ee1004"):
        run_program("modprobe", name)
    run_program("modprobe", "i2c-stub", f"chip_addr={DIMM},{EEPROM},{PAGES}")
    for number, value in ((CAPABILITY, 0x7F00), (MAKER, 0xB311), (DEVICE, 0x0029), (CRITICAL, 0xF005)):
        _write_register(number, value)
    set_temperature(45.0)
    for number, value in SPD.items():
        _write_register(number, value, EEPROM, "b")
    _add_device("ee1004", EEPROM)
    run_program("systemd-tmpfiles", "--create", "steadytok.conf")  # as at a boot with the driver loaded
    run_program("modprobe", "jc42")
    _add_device("jc42", DIMM)


def set_temperature(celsius: float) -> None:
    """Sets the temperature that the module measures: sixteenths of a degree, bytes swapped."""
    value = round(celsius * 16) & 0x1FFF
    _write_register(TEMPERATURE, (value & 0xFF) << 8 | value >> 8)


def _write_register(number: int, value: int, address: str = DIMM, size: str = "w") -> None:
    """Writes a word of the module, or a byte of its SPD."""
    done = run_program("i2cset", "-y", "-f", str(_find_bus()), address, f"0x{number:02x}", f"0x{value:02x}", size)
    assert done["status"] == 0, done


def _find_bus() -> int:
    """Returns the number of the stub's bus."""
    for path in Path("/sys/bus/i2c/devices").glob("i2c-*/name"):
        if path.read_text().startswith("SMBus stub"):
            return int(path.parent.name.removeprefix("i2c-"))
    raise RuntimeError("no stub of a bus in /sys/bus/i2c/devices")


def _add_device(driver: str, address: str) -> None:
    with contextlib.suppress(OSError):  # the driver has found the device already
        Path(f"/sys/bus/i2c/devices/i2c-{_find_bus()}/new_device").write_text(f"{driver} {address}")


def load_bmc_drivers() -> dict[str, Any]:
    """Loads the drivers of the BMC, which udev has not loaded at boot; returns its group and mode."""
    for name in ("ipmi_si", "ipmi_devintf"):
        run_program("modprobe", name)
    device = wait_until("/dev/ipmi0", lambda: Path("/dev/ipmi0").exists() and Path("/dev/ipmi0"))
    wait_until("udev's rule", lambda: device.stat().st_gid != 0, 10.0)
    return {"group": device.group(), "mode": oct(device.stat().st_mode & 0o777)}
