"""
Pressure stall information, from /proc/pressure/{cpu,io,memory,irq}: how long tasks waited for a resource.

https://docs.kernel.org/accounting/psi.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors import Host, Reading, Sample, counter

INTERVAL = 1.0

_RESOURCES = ("cpu", "io", "memory", "irq")
_LINE = re.compile(r"(some|full) avg10=[\d.]+ avg60=[\d.]+ avg300=[\d.]+ total=(\d{1,20})", re.ASCII)

WAITING = counter(
    "steadytok_pressure_waiting_seconds_total",
    "Time in which at least one task waited for the resource (the kernel's `some`).",
)
STALLED = counter(
    "steadytok_pressure_stalled_seconds_total",
    "Time in which no task got on because all waited for the resource (the kernel's `full`); not for cpu, where the "
    "kernel says it is undefined and reports 0.",
)
METRICS = (WAITING, STALLED)
HINT_ABSENT = "boot with psi=1 (some distributions switch PSI off)"


def collect(host: Host) -> Iterator[Reading]:
    """Reads waiting and stalled time of each resource; yields nothing where the kernel was started without psi=1."""
    for resource in _RESOURCES:
        relative = f"proc/pressure/{resource}"
        for line in host.lines(relative, optional=True)[:2]:  # some and full; the file has no further lines
            yield _parse_line(host, relative, resource, line)


def _parse_line(host: Host, relative: str, resource: str, line: str) -> Reading:
    match = _LINE.fullmatch(line)
    if match is None:
        return host.note(relative, f"expected `some avg10=… total=123`, found {line[:40]!r}")
    if resource == "cpu" and match[1] == "full":
        return None
    return Sample(WAITING if match[1] == "some" else STALLED, (("resource", resource),), int(match[2]) / 1e6)
