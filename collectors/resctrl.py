"""
Memory traffic of each L3 domain, local and remote, where the operator has mounted resctrl.

Reads sys/fs/resctrl/{mon_data,GROUP/mon_data}/mon_L3_*/mbm_*, as anybody may. This collector never mounts resctrl,
because a mount changes what the whole machine can measure. https://docs.kernel.org/filesystems/resctrl.html

The kernel counts misses of the CPUs' L3; devices are not included. A value may be a word (Unavailable, Unassigned,
Error). A group's value falls when one of its monitoring groups is removed. A fall adds nothing here: treated as a
counter restart it would look like a burst of terabytes that nobody moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from collectors import Host, Reading, counter, natural
from collectors._host.nodes import read_cpulist, read_cpus_by_node

INTERVAL = 1.0

TOTAL = counter(
    "steadytok_resctrl_mbm_bytes_total",
    "Memory traffic of the CPUs that share an L3 cache, to any node; by control group, the default one unnamed.",
)
LOCAL = counter("steadytok_resctrl_mbm_local_bytes_total", "That part of the traffic that stayed on the own NUMA node.")
REMOTE = counter(
    "steadytok_resctrl_mbm_remote_bytes_total",
    "Traffic that was not local, which is all less local; on AMD the write-backs of modified lines are always in it.",
)
METRICS = (TOTAL, LOCAL, REMOTE)
HINT_ABSENT = "sudo mount -t resctrl resctrl /sys/fs/resctrl (needs cqm_mbm in /proc/cpuinfo); the agent never does"

_FOLDER = "sys/fs/resctrl"
_INFO = f"{_FOLDER}/info/L3_MON"
_CPU = "sys/devices/system/cpu"
_TOTAL_EVENT, _LOCAL_EVENT = "mbm_total_bytes", "mbm_local_bytes"
_DOMAIN = re.compile(r"mon_L3_(\d{2,5})", re.ASCII)
_PART = re.compile(
    r"mon_sub_L3_(\d{2,5})", re.ASCII
)  # one folder for each node of an L3 that sub-NUMA clustering divides
_ERROR_WORDS = frozenset({"Unavailable", "Unassigned", "Error"})
_MASKS = re.compile(r"(\d{1,5})=0x([0-9a-f]{1,8})", re.ASCII)
_DEFAULT_MASKS = ("7f", "15")  # all seven kinds of traffic, and the three local ones
_REFRESH_PASSES = 60  # passes until topology and the events' settings are read again


class _Monitor(NamedTuple):
    """The folder of one group's traffic in one domain, and its labels."""

    folder: str
    group: str
    domain: str
    node: str


@dataclass(slots=True)
class _TrafficCounts:
    """Counts of one monitor, by event: the kernel's last value, and a sum that never falls."""

    last: dict[str, int] = field(default_factory=dict)
    sums: dict[str, int] = field(default_factory=dict)
    remote: int | None = None

    def add(self, event: str, value: int) -> int:
        self.sums[event] = self.sums.get(event, value) + max(0, value - self.last.get(event, value))
        self.last[event] = value
        return self.sums[event]


class _ResctrlState:
    def __init__(self) -> None:
        self.passes = 0
        self.nodes: dict[str, str] = {}
        self.incomparable: frozenset[str] = frozenset()
        self.counts: dict[_Monitor, _TrafficCounts] = {}


def collect(host: Host) -> Iterator[Reading]:
    """Reads the control groups and their domains; yields nothing where resctrl is not mounted or has no monitoring."""
    if not host.exists(_INFO):
        return
    state = host.get_state(_ResctrlState)
    if state.passes % _REFRESH_PASSES == 0:
        state.nodes, state.incomparable = _map_domains_to_nodes(host), _find_incomparable(host)
    state.passes += 1
    groups = _list_groups(host)
    for group, folder in groups.items():
        for monitor in _list_monitors(host, state, group, folder):
            yield from _collect_traffic(host, state, monitor)
    state.counts = {monitor: counts for monitor, counts in state.counts.items() if monitor.group in groups}


def _list_groups(host: Host) -> dict[str, str]:
    """Returns the folder of each control group by name; a group's values include those of its monitoring groups."""
    folders = {"": f"{_FOLDER}/mon_data"}
    for name in host.names(_FOLDER):
        if name not in ("info", "mon_data", "mon_groups") and host.exists(f"{_FOLDER}/{name}/mon_data"):
            folders[name] = f"{_FOLDER}/{name}/mon_data"
    return folders


