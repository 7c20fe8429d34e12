"""
Memory and inlet temperatures, fan speeds, and memory errors in the event log, from the BMC over IPMI.

On most servers only the BMC can read the DIMMs' temperature. It is reached in-band (/dev/ipmi0) or over the LAN
(RMCP+).
https://www.intel.com/content/dam/www/public/us/en/documents/product-briefs/ipmi-second-gen-interface-spec-v2-rev1-1.pdf
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import msgspec

from collectors import Host, Reading, counter, gauge
from collectors._ipmi.client import Bmc, BmcError, CompletionCodeError
from collectors._ipmi.sdr import Repository
from collectors._ipmi.sel import EventLog
from collectors._ipmi.session import open_bmc
from collectors._ipmi.sweep import SelectedSensor, Sweep, compute_headroom

INTERVAL = 10.0  # near a limit; otherwise the pass requests a longer interval
DEADLINE = 15.0
ISOLATED = True

_LABELS_HELP = "labels: the sensor's own name, its number, and the entity that it is on (8 and 32 are memory)."
TEMPERATURE = gauge(
    "steadytok_ipmi_temperature_celsius", f"Temperature that a sensor of the BMC measures; {_LABELS_HELP}"
)
MARGIN = gauge(
    "steadytok_ipmi_temperature_margin_celsius",
    "Distance to the limit as the BMC gives it in place of a temperature: -20 is 20 °C below the limit.",
)
UPPER_NONCRITICAL = gauge(
    "steadytok_ipmi_temperature_upper_noncritical_celsius", "The BMC's upper non-critical threshold, where it is set."
)
UPPER_CRITICAL = gauge(
    "steadytok_ipmi_temperature_upper_critical_celsius", "The BMC's upper critical threshold, where it is set."
)
UPPER_NONRECOVERABLE = gauge(
    "steadytok_ipmi_temperature_upper_nonrecoverable_celsius",
    "The BMC's upper non-recoverable threshold, where it is set.",
)
FAN = gauge("steadytok_ipmi_fan_rpm", "Speed of a fan in revolutions per minute; 0 is a fan that stands still.")
FAN_RATIO = gauge("steadytok_ipmi_fan_ratio", "Speed of a fan as a part of its full speed, where the BMC says no more.")
FAN_LOWER_CRITICAL = gauge("steadytok_ipmi_fan_lower_critical_rpm", "Speed below which the BMC calls a fan failed.")
MEMORY_EVENTS = counter(
    "steadytok_ipmi_memory_events_total", "New entries about memory in the system event log since the agent started."
)
SEL_ENTRIES = gauge("steadytok_ipmi_sel_entries", "Entries in the BMC's system event log.")
METRICS = (
    TEMPERATURE,
    MARGIN,
    UPPER_NONCRITICAL,
    UPPER_CRITICAL,
    UPPER_NONRECOVERABLE,
    FAN,
    FAN_RATIO,
    FAN_LOWER_CRITICAL,
    MEMORY_EVENTS,
    SEL_ENTRIES,
)
HINT_ABSENT = "sudo modprobe -a ipmi_si ipmi_devintf, or name the BMC: collectors.ipmi.address and credentials_file"
HINT_REFUSED = "only root may open /dev/ipmi0: run as root or as the systemd service, or name a BMC on the LAN"
UEVENTS = ("ipmi",)

_NORMAL_INTERVAL = 30.0  # seconds between passes; a BMC's processor is slow, its sensors slower
_NEAR_LIMIT = 10.0  # °C; with less headroom a pass follows every INTERVAL
_PASS = 8.0  # seconds of one pass; a slow BMC takes several passes
_MAX_IDLE = 45.0  # seconds until a session is renewed: BMCs end it after 60 and then stop answering
_UPPER = {
    "upper_noncritical": UPPER_NONCRITICAL,
    "upper_critical": UPPER_CRITICAL,
    "upper_nonrecoverable": UPPER_NONRECOVERABLE,
}


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The BMC that is read, and which of its sensors."""

    address: str = "local"
    """`local` for /dev/ipmi0, or HOST or HOST:PORT."""

    credentials_file: str | None = None
    """A file of two lines, username=… and password=…, that other users may not read; for a BMC over the LAN."""

    include: tuple[str, ...] = ()
    """Patterns (`PSU*Temp`) of additional temperatures and fans to read, by the sensor's name; case is ignored."""

    exclude: tuple[str, ...] = ()
    """Patterns of sensors not to read; they override all else."""


