"""
Energy used by packages, cores and memory, as a counter that does not wrap.

Reads sys/class/powercap/intel-rapl:*/, of Intel and AMD alike, as root only since Linux 5.10.
https://docs.kernel.org/power/powercap/powercap.html

The hardware's counter wraps at max_energy_range_uj, about every quarter of an hour under load. Prometheus would treat a
wrap as a restart and lose up to one range, so this collector adds the range.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors import Host, Reading, counter

INTERVAL = 5.0
PRIVILEGED = True

ENERGY = counter(
    "steadytok_powercap_energy_joules_total",
    "Energy used by a zone; it starts at the hardware's own count and goes on where that wraps.",
)
METRICS = (ENERGY,)
HINT_ABSENT = "sudo modprobe intel_rapl_msr; virtual machines have none"
HINT_REFUSED = "readable by root only since Linux 5.4.77 (PLATYPUS); run as the systemd service"
UEVENTS = ("powercap",)

_FOLDER = "sys/class/powercap"
_ZONE = re.compile(r"intel-rapl(:\d+)+")  # intel-rapl-mmio would repeat the same package


class _PowercapState:
    """State from pass to pass, by zone, in microjoules."""

    def __init__(self) -> None:
        self.ranges: dict[str, int] = {}
        self.last: dict[str, int] = {}
        self.wrapped: dict[str, int] = {}


def collect(host: Host) -> Iterator[Reading]:
    """Reads the zones."""
    state = host.get_state(_PowercapState)
    for zone in host.names(_FOLDER):
        if _ZONE.fullmatch(zone):
            name = host.read(f"{_FOLDER}/{zone}/name") or ""
            microjoules = _read_unwrapped(host, state, zone)
            yield ENERGY.sample(None if microjoules is None else microjoules / 1e6, zone=zone, name=name)


def _read_unwrapped(host: Host, state: _PowercapState, zone: str) -> int | None:
    path = f"{_FOLDER}/{zone}/energy_uj"
    if zone not in state.ranges:
        largest = host.read_int(f"{_FOLDER}/{zone}/max_energy_range_uj")
        if largest is not None and largest > 0:
            state.ranges[zone] = largest
    largest = state.ranges.get(zone, 0)
    energy = host.read_int(path)
    if energy is None:
        return None
    if energy < 0 or (largest and energy > largest):
        return host.note(path, f"expected 0 to {largest} microjoules, found {energy}")
    # Without a known range nothing is added, and the smaller value looks like a restart.
    if energy < state.last.get(zone, 0):
        state.wrapped[zone] = state.wrapped.get(zone, 0) + largest
    state.last[zone] = energy
    return state.wrapped.get(zone, 0) + energy
