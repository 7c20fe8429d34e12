"""
Temperatures with their limits, and fan speeds, of the configured sensor chips.

Reads sys/class/hwmon/hwmon*/{name,temp*,fan*}. https://docs.kernel.org/hwmon/sysfs-interface.html

Only configured chips are read, since some take seconds, or answer through the BMC (node_exporter #903, #2242). Alarm
files are never read, because reading clears them for everybody (https://docs.kernel.org/hwmon/spd5118.html). DIMM
sensors share their bus with the firmware, and jc42 measures at most once a second. Names, labels and limits are
therefore read only once a minute. Each chip has its own time budget, so a bus that hangs delays only its own chips.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from collectors import Host, Metric, Reading, gauge
from collectors._dimm.memory_names import MODULE_CHIPS
from collectors._dimm.spd import ModuleIdentity, read_module_identity
from collectors._host.timed_reads import TimedReader

INTERVAL = 2.0
DEADLINE = 1.5
ISOLATED = True

TEMPERATURE = gauge("steadytok_hwmon_temperature_celsius", "Temperature that a sensor measures now.")
MAXIMUM = gauge(
    "steadytok_hwmon_temperature_max_celsius",
    "The chip's high limit, read again every minute; the 55 °C of an spd5118 are a factory default.",
)
CRITICAL = gauge("steadytok_hwmon_temperature_critical_celsius", "The chip's critical limit, read again every minute.")
FAN = gauge("steadytok_hwmon_fan_rpm", "Speed of a fan in revolutions per minute; 0 is a fan that stands still.")
MODULE = gauge(
    "steadytok_hwmon_module_info",
    "The memory module that the chip is on, from its SPD, which mostly only root may read.",
)
METRICS = (TEMPERATURE, MAXIMUM, CRITICAL, FAN, MODULE)
HINT_ABSENT = "sudo modprobe -a jc42 spd5118 coretemp (on many servers only the BMC sees the DIMMs)"
UEVENTS = ("hwmon",)

_FOLDER = "sys/class/hwmon"
_CHIP_BUDGET = 0.5  # seconds; a chip takes milliseconds, but a fully loaded host may be slow
_PASS_BUDGET = 1.2  # seconds for all chips; the pass ends before its deadline even if chips hang
_CHIPS_EVERY = 30  # passes until names, labels and limits are read again
_PACKAGE = ("Package id", "Physical id")  # coretemp's names for the sensor of a whole processor
_MIN_CELSIUS, _MAX_CELSIUS = -40.0, 150.0  # °C; values outside mean a broken sensor
_MAX_RPM = 60_000  # revolutions per minute; the smallest server fans reach about 40,000


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The chips that are read, by the name of their driver."""

    chips: tuple[str, ...] = ("jc42", "spd5118", "coretemp", "k10temp")
    """Chips whose temperatures are read: DDR4 and DDR5 modules, Intel and AMD processors."""

    fans: tuple[str, ...] = ("nct6775", "nct6776", "nct6779", "nct6796", "nct6798", "nct7802", "it8728", "w83795g")
    """Chips whose fans are read: those of common boards; a server's fans mostly belong to the BMC."""

    cores: bool = False
    """Also reads coretemp's sensor of each core, which interrupts every core in every pass."""


class _Sensor(NamedTuple):
    """One input with its labels and limits in °C; a limit is None where it is unset."""

    path: str
    labels: dict[str, str]
    maximum: float | None = None
    critical: float | None = None
    fault: str = ""


class _Chip(NamedTuple):
    """The sensors of one chip that are read; none where the chip is not configured."""

    temperatures: tuple[_Sensor, ...] = ()
    fans: tuple[_Sensor, ...] = ()
    device: str = ""
    identity: ModuleIdentity | None = None


class _HwmonState:
    """State from pass to pass; chips by their folder."""

    def __init__(self) -> None:
        self.pass_count = 0
        self.folders: list[str] = []
        self.chips: dict[str, _Chip] = {}
        self.identities: dict[str, ModuleIdentity] = {}  # by device; modules are not replaced while the host runs
        self.reader = TimedReader(_CHIP_BUDGET, _PASS_BUDGET)


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """Reads the configured chips."""
    state = host.get_state(_HwmonState)
    folders = host.names(_FOLDER)
    if state.pass_count % _CHIPS_EVERY == 0 or folders != state.folders:
        state.folders, state.chips = folders, {}
    state.pass_count += 1
    chips = state.chips

    def read_path(worker_host: Host, path: str) -> tuple[_Chip | None, list[Reading]]:
        chip = chips[path] if path in chips else _read_chip(worker_host, config, path, state.identities)
        return chip, list(_collect_chip(worker_host, chip or _Chip()))

    paths = (f"{_FOLDER}/{folder}" for folder in folders)
    paths_to_read = [path for path in paths if path not in chips or any(chips[path])]
    for path, (chip, readings) in state.reader.read_each(host, paths_to_read, read_path):
        if chip is not None:
            chips[path] = chip
        if chip is not None and chip.identity is not None:
            state.identities[chip.device] = chip.identity
        yield from readings