def sandbox_addresses(config: Config) -> list[str]:
    """Returns the BMC's address, if it is on the LAN."""
    return [] if config.address == "local" else [config.address]


class _IpmiState:
    """State from pass to pass, for one configuration."""

    def __init__(self) -> None:
        self.reset(Config())

    def reset(self, config: Config) -> None:
        self.config = config
        self.bmc: Bmc | None = None
        self.last_used = 0.0
        self.repository = Repository()
        self.sweep = Sweep((), (), ())
        self.log = EventLog()

    def close(self) -> None:
        if self.bmc is not None:
            self.bmc.close()
            self.bmc = None


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """
    Reads the sensors once; yields nothing where there is no BMC, or where it does not answer.

    Every sensor has four labels. `sensor` is the BMC's name for it. `number` is 0x31, with .LUN where that is not 0,
    since some vendors name every sensor `Temp`. `entity_id` is the kind of component: 8 memory module, 32 memory
    device, 55 and 64 air inlet, 29 fan. `entity_instance` is the number of that component.
    """
    state = host.get_state(_IpmiState)
    host.again(_NORMAL_INTERVAL)
    bmc = _connect(host, state, config)
    if bmc is None:
        return
    try:
        yield from _collect_pass(host, bmc, state, time.monotonic() + _PASS)
    except (BmcError, CompletionCodeError) as error:
        host.note(bmc.name, str(error))
        if isinstance(error, BmcError):
            state.close()
    state.last_used = time.monotonic()


def _connect(host: Host, state: _IpmiState, config: Config) -> Bmc | None:
    if config != state.config:
        state.close()
        state.reset(config)
    if time.monotonic() - state.last_used > _MAX_IDLE:
        state.close()
    if state.bmc is None:
        state.repository.forget_undated()
        state.bmc = open_bmc(host, config.address, config.credentials_file)
    return state.bmc


def _collect_pass(host: Host, bmc: Bmc, state: _IpmiState, deadline: float) -> Iterator[Reading]:
    sensors = state.repository.read_sensors(host, bmc, deadline)
    if sensors is None:
        return host.again(INTERVAL)
    if sensors is not state.sweep.sensors:
        state.sweep = Sweep(sensors, state.config.include, state.config.exclude)
    began, closest = time.monotonic(), math.inf
    for selected, value in state.sweep.read_sensors(host, bmc, deadline):
        closest = min(closest, compute_headroom(selected, value))
        yield from _collect_sensor(selected, value)
    host.again(max(INTERVAL if closest < _NEAR_LIMIT else _NORMAL_INTERVAL, 2 * (time.monotonic() - began)))
    state.log.count_new(bmc, sensors)
    if state.log.entries is not None:  # None without a log
        yield SEL_ENTRIES.sample(state.log.entries)
        for event, count in state.log.counts.items():
            yield MEMORY_EVENTS.sample(count, event=event)
    return None


def _collect_sensor(selected: SelectedSensor, value: float) -> Iterator[Reading]:
    labels, thresholds = selected.labels, selected.thresholds
    if selected.kind == "fan":
        yield (FAN if selected.sensor.unit == "rpm" else FAN_RATIO).sample(value, **labels)
        if selected.sensor.unit == "rpm" and "lower_critical" in thresholds:
            yield FAN_LOWER_CRITICAL.sample(thresholds["lower_critical"], **labels)
    elif selected.kind == "margin":
        yield MARGIN.sample(value, **labels)
    else:
        yield TEMPERATURE.sample(value, **labels)
        yield from (metric.sample(thresholds[name], **labels) for name, metric in _UPPER.items() if name in thresholds)
