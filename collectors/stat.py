"""
What the CPUs did, summed over each NUMA node, and what the scheduler has to do, from /proc/stat.

https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import add, sub

from collectors import Host, Labels, Reading, Sample, counter, gauge
from collectors._host.nodes import cpus_by_node, listed, nodes

INTERVAL = 1.0

_FILE = "proc/stat"
_TICKS_PER_SECOND = 100  # USER_HZ, part of the ABI: 100 on every architecture but alpha and ia64
_MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
_CPU_LINE = re.compile(r"^cpu(\d{1,5})((?: \d{1,19}){10})(?: \d+)*$", re.ASCII | re.MULTILINE)
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

Ticks = list[int]
"""One number for each mode, in 1/100 s."""


@dataclass(slots=True)
class _Node:
    """What a node's CPUs have reached, and what its sum must be moved by because CPUs came or went."""

    labels: tuple[Labels, ...]
    cpus: tuple[str, ...] = ()
    moved: bool = False
    offset: Ticks = field(default_factory=lambda: [0] * len(_MODES))
    reached: Ticks = field(default_factory=lambda: [0] * len(_MODES))


class _Kept:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.cpus: dict[str, tuple[str, ...]] = {}
        self.nodes: dict[str, _Node] = {}
        self.complete = False


def collect(host: Host) -> Iterator[Reading]:
    """CPU time and online CPUs of each node, then the host's own numbers."""
    text = host.read(_FILE)
    if text is None:
        return
    # The line of interrupts, the longest by far on a large host, has nothing for us.
    cpus, _, rest = text.partition("\nintr ")
    yield from _nodes(host, dict(_CPU_LINE.findall(cpus)))
    yield from _numbers(host, rest or text)


def _numbers(host: Host, text: str) -> Iterator[Reading]:
    values = {key: value for key, _, value in (line.partition(" ") for line in text.splitlines())}
    for key, metric in _BY_KEY:
        value = values.get(key, "")
        if _NUMBER.fullmatch(value):
            yield Sample(metric, (), float(value))
        else:
            host.note(_FILE, f"expected a line such as `{key} 123`")


def _nodes(host: Host, lines: dict[str, str]) -> Iterator[Reading]:
    kept = host.kept(_Kept)
    seen = list(lines)
    # A CPU that came or went is the sign to look at the nodes again: /proc/stat lists the online CPUs only.
    if not kept.complete or seen != kept.seen:
        _look_at_nodes(host, kept, lines)
        kept.seen = seen
    for node, cpus in kept.cpus.items():
        if all(cpu in lines for cpu in cpus):
            yield Sample(CPUS_ONLINE, (("node", node),), float(len(cpus)))
            yield from _seconds(kept.nodes[node], [[*map(int, lines[cpu].split())] for cpu in cpus])
        else:
            # A sum that lacks a CPU would fall, and a counter that falls looks like a restart.
            host.note(_FILE, f"expected ten numbers for each CPU of node {node}")


def _seconds(state: _Node, rows: list[Ticks]) -> Iterator[Reading]:
    if not rows:
        return
    ticks = [*map(sum, zip(*rows, strict=True))]
    if state.moved:
        state.offset, state.moved = [*map(sub, state.reached, ticks)], False
    # The kernel's idle and iowait may go back a little; a counter may not.
    state.reached = [*map(max, state.reached, map(add, ticks, state.offset))]
    for labels, reached in zip(state.labels, state.reached, strict=True):
        yield Sample(CPU_SECONDS, labels, reached / _TICKS_PER_SECOND)


def _look_at_nodes(host: Host, kept: _Kept, lines: dict[str, str]) -> None:
    kept.cpus = _online_cpus(host, lines)
    kept.complete = {cpu for cpus in kept.cpus.values() for cpu in cpus} == lines.keys()
    for node, cpus in kept.cpus.items():
        state = kept.nodes.setdefault(node, _Node(tuple((("mode", mode), ("node", node)) for mode in _MODES), cpus))
        state.moved = state.moved or state.cpus != cpus
        state.cpus = cpus


def _online_cpus(host: Host, lines: dict[str, str]) -> dict[str, tuple[str, ...]]:
    online = listed(host, "sys/devices/system/cpu/online")
    by_node = cpus_by_node(host)
    if not by_node and not nodes(host):  # a kernel without NUMA has one node and no folder for it
        by_node = {"0": frozenset(map(int, lines)) if online is None else online}
    elif online is not None:  # older kernels list a node's offline CPUs too
        by_node = {node: cpus & online for node, cpus in by_node.items()}
    return {node: tuple(map(str, sorted(cpus))) for node, cpus in by_node.items()}
