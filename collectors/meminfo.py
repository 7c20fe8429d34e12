"""
The host's memory, from /proc/meminfo: every field of the kernel, sizes in bytes and huge pages as counts.

https://docs.kernel.org/filesystems/proc.html#meminfo
"""

from __future__ import annotations

from collections.abc import Iterator

from collectors import Host, Reading, gauge
from collectors._kernel.meminfo import HOST_FIELDS, SHARED_FIELDS, FieldSeries, make_field_metric

INTERVAL = 1.0

_PREFIX = "steadytok_meminfo"
_FILE = "proc/meminfo"
_FIELD_METRICS = tuple(
    (field, make_field_metric(_PREFIX, field, meaning)) for field, meaning in (*SHARED_FIELDS, *HOST_FIELDS)
)

HUGE_PAGES = gauge(
    f"{_PREFIX}_huge_pages",
    "Huge pages of the default size, a count and not bytes, by state (total, free, rsvd: promised but not yet used, "
    "surp: beyond the configured number).",
)
METRICS = (*(metric for _, metric in _FIELD_METRICS), HUGE_PAGES)


class _MeminfoState:
    def __init__(self) -> None:
        self.fields = FieldSeries(_PREFIX, _FIELD_METRICS, HUGE_PAGES)


def collect(host: Host) -> Iterator[Reading]:
    """Reads every field of /proc/meminfo."""
    text = host.read(_FILE)
    if text is not None:
        yield from host.get_state(_MeminfoState).fields.make_samples(host, _FILE, text, ())