def _collect_chip(host: Host, chip: _Chip) -> Iterator[Reading]:
    for sensor in chip.temperatures:
        yield TEMPERATURE.sample(_read_temperature(host, sensor), **sensor.labels)
        yield from _make_limit(MAXIMUM, sensor.maximum, sensor)
        yield from _make_limit(CRITICAL, sensor.critical, sensor)
    if chip.identity is not None:
        yield MODULE.sample(1.0, device=chip.device, **chip.identity._asdict())
    for sensor in chip.fans:
        yield FAN.sample(_read_speed(host, sensor), **sensor.labels)


def _read_chip(host: Host, config: Config, path: str, identities: Mapping[str, ModuleIdentity]) -> _Chip | None:
    if (chip := host.read(f"{path}/name")) is None:
        return None  # the next pass tries again
    temperatures = tuple(_list_temperatures(host, path, chip, config.cores)) if chip in config.chips else ()
    fans = tuple(_list_fans(host, path, chip)) if chip in config.fans else ()
    device = (host.link(f"{path}/device") or "") if temperatures and chip in MODULE_CHIPS else ""
    return _Chip(temperatures, fans, device, identities.get(device) or read_module_identity(host, device))


def _list_inputs(host: Host, path: str, kind: str) -> list[str]:
    matches = (re.fullmatch(rf"({kind}\d+)_input", file) for file in host.names(path))
    return [match[1] for match in matches if match]


def _read_labels(host: Host, path: str, chip: str, name: str) -> dict[str, str]:
    label = host.read(f"{path}/{name}_label", optional=True) or ""
    device = host.link(f"{path}/device") or ""
    return {"chip": chip, "device": device, "sensor": name, "label": label}


def _list_fans(host: Host, path: str, chip: str) -> Iterator[_Sensor]:
    for name in _list_inputs(host, path, "fan"):
        yield _Sensor(f"{path}/{name}_input", _read_labels(host, path, chip, name))


def _list_temperatures(host: Host, path: str, chip: str, cores: bool) -> Iterator[_Sensor]:
    for name in _list_inputs(host, path, "temp"):
        labels = _read_labels(host, path, chip, name)
        if chip == "coretemp" and not cores and not labels["label"].startswith(_PACKAGE):
            continue
        yield _Sensor(
            path=f"{path}/{name}_input",
            labels=labels,
            maximum=_read_limit(host, f"{path}/{name}_max"),
            critical=_read_limit(host, f"{path}/{name}_crit"),
            fault=f"{path}/{name}_fault" if host.exists(f"{path}/{name}_fault") else "",
        )


def _read_limit(host: Host, path: str) -> float | None:
    """Returns a limit that was set; after a resume all limits may be 0, which would alarm for ever."""
    celsius = _read_celsius(host, path, optional=True)
    return celsius if celsius is not None and celsius > 0 else None


def _make_limit(metric: Metric, celsius: float | None, sensor: _Sensor) -> Iterator[Reading]:
    if celsius is not None:
        yield metric.sample(celsius, **sensor.labels)


def _read_temperature(host: Host, sensor: _Sensor) -> float | None:
    if sensor.fault and host.read_int(sensor.fault) == 1:
        return host.note(sensor.fault, "the chip reports a broken sensor")
    return _read_celsius(host, sensor.path)


def _read_celsius(host: Host, path: str, *, optional: bool = False) -> float | None:
    millidegrees = host.read_int(path, optional=optional)
    if millidegrees is None:
        return None
    if not _MIN_CELSIUS <= millidegrees / 1000 <= _MAX_CELSIUS:
        return host.note(path, f"expected {_MIN_CELSIUS:g} to {_MAX_CELSIUS:g} °C, found {millidegrees / 1000:g}")
    return millidegrees / 1000


def _read_speed(host: Host, sensor: _Sensor) -> float | None:
    speed = host.read_int(sensor.path)
    if speed is not None and not 0 <= speed <= _MAX_RPM:
        return host.note(sensor.path, f"expected 0 to {_MAX_RPM} revolutions per minute, found {speed}")
    return None if speed is None else float(speed)
