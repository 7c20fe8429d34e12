"""
Allocations of each NUMA node, by where they were requested and served.

Reads /sys/devices/system/node/node*/numastat. https://docs.kernel.org/admin-guide/numastat.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from collectors import Host, Reading, Sample, counter
from collectors._host.nodes import FOLDER, list_nodes

INTERVAL = 1.0

_SWITCH = "proc/sys/vm/numa_stat"
_LINE = re.compile(r"^([a-z_]{1,40}) (\d{1,20})$", re.ASCII | re.MULTILINE)
_UNIT = "Counts allocations, each once whatever its size, and says nothing about accesses."
_COUNTERS = (
    ("numa_hit", "Allocations that were requested of the node and served by it."),
    ("numa_miss", "Allocations that were requested of another node and served by this one."),
    ("numa_foreign", "Allocations that were requested of the node and served by another."),
    ("interleave_hit", "Allocations that an interleave policy requested of the node and that the node served."),
    ("local_node", "Allocations on the node by a task that ran on it."),
    ("other_node", "Allocations on the node by a task that ran on another; large by design under interleave."),
)
_BY_KEY = tuple((key, counter(f"steadytok_numastat_{key}_total", f"{meaning} {_UNIT}")) for key, meaning in _COUNTERS)
METRICS = tuple(metric for _, metric in _BY_KEY)
UEVENTS = ("node",)


def collect(host: Host) -> Iterator[Reading]:
    """Reads the six counters of each node; yields nothing, with one note, where `vm.numa_stat=0` has stopped them."""
    node_ids = list_nodes(host)
    if node_ids and host.read(_SWITCH, optional=True) == "0":
        host.note(_SWITCH, "the counters are stopped; `sysctl vm.numa_stat=1` restarts them")
        return
    for node in node_ids:
        yield from _collect_node(host, node)


def _collect_node(host: Host, node: str) -> Iterator[Reading]:
    relative = f"{FOLDER}/node{node}/numastat"
    text = host.read(relative)
    if text is None:
        return
    values = dict(_LINE.findall(text))
    labels = (("node", node),)
    for key, metric in _BY_KEY:
        if key in values:
            yield Sample(metric, labels, float(values[key]))
        else:
            host.note(relative, f"expected a line such as `{key} 123`")