def _list_monitors(host: Host, state: _ResctrlState, group: str, folder: str) -> Iterator[_Monitor]:
    for name in host.names(folder):
        domain = _DOMAIN.fullmatch(name)
        if domain is None:
            continue
        number = str(int(domain[1]))
        path = f"{folder}/{name}"
        parts = [(entry, part[1]) for entry in host.names(path) if (part := _PART.fullmatch(entry))]
        for entry, node in parts:
            yield _Monitor(f"{path}/{entry}", group, number, str(int(node)))
        if not parts:  # otherwise the domain's own files are the sum of its parts
            yield _Monitor(path, group, number, state.nodes.get(number, ""))


def _collect_traffic(host: Host, state: _ResctrlState, monitor: _Monitor) -> Iterator[Reading]:
    counts = state.counts.setdefault(monitor, _TrafficCounts())
    labels = {"group": monitor.group, "domain": monitor.domain, "node": monitor.node}
    # Local first: traffic between the two reads must not make local exceed total.
    local = _read_value(host, f"{monitor.folder}/{_LOCAL_EVENT}")
    total = _read_value(host, f"{monitor.folder}/{_TOTAL_EVENT}")
    if local is not None:
        yield LOCAL.sample(counts.add(_LOCAL_EVENT, local), **labels)
    if total is not None:
        yield TOTAL.sample(counts.add(_TOTAL_EVENT, total), **labels)
    if local is not None and total is not None and monitor.domain not in state.incomparable:
        yield REMOTE.sample(_compute_remote(host, counts, monitor), **labels)


def _compute_remote(host: Host, counts: _TrafficCounts, monitor: _Monitor) -> int | None:
    """Returns total less local, as a sum that never falls, since a fall would look like a counter restart."""
    remote = counts.sums[_TOTAL_EVENT] - counts.sums[_LOCAL_EVENT]
    if remote < 0 and counts.remote is None:
        return host.note(f"{monitor.folder}/{_LOCAL_EVENT}", f"more than {_TOTAL_EVENT}, so remote traffic is unknown")
    counts.remote = max(counts.remote or 0, remote)
    return counts.remote


def _read_value(host: Host, path: str) -> int | None:
    if not host.exists(path):
        return None  # this processor lacks the event
    text = host.read(path)
    if text is None:
        return None
    if text in _ERROR_WORDS:
        return host.note(path, f"the kernel reports {text}")
    value = host.integer(text, path)
    return host.note(path, f"expected 0 or more, found {value}") if value is not None and value < 0 else value


def _map_domains_to_nodes(host: Host) -> dict[str, str]:
    """Returns the NUMA node of each L3 by its id; an L3 of several nodes has none."""
    by_node = read_cpus_by_node(host)
    node_by_domain: dict[str, str] = {}
    visited_cpus: set[int] = set()
    for name in sorted(host.names(_CPU), key=natural):
        cpu = re.fullmatch(r"cpu(\d{1,5})", name, re.ASCII)
        if cpu is None or int(cpu[1]) in visited_cpus:
            continue
        shared, number = _read_l3(host, f"{_CPU}/{name}/cache")
        visited_cpus |= shared
        sharing_nodes = [node for node, cpus in by_node.items() if cpus & shared]
        if number is not None and len(sharing_nodes) == 1:
            node_by_domain[str(number)] = sharing_nodes[0]
    return node_by_domain


def _read_l3(host: Host, cache: str) -> tuple[frozenset[int], int | None]:
    """Returns the CPUs that share an L3 cache, and its id, which names the resctrl domain."""
    for index in host.glob(f"{cache}/index[0-9]*"):
        if host.read(f"{index}/level", optional=True) == "3":
            return read_cpulist(host, f"{index}/shared_cpu_list") or frozenset(), host.read_int(f"{index}/id")
    return frozenset(), None


def _find_incomparable(host: Host) -> frozenset[str]:
    """
    Returns the domains whose events were reconfigured, so that total less local is not the remote traffic.

    AMD's events can be configured (mbm_*_bytes_config); all others count as their manufacturer defined them.
    """
    total, local = (
        dict(_MASKS.findall(host.read(f"{_INFO}/{event}_config", optional=True) or ""))
        for event in (_TOTAL_EVENT, _LOCAL_EVENT)
    )
    wrong = frozenset(
        domain for domain in total.keys() & local.keys() if (total[domain], local[domain]) != _DEFAULT_MASKS
    )
    if wrong:
        domains = ",".join(sorted(wrong, key=natural))
        host.note(
            f"{_INFO}/mbm_local_bytes_config", f"was changed in domain {domains}, so remote traffic is unknown there"
        )
    return wrong
