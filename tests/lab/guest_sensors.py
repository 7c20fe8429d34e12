"""
Stages about sensors and frequency: DIMM sensors by the kernel's own driver on a stub of a bus, cpufreq through ACPI.

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
EEPROM, PAGES = "0x51", ("0x36", "0x37")  # of the second DIMM; writing to the latter chooses its page
KIND, SERIAL, PART = 0x02, 325 - 256, 329 - 256  # the stub has one page, so that the second one's bytes stand there too
CAPABILITY, UPPER, CRITICAL, TEMPERATURE, MAKER, DEVICE = 0x00, 0x02, 0x04, 0x05, 0x06, 0x07
POLICY = "/sys/devices/system/cpu/cpufreq/policy{}"
SETTLED = 1.2  # seconds; older kernels' jc42 keeps what it measured for one


def load() -> dict[str, Any]:
    """Modules, and two DIMMs of which the second has the lower critical limit."""
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
        with contextlib.suppress(OSError):  # the driver found it by itself
            observe.write(f"/sys/bus/i2c/devices/i2c-{bus()}/new_device", f"jc42 {address}")
    return {"bus": bus(), "kernel": os.uname().release}


def _modprobe(module: str, *options: str) -> None:
    observe.run("modprobe", "-d", os.environ["LAB_MODULES"], module, *options)


def bus() -> int:
    """The number of the stub's bus."""
    for path in Path("/sys/bus/i2c/devices").glob("i2c-*/name"):
        if path.read_text().startswith("SMBus stub"):
            return int(path.parent.name.removeprefix("i2c-"))
    raise RuntimeError("no stub of a bus in /sys/bus/i2c/devices")


def set_register(address: str, register: int, value: int) -> None:
    """Writes a word as i2cset sends it: the low byte first, so that the chip's big-endian words come swapped."""
    observe.run("i2cset", "-y", "-f", str(bus()), address, f"0x{register:02x}", f"0x{value:04x}", "w")


def set_celsius(address: str, register: int, celsius: float) -> None:
    """A temperature or limit, as the chip keeps it: thirteen bits, two's complement."""
    value = round(celsius * 16) & 0x1FFF
    set_register(address, register, (value & 0xFF) << 8 | value >> 8)


def dimms() -> dict[str, Any]:
    """Both DIMMs cool, one hot, one below freezing, one whose limits are unset; then a DIMM taken away and put back."""
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
    """The second DIMM's SPD through the kernel's ee1004, and the table of the machine's own firmware."""
    plate = bytes.fromhex(machine.SLOT["serial"]) + machine.SLOT["part"].encode().ljust(20)
    set_byte(KIND, 0x0C)
    for offset, value in enumerate(plate):
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
    """Frequencies under two governors, a limit set by hand, and how many passes it takes to see a change."""
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
