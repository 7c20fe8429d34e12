"""
Where the memory and the threads of each engine process are: per node, with the error of every estimate.

Asks move_pages(2) for the node of some thousand random pages of the process, which takes milliseconds whatever its
size; reading numa_maps instead would hold the process up for as long as its page tables are long. Everything else is
files: /proc/PID/status, stat, maps and task/*. Processes are found by `_engine_processes`, or named in the
configuration. https://docs.kernel.org/filesystems/proc.html, move_pages(2)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from collectors import Host, Reading, counter, gauge
from collectors._host.cpulist import parse_cpulist
from collectors._host.nodes import cpus_by_node, nodes
from collectors._process import cgroup, placement_request
from collectors._process.engine_processes import EngineProcess, find
from collectors._process.page_sample import FEWEST, MOST, Placement
from collectors._process.page_shares import SHARES, of_pages
from collectors._process.stat import Status, stat, status
from collectors._process.targets import Target
from collectors._process.threads import Threads, Watch

INTERVAL = 15.0
DEADLINE = 2.0
ISOLATED = True

INFO = gauge(
    "steadytok_process_info",
    "A process that holds an engine's memory, with its pid and starttime (clock ticks after boot), its kind of engine "
    "and its command's name; always 1.",
)
MEMORY = gauge(
    "steadytok_process_memory_bytes", "Memory of the process that is in RAM, by kind: anon, file, shmem, hugetlb."
)
SWAPPED = gauge("steadytok_process_swapped_bytes", "Anonymous memory of the process that is swapped out.")
MEMORY_ALLOWED = gauge(
    "steadytok_process_memory_allowed", "Whether the process's cpuset lets it have memory of the node: 1 or 0."
)
THREADS = gauge("steadytok_process_threads", "Threads whose last processor is on the node.")
THREADS_ALLOWED = gauge("steadytok_process_threads_allowed", "Threads whose affinity has a processor of the node.")
THREADS_BOUND = gauge("steadytok_process_threads_bound", "Threads whose affinity has processors of this node alone.")
RUN_SHARE = gauge(
    "steadytok_process_run_share_ratio",
    "Share of the threads' processor time since the last pass that was spent on the node, each thread's where it ran "
    "last.",
)
RUN_SECONDS = counter("steadytok_process_run_seconds_total", "User and system time of the process.")
MINOR_FAULTS = counter("steadytok_process_minor_faults_total", "Page faults of the process that needed no reading.")
MAJOR_FAULTS = counter("steadytok_process_major_faults_total", "Page faults of the process that needed reading.")
THREAD_MIGRATIONS = counter(
    "steadytok_process_thread_migrations_total", "Moves of the process's threads between processors."
)
PAGES_MIGRATED = counter(
    "steadytok_process_numa_pages_migrated_total", "Pages of the process that NUMA balancing has moved between nodes."
)
METRICS = (
    INFO,
    *SHARES,
    MEMORY,
    SWAPPED,
    MEMORY_ALLOWED,
    THREADS,
    THREADS_ALLOWED,
    THREADS_BOUND,
    RUN_SHARE,
    RUN_SECONDS,
    MINOR_FAULTS,
    MAJOR_FAULTS,
    THREAD_MIGRATIONS,
    PAGES_MIGRATED,
    *placement_request.METRICS,
    *cgroup.METRICS,
)

_FIELDS = {"anon": "RssAnon", "file": "RssFile", "shmem": "RssShmem", "hugetlb": "HugetlbPages"}  # of status
_ENDED = ("Z", "X")  # a zombie, and one that is being buried
_TICKS_PER_SECOND = 100  # USER_HZ, the same on every architecture that Linux has servers of


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which processes are looked at, besides those that `engines:` names by their URL."""

    engines: tuple[Target, ...] = ()
    """Engines named by URL, command line or pid; each gets its name as the label `engine`."""

    discover: bool = True
    """Also engines that nobody named, found by their command line, as KIND:PORT where it says a port, else as KIND."""

    pages: int = 8192
    """Resident pages asked of each process; the error of a share is at most 0.5 / sqrt(pages)."""

    def __post_init__(self) -> None:
        """Raises ValueError where so many pages cannot be asked."""
        if not FEWEST <= self.pages <= MOST:
            raise ValueError(f"pages: expected {FEWEST} to {MOST}, found {self.pages}")


