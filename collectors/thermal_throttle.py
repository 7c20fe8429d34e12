"""
How often and how long heat has slowed the CPUs, per core and per package.

Reads sys/devices/system/cpu/cpu*/thermal_throttle/. Only Intel has it, and only where the BIOS leaves the thermal
interrupt to Linux. https://www.kernel.org/doc/Documentation/ABI/testing/sysfs-devices-system-cpu

Siblings of one core count separately and differ (https://github.com/prometheus/node_exporter/issues/1472: 7343 and
432). A core therefore has the highest count of its CPUs, and so has a package.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from collectors import Host, Reading, counter
from collectors._host.cpulist import parse_cpulist

INTERVAL = 5.0

_SECONDS = "the kernel adds an event's time when the event ends, and does not time a spike 10 °C below the limit"
CORE_EVENTS = counter(
    "steadytok_thermal_throttle_core_events_total",
    "Times that a core was slowed because it was too hot: the highest count of its CPUs.",
)
CORE_SECONDS = counter(
    "steadytok_thermal_throttle_core_seconds_total",
    f"Time that a core was slowed because it was too hot; {_SECONDS}.",
)
PACKAGE_EVENTS = counter(
    "steadytok_thermal_throttle_package_events_total",
    "Times that a package was slowed because it was too hot: the highest count of its CPUs.",
)
PACKAGE_SECONDS = counter(
    "steadytok_thermal_throttle_package_seconds_total",
    f"Time that a package was slowed because it was too hot; {_SECONDS}.",
)
METRICS = (CORE_EVENTS, CORE_SECONDS, PACKAGE_EVENTS, PACKAGE_SECONDS)
HINT_ABSENT = "Intel processors only, and not where firmware owns the thermal interrupt"
UEVENTS = ("cpu",)

_CPU = "sys/devices/system/cpu"
_CORE_FILES = ("core_throttle_count", "core_throttle_total_time_ms")
_PACKAGE_FILES = ("package_throttle_count", "package_throttle_total_time_ms")

_Core = tuple[int, int]


class _CounterFolders(NamedTuple):
    """The folders with counters, by (package, core) and by package."""

    by_core: dict[_Core, list[str]]
    by_package: dict[int, list[str]]
    is_complete: bool = True
    """False where a CPU's core or package could not be read."""


class _Count(NamedTuple):
    """The highest count of a core's CPUs, what it continues from after a restart, and how many CPUs gave it."""

    highest: int = 0
    offset: int = 0
    cpus: int = 0


class _ThermalThrottleState:
    """State from pass to pass."""

    def __init__(self) -> None:
        self.online: str | None = None
        self.folders = _CounterFolders({}, {})
        self.counts: dict[tuple[str, int, int], _Count] = {}


def collect(host: Host) -> Iterator[Reading]:
    """Reads the online CPUs; their core and package are read again when the set of online CPUs changes."""
    state = host.get_state(_ThermalThrottleState)
    online = host.read(f"{_CPU}/online", optional=True)
    if online is None or online != state.online:
        state.folders = _list_folders(host, online)
        state.online = online if state.folders.is_complete else None
    for (package, core), folders in state.folders.by_core.items():
        events, seconds = _read_throttling(host, state, folders, _CORE_FILES, (package, core))
        yield CORE_EVENTS.sample(events, package=str(package), core=str(core))
        yield CORE_SECONDS.sample(seconds, package=str(package), core=str(core))
    for package, folders in state.folders.by_package.items():
        events, seconds = _read_throttling(host, state, folders, _PACKAGE_FILES, (package, -1))
        yield PACKAGE_EVENTS.sample(events, package=str(package))
        yield PACKAGE_SECONDS.sample(seconds, package=str(package))


def _list_folders(host: Host, online: str | None) -> _CounterFolders:
    running, is_complete = None if online is None else parse_cpulist(online), True
    counter_folders = _CounterFolders(defaultdict(list), defaultdict(list))
    for folder in host.glob(f"{_CPU}/cpu[0-9]*/thermal_throttle"):
        parent = folder.removesuffix("/thermal_throttle")
        match = re.fullmatch(rf"{_CPU}/cpu(\d+)", parent)
        if match is None or (running is not None and int(match[1]) not in running):
            continue  # an offline CPU has empty files
        package = _read_number(host, f"{parent}/topology/physical_package_id")
        core = _read_number(host, f"{parent}/topology/core_id")
        is_complete = is_complete and None not in (package, core)
        if package is not None:
            counter_folders.by_package[package].append(folder)
        if package is not None and core is not None:
            counter_folders.by_core[package, core].append(folder)
    return counter_folders._replace(is_complete=is_complete)


def _read_throttling(
    host: Host, state: _ThermalThrottleState, folders: Iterable[str], files: tuple[str, str], core: _Core
) -> tuple[int | None, float | None]:
    """
    Returns events and seconds of one core or package.

    Without an event there is no time either. Once the time was 0, it is not read again until there is an event, which
    on a cool host saves half of all reads.
    """
    events = _read_highest(host, state, folders, files[0], core)
    last = state.counts.get((files[1], *core))
    if events == 0 and last is not None and last.highest + last.offset == 0:
        return events, 0.0
    milliseconds = _read_highest(host, state, folders, files[1], core)
    return events, None if milliseconds is None else milliseconds / 1000


def _read_highest(
    host: Host, state: _ThermalThrottleState, folders: Iterable[str], file: str, core: _Core
) -> int | None:
    """
    Returns the highest count of these CPUs, never lower than before while a CPU is offline or unreadable.

    Such a lower count would look like a counter restart and be added to `increase` again. A first count that is only
    partly known is therefore None. Where every CPU of before is readable and all are lower, they have begun anew, as
    after a live migration, and the count continues from its last value.
    """
    # Kernels before 5.5 count the events and not their time.
    is_time = file in (_CORE_FILES[1], _PACKAGE_FILES[1])
    counts = [_read_number(host, f"{folder}/{file}", optional=is_time) for folder in folders]
    known_counts = [count for count in counts if count is not None]
    key = (file, *core)
    if not known_counts or (len(known_counts) < len(counts) and key not in state.counts):
        return None
    last = state.counts.get(key, _Count())
    highest, offset = max(known_counts), last.offset
    if highest < last.highest:
        if len(known_counts) < last.cpus:
            highest = last.highest
        else:
            offset += last.highest - highest
    state.counts[key] = _Count(highest, offset, max(len(known_counts), last.cpus))
    return highest + offset


def _read_number(host: Host, path: str, *, optional: bool = False) -> int | None:
    value = host.read_int(path, optional=optional)
    return host.note(path, f"expected 0 or more, found {value}") if value is not None and value < 0 else value
