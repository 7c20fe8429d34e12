"""
Reads on which nodes a process's threads run and may run, and how often threads and pages were moved.

Reads /proc/PID/task/*/{stat,status,sched}. A thread's counts end with it, so this module keeps sums.
https://docs.kernel.org/scheduler/sched-debug.html
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from collectors._host.cpulist import parse_cpulist
from collectors._host.host import Host
from collectors._process.stat import read_stat, read_status

_MAX_THREADS = 4096  # threads of one process; reading each takes 50 µs
_COUNTS = re.compile(r"^(se\.nr_migrations|numa_pages_migrated)\s*:\s*(\d{1,20})$", re.ASCII | re.MULTILINE)
_MOVES = ("se.nr_migrations", "numa_pages_migrated")

NodeByCpu = Mapping[int, str]
"""The node of each CPU."""


class Threads(NamedTuple):
    """
    Facts about a process's threads, by node; None where they are not known of every thread.

    `running`: threads by the node where they ran last. `ticks`: processor time by the same node, since the last pass
    with any. `allowed` and `bound`: threads whose affinity includes CPUs of the node, and includes no other node's.
    """

    running: Counter[str] | None
    ticks: Counter[str] | None
    allowed: Counter[str] | None
    bound: Counter[str] | None
    thread_migrations: int | None
    pages_migrated: int | None


class _Thread(NamedTuple):
    node: str
    ticks: int
    nodes: frozenset[str] | None
    moves: tuple[int | None, ...]


class ThreadTracker:
    """The state of one process's threads from pass to pass."""

    def __init__(self) -> None:
        self._ticks_by_thread: dict[str, int] = {}
        self._ticks: Counter[str] | None = None
        self._moves = [_MonotonicSum() for _ in _MOVES]

    def update(self, host: Host, pid: int, node_by_cpu: NodeByCpu) -> Threads:
        """Reads all threads once and returns the totals."""
        threads = _read_threads(host, pid, node_by_cpu)
        if threads is None:
            return Threads(None, None, None, None, None, None)
        ticks: Counter[str] = Counter()
        for name, thread in threads.items():
            ticks[thread.node] += max(0, thread.ticks - self._ticks_by_thread.get(name, 0))
        if self._ticks is None or ticks.total():
            self._ticks = ticks  # an idle process keeps the nodes of its last work
        self._ticks_by_thread = {name: thread.ticks for name, thread in threads.items()}
        running = Counter(thread.node for thread in threads.values())
        allowed, bound = _count_affinity(threads)
        moves = (
            total.add({name: thread.moves[index] for name, thread in threads.items()})
            for index, total in enumerate(self._moves)
        )
        return Threads(running, self._ticks, allowed, bound, *moves)


class _MonotonicSum:
    """A count over all threads that does not fall when one of them ends."""

    def __init__(self) -> None:
        self._total = 0
        self._last: dict[str, int] = {}

    def add(self, counts: Mapping[str, int | None]) -> int | None:
        """Returns the sum so far; None where a thread's count is missing, which a later pass makes good."""
        last, self._last = self._last, {}
        for name, count in counts.items():
            previous = last.get(name, 0)
            self._last[name] = previous if count is None else count
            self._total += max(0, self._last[name] - previous)
        return None if None in counts.values() else self._total


def _read_threads(host: Host, pid: int, node_by_cpu: NodeByCpu) -> dict[str, _Thread] | None:
    """Returns every thread by its number; None, with a note, where one cannot be read."""
    folder = f"proc/{pid}/task"
    names = host.names(folder)
    if len(names) > _MAX_THREADS:
        return host.note(folder, f"more than {_MAX_THREADS} threads are not read")
    threads: dict[str, _Thread] = {}
    for name in names:
        thread = _read_thread(host, f"{pid}/task/{name}", node_by_cpu)
        if thread is not None:
            threads[name] = thread
        elif host.exists(f"{folder}/{name}"):  # otherwise it has ended
            return host.note(f"{folder}/{name}", "cannot be read, or runs on a processor of no known node")
    return threads or None


def _read_thread(host: Host, task: str, node_by_cpu: NodeByCpu) -> _Thread | None:
    thread_stat = read_stat(host, task)
    if thread_stat is None or thread_stat.processor not in node_by_cpu:
        return None
    thread_status = read_status(host, task)
    cpus = parse_cpulist(thread_status.cpus) if thread_status is not None else None
    # The list also has CPUs that do not exist: those of empty sockets.
    nodes = None if cpus is None else frozenset(node_by_cpu[cpu] for cpu in cpus if cpu in node_by_cpu)
    moves = dict(_COUNTS.findall(host.read(f"proc/{task}/sched", optional=True) or ""))
    return _Thread(
        node_by_cpu[thread_stat.processor], thread_stat.ticks, nodes, tuple(map(_parse_number, map(moves.get, _MOVES)))
    )


def _parse_number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _count_affinity(threads: Mapping[str, _Thread]) -> tuple[Counter[str] | None, Counter[str] | None]:
    allowed: Counter[str] = Counter()
    bound: Counter[str] = Counter()
    for thread in threads.values():
        if not thread.nodes:
            return None, None
        allowed.update(thread.nodes)
        if len(thread.nodes) == 1:
            bound.update(thread.nodes)
    return allowed, bound