class _Kept:
    """What is remembered from pass to pass, by (pid, start): another process with that pid is another."""

    def __init__(self) -> None:
        self.watches: dict[tuple[int, int], Watch] = {}


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """One pass over the processes that are found; all series have the labels engine and rank."""
    processes = find(host, config.engines, discover=config.discover)
    kept = host.kept(_Kept)
    kept.watches = {(one.pid, one.started): kept.watches.get((one.pid, one.started), Watch()) for one in processes}
    if not processes:
        return
    known, cpus_of = nodes(host), cpus_by_node(host)
    node_of = {cpu: node for node, cpus in cpus_of.items() for cpu in cpus}
    for one in processes:
        who = {"engine": one.engine, "rank": one.rank}
        told = status(host, one.pid)
        threads = kept.watches[one.pid, one.started].look(host, one.pid, node_of)
        placement = _placement(host, one, config.pages)
        around = list(_around(host, one, cpus_of, whole=len(cpus_of) == len(known), who=who))
        seen = stat(host, one.pid)
        if seen is None or seen.started != one.started or seen.state in _ENDED:
            host.note(f"process {one.pid}", "ended while it was read")
            continue
        which = {"pid": str(one.pid), "starttime": str(one.started)}
        yield INFO.sample(1.0, **who, **which, kind=one.kind, command=one.command)
        yield RUN_SECONDS.sample(seen.ticks / _TICKS_PER_SECOND, **who)
        yield MINOR_FAULTS.sample(seen.minor_faults, **who)
        yield MAJOR_FAULTS.sample(seen.major_faults, **who)
        if told is not None:
            yield from _of_memory(told, known, who)
        yield from _of_threads(threads, list(cpus_of), whole=len(cpus_of) == len(known), who=who)
        yield from around
        if placement is not None:
            yield from of_pages(placement, known, threads.ticks, who)


def _around(
    host: Host, one: EngineProcess, cpus_of: dict[str, frozenset[int]], *, whole: bool, who: dict[str, str]
) -> Iterator[Reading]:
    """What was asked of the process, and the limits above it."""
    if whole:  # else which node a CPU has, and which nodes are all of them, cannot be told
        yield from placement_request.readings(host, one, cpus_of, who)
    yield from cgroup.readings(host, one.pid, who)


def _of_memory(told: Status, known: Sequence[str], who: dict[str, str]) -> Iterator[Reading]:
    for kind, field in _FIELDS.items():
        yield MEMORY.sample(told.sizes.get(field), **who, kind=kind)
    yield SWAPPED.sample(told.sizes.get("VmSwap"), **who)
    allowed = parse_cpulist(told.nodes)
    for node in known if allowed is not None else ():
        yield MEMORY_ALLOWED.sample(int(node) in (allowed or ()), **who, node=node)


def _of_threads(threads: Threads, known: Sequence[str], *, whole: bool, who: dict[str, str]) -> Iterator[Reading]:
    ticks = threads.ticks.total() if threads.ticks is not None else 0
    bound = threads.bound if whole else None  # a node whose CPUs are not known may be allowed too
    for node in known:
        counts = ((THREADS, threads.running), (THREADS_ALLOWED, threads.allowed), (THREADS_BOUND, bound))
        for metric, by_node in counts:
            yield metric.sample(None if by_node is None else by_node[node], **who, node=node)
        if threads.ticks is not None and ticks:
            yield RUN_SHARE.sample(threads.ticks[node] / ticks, **who, node=node)
    yield THREAD_MIGRATIONS.sample(threads.thread_migrations, **who)
    yield PAGES_MIGRATED.sample(threads.pages_migrated, **who)


def _placement(host: Host, one: EngineProcess, pages: int) -> Placement | None:
    if not host.live:
        return None
    from collectors._process.move_pages import sample  # ctypes, for hosts that have an engine only

    return sample(host, one.pid, one.started, pages)
