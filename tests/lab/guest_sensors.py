"""
Reads DIMM sensors through the kernel's own driver on the stub of an I2C bus, and CPU frequencies through ACPI.

The registers are those of JEDEC's TSE2002: big-endian words, temperatures in sixteenths of a degree.
https://docs.kernel.org/i2c/i2c-stub.html, https://docs.kernel.org/hwmon/jc42.html
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from collectors import Host, dimm, dmi, hwmon
from collectors import cpufreq as frequency
from tests.lab import machine, observe

DIMMS = ("0x18", "0x19")
EEPROM, PAGES = "0x51", ("0x36", "0x37")  # of the second DIMM; a write to PAGES selects its page
KIND, SERIAL, PART = 0x02, 325 - 256, 329 - 256  # the stub has one page, so the second page reads the same bytes
CAPABILITY, UPPER, CRITICAL, TEMPERATURE, MAKER, DEVICE = 0x00, 0x02, 0x04, 0x05, 0x06, 0x07
POLICY = "/sys/devices/system/cpu/cpufreq/policy{}"
SETTLED = 1.2  # seconds; jc42 of older kernels caches its measurement for one


def load() -> dict[str, Any]:
    """Loads the modules, and adds two DIMMs; the second has the lower critical limit."""
    for module in ("i2c-dev", "acpi-cpufreq", "cpufreq_powersave"):
        _modprobe(module)
    _modprobe("i2c-stub", f"chip_addr={','.join((*DIMMS, EEPROM, *PAGES))}")
    for address, critical in zip(DIMMS, (95.0, 80.0), strict=True):
        set_register(address, CAPABILITY, 0x7F00)
        set_register(address, MAKER, 0xB311)
        set_register(address, DEVICE, 0x0029)
        set_celsius(address, TEMPERATURE, 45.0)
        set_celsius(address, UPPER, 75.0)
        set_celsius(address, CRITICAL, critical)
    _modprobe("jc42")
    for address in DIMMS:
        with contextlib.suppress(OSError):  # the driver has found the device already
            observe.write(f"/sys/bus/i2c/devices/i2c-{bus()}/new_device", f"jc42 {address}")
    return {"bus": bus(), "kernel": os.uname().release}


def _modprobe(module: str, *options: str) -> None:
    observe.run("modprobe", "-d", os.environ["LAB_MODULES"], module, *options)


def bus() -> int:
    """Returns the number of the stub's bus."""
    for path in Path("/sys/bus/i2c/devices").glob("i2c-*/name"):
        if path.read_text().startswith("SMBus stub"):
            return int(path.parent.name.removeprefix("i2c-"))
    raise RuntimeError("no stub of a bus in /sys/bus/i2c/devices")


def set_register(address: str, register: int, value: int) -> None:
    """Writes a word; i2cset sends the low byte first, so the chip's big-endian words are swapped."""
    observe.run("i2cset", "-y", "-f", str(bus()), address, f"0x{register:02x}", f"0x{value:04x}", "w")


def set_celsius(address: str, register: int, celsius: float) -> None:
    """Writes a temperature or limit in the chip's format: thirteen bits, two's complement."""
    value = round(celsius * 16) & 0x1FFF
    set_register(address, register, (value & 0xFF) << 8 | value >> 8)


def dimms() -> dict[str, Any]:
    """Reads both DIMMs cool, one hot, one below freezing; then removes a DIMM and adds it again."""
    host = Host("/")
    results = {"cool": _dimms(host)}
    for name, celsius in (("hot", 88.25), ("cold", -5.5), ("cool_again", 45.0)):
        set_celsius(DIMMS[0], TEMPERATURE, celsius)
        time.sleep(SETTLED)
        results[name] = _dimms(host)
    device = f"/sys/bus/i2c/devices/i2c-{bus()}"
    observe.write(f"{device}/delete_device", DIMMS[1])
    results["one_left"] = _dimms(host)
    observe.write(f"{device}/new_device", f"jc42 {DIMMS[1]}")
    return {**results, "both_again": _dimms(host), "bus": bus()}


def _dimms(host: Host) -> dict[str, Any]:
    samples = [sample for sample in hwmon.collect(host, hwmon.Config()) if sample is not None]
    table = [sample for sample in dmi.collect(host) if sample is not None]
    results = observe.series([*samples, *dimm.join({"dmi": table, "hwmon": samples}, host)])
    return {"series": results, "notes": [list(note) for note in host.take_notes()]}


def modules() -> dict[str, Any]:
    """Reads the second DIMM's SPD through the kernel's ee1004, and the table of the machine's own firmware."""
    spd_bytes = bytes.fromhex(machine.SLOT["serial"]) + machine.SLOT["part"].encode().ljust(20)
    set_byte(KIND, 0x0C)
    for offset, value in enumerate(spd_bytes):
        set_byte(SERIAL + offset, value)
    before = _dimms(Host("/"))
    _modprobe("ee1004")
    observe.write(f"/sys/bus/i2c/devices/i2c-{bus()}/new_device", f"ee1004 {EEPROM}")
    printed = observe.run(sys.executable, "-m", "agent", "collect", "dimm", "dmi")
    return {"before": before, "after": _dimms(Host("/")), "printed": printed.stdout, "bus": bus()}


def set_byte(register: int, value: int) -> None:
    """Writes a byte of the SPD."""
    observe.run("i2cset", "-y", "-f", str(bus()), EEPROM, f"0x{register:02x}", f"0x{value:02x}", "b")


def cpufreq() -> dict[str, Any]:
    """Reads frequencies under two governors and a manual limit; counts the passes until a change is read."""
    policies = sorted(Path(POLICY.format("")).parent.glob("policy*"))
    host = Host("/")
    results: dict[str, Any] = {"policies": len(policies), "before": observe.collect(frequency, host)}
    for policy in policies:
        observe.write(f"{policy}/scaling_governor", "powersave")
    time.sleep(0.2)
    results["powersave"] = observe.collect(frequency)
    results["passes_until_seen"] = _passes(host, 'governor="powersave"', len(policies))
    observe.write(f"{policies[0]}/scaling_max_freq", "2400000")
    for policy in policies:
        observe.write(f"{policy}/scaling_governor", "performance")
    time.sleep(0.2)
    results["limited"] = observe.collect(frequency)
    observe.write(f"{policies[0]}/scaling_max_freq", "3200000")
    results["files"] = {
        f"{policy.name}/{file}": observe.read_text(f"{policy}/{file}").strip()
        for policy in policies
        for file in ("scaling_driver", "scaling_governor", "cpuinfo_max_freq", "related_cpus")
    }
    return results


def _passes(host: Host, label: str, policies: int) -> int:
    for turn in range(1, 13):
        series = observe.collect(frequency, host)
        if any(label in name and value == policies for name, value in series.items()):
            return turn
    return sys.maxsize
