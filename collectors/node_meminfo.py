"""
The memory of each NUMA node, from /sys/devices/system/node/node*/meminfo, and how much of it is available.

The kernel has no MemAvailable per node, and a node's MemFree is near 0 whenever there is page cache. Available memory
is therefore computed here, with the low watermark from /proc/zoneinfo.
https://docs.kernel.org/filesystems/proc.html#meminfo
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from collectors import Host, Labels, Reading, Sample, gauge
from collectors._host.nodes import FOLDER, list_nodes
from collectors._kernel.meminfo import NODE_FIELDS, SHARED_FIELDS, FieldSeries, make_field_metric

INTERVAL = 1.0

_PREFIX = "steadytok_node_meminfo"
_ZONEINFO = "proc/zoneinfo"
# /proc/zoneinfo has five lines per CPU and zone, a quarter of a megabyte on 256 CPUs. Watermarks rarely change.
_PASSES_BETWEEN_ZONEINFO = 60
_ZONE_LINE = re.compile(r"^Node (\d+), zone|^ +(low|managed) +(\d{1,16})$", re.ASCII | re.MULTILINE)
_FIELD_METRICS = tuple(
    (field, make_field_metric(_PREFIX, field, meaning)) for field, meaning in (*SHARED_FIELDS, *NODE_FIELDS)
)
_TERMS = frozenset(
    f"{_PREFIX}_{term}_bytes"
    for term in ("mem_total", "mem_free", "active_file", "inactive_file", "mapped", "sreclaimable")
)

HUGE_PAGES = gauge(
    f"{_PREFIX}_huge_pages",
    "Huge pages of the default size on the node, a count and not bytes, by state (total, free, surp: beyond the "
    "configured number).",
)
AVAILABLE = gauge(
    f"{_PREFIX}_available_bytes",
    "What the node can still give: MemFree + max(0, Active(file) + Inactive(file) - Mapped) + SReclaimable - the low "
    "watermarks of its zones, never below 0; where /proc/zoneinfo cannot be read the watermarks are left out.",
)
METRICS = (*(metric for _, metric in _FIELD_METRICS), HUGE_PAGES, AVAILABLE)
UEVENTS = ("memory", "node")


class _NodeMeminfoState:
    def __init__(self) -> None:
        self.fields = FieldSeries(_PREFIX, _FIELD_METRICS, HUGE_PAGES)
        self.node_ids: list[str] = []
        self.shares: Mapping[str, float] = {}
        self.passes_left = 0


def collect(host: Host) -> Iterator[Reading]:
    """Reads every field of each node's meminfo, then computes the node's available memory."""
    state = host.get_state(_NodeMeminfoState)
    node_ids = list_nodes(host)
    if node_ids:
        _refresh_shares(host, state, node_ids)
    for node in node_ids:
        relative = f"{FOLDER}/node{node}/meminfo"
        text = host.read(relative)
        if text is not None:
            labels = (("node", node),)
            samples = list(state.fields.make_samples(host, relative, text, labels))
            yield from samples
            yield _compute_available(samples, state.shares.get(node, 0.0), labels)


def compute_watermark_shares(text: str) -> dict[str, float]:
    """
    Returns the low watermarks of each node's zones as a share of its MemTotal, from the text of /proc/zoneinfo.

    zoneinfo counts pages, and a node's MemTotal is the sum of its zones' `managed` pages. The share therefore needs no
    page size, which may be 4 KiB or 64 KiB. A node without managed pages has no share.
    """
    pages: dict[str, dict[str, int]] = {}
    node = ""
    for new_node, key, digits in _ZONE_LINE.findall(text):
        if new_node:
            node = new_node
        elif node:
            zone = pages.setdefault(node, {"low": 0, "managed": 0})
            zone[key] += int(digits)
    return {node: min(1.0, sums["low"] / sums["managed"]) for node, sums in pages.items() if sums["managed"]}


def _refresh_shares(host: Host, state: _NodeMeminfoState, node_ids: list[str]) -> None:
    if state.passes_left > 0 and state.node_ids == node_ids:
        state.passes_left -= 1
        return
    text = host.read(_ZONEINFO)
    shares = {} if text is None else compute_watermark_shares(text)
    if text is not None and not shares:
        host.note(_ZONEINFO, "expected zones with `low` and `managed` pages")
    # Unreadable shares keep their last value. Where no share could be read the next pass tries again.
    state.shares = {**state.shares, **shares}
    state.node_ids = node_ids
    state.passes_left = _PASSES_BETWEEN_ZONEINFO if shares else 0


def _compute_available(samples: list[Sample], watermark_share: float, labels: Labels) -> Reading:
    terms = {sample.metric.name: sample.value for sample in samples if sample.metric.name in _TERMS}
    if len(terms) < len(_TERMS):
        return None
    total, free, active, inactive, mapped, reclaimable = (
        terms[f"{_PREFIX}_{term}_bytes"]
        for term in ("mem_total", "mem_free", "active_file", "inactive_file", "mapped", "sreclaimable")
    )
    cache = max(0.0, active + inactive - mapped)
    return Sample(AVAILABLE, labels, max(0.0, free + cache + reclaimable - round(total * watermark_share)))
