"""
Out-of-memory kills, overheating and machine checks in the kernel's log.

Reads /dev/kmsg, which needs CAP_SYSLOG where kernel.dmesg_restrict is 1.
https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg

Counts start at 0 with the agent; of older messages only the last kills are reported. Only messages of the kernel itself
count: any root process may write to the log, but not as the kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from collectors import Host, Reading, counter, gauge
from collectors._kernel.kmsg import Cursor, KernelRecord, read_new

INTERVAL = 1.0
PRIVILEGED = True

OOM_KILLS = counter(
    "steadytok_kmsg_oom_kills_total",
    "Processes killed by the out-of-memory killer since the agent started: of the whole host (none), of the nodes that "
    "a cpuset or a memory policy allows, or of a cgroup (memcg); before Linux 5.0 only none and memcg are "
    "distinguished.",
)
LAST_OOM_KILL = gauge(
    "steadytok_kmsg_last_oom_kill_timestamp_seconds",
    "When the last kill of each constraint was, Unix time, with its nodes, process and cgroup.",
)
THROTTLE_MESSAGES = counter(
    "steadytok_kmsg_throttle_messages_total",
    "Kernel messages that a core or package is too hot, since the agent started; the kernel limits their rate.",
)
MACHINE_CHECKS = counter(
    "steadytok_kmsg_machine_checks_total",
    "Kernel messages that announce a machine check, since the agent started; one event may have two.",
)
METRICS = (OOM_KILLS, LAST_OOM_KILL, THROTTLE_MESSAGES, MACHINE_CHECKS)
HINT_ABSENT = "this host has no /dev/kmsg: usual in a container"
HINT_REFUSED = "sudo setcap cap_syslog+ep on a private interpreter, or run as the systemd service"

_CONSTRAINTS = ("none", "cpuset", "memory_policy", "memcg")
# A list of nodes and a cgroup's name may have commas, so each part ends where the next key begins.
_OOM_KILL = re.compile(
    r"oom-kill:constraint=CONSTRAINT_(NONE|CPUSET|MEMORY_POLICY|MEMCG),nodemask=(?P<nodemask>\(null\)|[\d,-]*),"
    r"cpuset=.*?,mems_allowed=(?P<allowed>[\d,-]*),(?:global_oom|oom_memcg=(?P<limited>.*?))"
    r"(?:,task_memcg=(?P<cgroup>.*?))?,task=(?P<victim>.*),pid=(?P<pid>\d+),uid=\d+"
)
# Linux before 5.0 has no oom-kill: line. Nor have the further victims of a cgroup that is killed as a whole.
_KILLED = re.compile(
    r"(?P<memcg>Memory cgroup out|Out) of memory(?: \([^)]*\))?: Kill(?:ed)? process (?P<pid>\d+),? \((?P<victim>.*?)\)"
)
_THROTTLED = re.compile(r"(?:mce: )?CPU\d+: (?:Core|Package) temperature (?:is )?above threshold")
_MACHINE_CHECK = re.compile(r"mce: \[Hardware Error\]: (?:Machine check events logged|CPU \d+: Machine Check)")


class Kill(NamedTuple):
    """One process killed by the out-of-memory killer; `nodes` and `cgroup` are empty if none confined it."""

    constraint: str
    nodes: str
    victim: str
    cgroup: str
    pid: str


class _KmsgState:
    """State from pass to pass."""

    def __init__(self) -> None:
        self.cursor = Cursor()
        self.kills = dict.fromkeys(_CONSTRAINTS, 0)
        self.throttled = 0
        self.machine_checks = 0
        self.last_kills: dict[
            str, tuple[Kill, int]
        ] = {}  # by constraint: a kill with another constraint must not replace this one
        self.last_counted_pid = ""  # the pid of the last counted kill: each kill has two lines


def collect(host: Host) -> Iterator[Reading]:
    """Reads the new messages; yields nothing where the log cannot be read."""
    state = host.get_state(_KmsgState)
    batch = read_new(host, state.cursor)
    if batch is None:
        return
    for record in batch.records:
        if record.facility == 0:
            _count_record(state, record, is_new=not batch.is_backlog)
    for constraint, count in state.kills.items():
        yield OOM_KILLS.sample(count, constraint=constraint)
    yield THROTTLE_MESSAGES.sample(state.throttled)
    yield MACHINE_CHECKS.sample(state.machine_checks)
    for kill, microseconds in state.last_kills.values():
        labels = {"constraint": kill.constraint, "nodes": kill.nodes, "victim": kill.victim, "cgroup": kill.cgroup}
        yield LAST_OOM_KILL.sample(_to_unix_time(host, microseconds), **labels)


def parse_kill(text: str) -> Kill | None:
    """Returns the kill in a message, or None."""
    if match := _OOM_KILL.fullmatch(text):
        constraint = match[1].lower()
        nodes = {"memory_policy": match["nodemask"], "cpuset": match["allowed"]}.get(constraint, "")
        nodes = "" if nodes == "(null)" else nodes
        cgroup = match["limited"] or match["cgroup"] or ""
        return Kill(constraint, nodes, match["victim"], cgroup, match["pid"])
    if match := _KILLED.match(text):
        constraint = "memcg" if match["memcg"].startswith("Memory") else "none"
        return Kill(constraint, "", match["victim"], "", match["pid"])
    return None


def _count_record(state: _KmsgState, record: KernelRecord, *, is_new: bool) -> None:
    kill = parse_kill(record.text)
    if kill is not None and not (kill.pid == state.last_counted_pid and not record.text.startswith("oom-kill:")):
        state.last_counted_pid = kill.pid
        state.last_kills[kill.constraint] = kill, record.microseconds
        state.kills[kill.constraint] += is_new
    state.throttled += is_new and _THROTTLED.match(record.text) is not None
    state.machine_checks += is_new and _MACHINE_CHECK.match(record.text) is not None


def _to_unix_time(host: Host, microseconds: int) -> float | None:
    """Converts the kernel's clock, which starts at boot and lags by any time that the host was suspended."""
    for line in host.lines("proc/stat"):
        if line.startswith("btime "):
            boot_time = host.integer(line.removeprefix("btime ").strip(), "proc/stat")
            return None if boot_time is None or boot_time < 0 else boot_time + microseconds / 1e6
    return host.note("proc/stat", "expected a line btime SECONDS")
