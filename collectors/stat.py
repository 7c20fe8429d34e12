"""
CPU time by mode, summed over each NUMA node, and the scheduler's load, from /proc/stat.

https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import add, sub

from collectors import Host, Labels, Reading, Sample, counter, gauge
from collectors._host.nodes import list_nodes, read_cpulist, read_cpus_by_node

INTERVAL = 1.0

_FILE = "proc/stat"
_TICKS_PER_SECOND = 100  # USER_HZ, part of the ABI: 100 on every architecture but alpha and ia64
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
_CPU_LINE = re.compile(r"^cpu(\d{1,5})((?: \d{1,19}){10})(?: \d+)*$", re.ASCII | re.MULTILINE)
_STEP_BACK = 3 * _TICKS_PER_SECOND  # of one CPU: idle and iowait may fall by a few ticks, see node_exporter#1903
_NUMBER = re.compile(r"\d{1,19}", re.ASCII)

CPU_SECONDS = counter(
    "steadytok_stat_cpu_seconds_total",
    "Time of the node's CPUs by mode; user already includes guest, and nice includes guest_nice. It does not fall "
    "when a CPU goes offline.",
)
CPUS_ONLINE = gauge("steadytok_stat_cpus_online", "CPUs of the node that are online.")
_BY_KEY = (
    ("ctxt", counter("steadytok_stat_context_switches_total", "Context switches of all CPUs.")),
    ("btime", gauge("steadytok_stat_boot_time_seconds", "When the host was started, in seconds since 1970.")),
    ("processes", counter("steadytok_stat_forks_total", "Processes and threads ever started.")),
    ("procs_running", gauge("steadytok_stat_processes_running", "Tasks that run or could run now.")),
    ("procs_blocked", gauge("steadytok_stat_processes_blocked", "Tasks that wait for a disk now.")),
)
METRICS = (CPU_SECONDS, CPUS_ONLINE, *(metric for _, metric in _BY_KEY))
UEVENTS = ("cpu",)

Ticks = list[int]
"""One number for each mode, in 1/100 s."""


@dataclass(slots=True)
class _NodeTicks:
    """The ticks that a node's CPUs have reached, and the offset that makes up for CPUs that came or went."""

    labels: tuple[Labels, ...]
    cpus: tuple[str, ...] = ()
    has_changed: bool = False
    offset: Ticks = field(default_factory=lambda: [0] * len(_MODES))
    reached: Ticks = field(default_factory=lambda: [0] * len(_MODES))


class _StatState:
    def __init__(self) -> None:
        self.cpu_numbers: list[str] = []
        self.cpus: dict[str, tuple[str, ...]] = {}
        self.nodes: dict[str, _NodeTicks] = {}
        self.complete = False


def collect(host: Host) -> Iterator[Reading]:
    """Reads CPU time and online CPUs of each node, then the host's own numbers."""
    text = host.read(_FILE)
    if text is None:
        return
    # The line of interrupts, by far the longest on a large host, is not needed.
    cpus, _, rest = text.partition("\nintr ")
    yield from _collect_nodes(host, dict(_CPU_LINE.findall(cpus)))
    yield from _collect_numbers(host, rest or text)


def _collect_numbers(host: Host, text: str) -> Iterator[Reading]:
    values = {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}
    for key, metric in _BY_KEY:
        value = values.get(key, "")
        if _NUMBER.fullmatch(value):
            yield Sample(metric, (), float(value))
        else:
            host.note(_FILE, f"expected a line such as `{key} 123`")


def _collect_nodes(host: Host, lines: dict[str, str]) -> Iterator[Reading]:
    cpu_state = host.get_state(_StatState)
    cpu_numbers = list(lines)
    # The nodes are read again when CPUs come or go: /proc/stat lists only online CPUs.
    if not cpu_state.complete or cpu_numbers != cpu_state.cpu_numbers:
        _refresh_nodes(host, cpu_state, lines)
        cpu_state.cpu_numbers = cpu_numbers
    for node, cpus in cpu_state.cpus.items():
        if all(cpu in lines for cpu in cpus):
            yield Sample(CPUS_ONLINE, (("node", node),), float(len(cpus)))
            yield from _collect_seconds(cpu_state.nodes[node], [[*map(int, lines[cpu].split())] for cpu in cpus])
        else:
            # Without a CPU the sum would fall, and a falling counter looks like a restart.
            host.note(_FILE, f"expected ten numbers for each CPU of node {node}")


def _collect_seconds(node_ticks: _NodeTicks, rows: list[Ticks]) -> Iterator[Reading]:
    if not rows:
        return
    ticks = [*map(sum, zip(*rows, strict=True))]
    falls = map(sub, node_ticks.reached, map(add, ticks, node_ticks.offset))
    # After a live migration all times begin anew (https://github.com/influxdata/telegraf/issues/2871). Without a new
    # offset the counters would stand still for days, until the old times are reached again.
    if node_ticks.has_changed or max(falls) > _STEP_BACK * len(rows):
        node_ticks.offset, node_ticks.has_changed = [*map(sub, node_ticks.reached, ticks)], False
    # The kernel's idle and iowait may fall a little; a counter must not.
    node_ticks.reached = [*map(max, node_ticks.reached, map(add, ticks, node_ticks.offset))]
    for labels, reached in zip(node_ticks.labels, node_ticks.reached, strict=True):
        yield Sample(CPU_SECONDS, labels, reached / _TICKS_PER_SECOND)


def _refresh_nodes(host: Host, cpu_state: _StatState, lines: dict[str, str]) -> None:
    cpu_state.cpus = _read_online_cpus(host, lines)
    has_all_cpus = {cpu for cpus in cpu_state.cpus.values() for cpu in cpus} == lines.keys()
    cpu_state.complete = has_all_cpus and len(cpu_state.cpus) >= len(list_nodes(host))
    for node, cpus in cpu_state.cpus.items():
        node_ticks = cpu_state.nodes.setdefault(
            node, _NodeTicks(tuple((("mode", mode), ("node", node)) for mode in _MODES), cpus)
        )
        node_ticks.has_changed = node_ticks.has_changed or node_ticks.cpus != cpus
        node_ticks.cpus = cpus


def _read_online_cpus(host: Host, lines: dict[str, str]) -> dict[str, tuple[str, ...]]:
    online = read_cpulist(host, "sys/devices/system/cpu/online")
    by_node = read_cpus_by_node(host)
    if not by_node and not list_nodes(host):  # a kernel without NUMA has one node and no folder for it
        by_node = {"0": frozenset(map(int, lines)) if online is None else online}
    elif online is not None:  # older kernels also list a node's offline CPUs
        by_node = {node: cpus & online for node, cpus in by_node.items()}
    return {node: tuple(map(str, sorted(cpus))) for node, cpus in by_node.items()}
