"""
Memory and threads of each engine process, per node, with the error of every estimate.

Asks move_pages(2) for the node of several thousand random pages of the process, which takes milliseconds for any size.
Reading numa_maps instead would block the process for a time that grows with its page tables. All other values come from
/proc/PID/status, stat, maps and task/*. Processes are found by `_process/engine_processes.py`, or named in the
configuration. https://docs.kernel.org/filesystems/proc.html, move_pages(2)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from collectors import EngineAddress, Host, Reading, counter, gauge
from collectors._host.cpulist import parse_cpulist
from collectors._host.nodes import list_nodes, read_cpus_by_node
from collectors._process import cgroup, placement_request
from collectors._process.engine_processes import EngineProcess, find_processes
from collectors._process.page_sample import MAX_PAGES, MIN_PAGES, PageSample
from collectors._process.page_shares import SHARES, collect_shares
from collectors._process.stat import Status, read_stat, read_status
from collectors._process.targets import ProcessTarget
from collectors._process.threads import Threads, ThreadTracker

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
HINT_ABSENT = "no known engine runs here: name yours under collectors.process.engines in the configuration"
HINT_REFUSED = "only root may see where pages are (CAP_SYS_PTRACE); run as the systemd service"

_FIELDS = {"anon": "RssAnon", "file": "RssFile", "shmem": "RssShmem", "hugetlb": "HugetlbPages"}  # of status
_ENDED_STATES = ("Z", "X")  # zombie, dead
_TICKS_PER_SECOND = 100  # USER_HZ, the same on every server architecture of Linux


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The processes that are read, besides those that `engines:` names by their URL."""

    engines: tuple[ProcessTarget, ...] = ()
    """Engines named by URL, command line or pid; each gets its name as the label `engine`."""

    discover: bool = True
    """Also reads engines found by command line, named KIND:PORT where the command line has a port, else KIND."""

    pages: int = 8192
    """Resident pages queried of each process; the error of a share is at most 0.5 / sqrt(pages)."""

    def __post_init__(self) -> None:
        """Raises ValueError where this number of pages cannot be queried."""
        if not MIN_PAGES <= self.pages <= MAX_PAGES:
            raise ValueError(f"pages: expected {MIN_PAGES} to {MAX_PAGES}, found {self.pages}")


def with_engines(config: Config, engines: Sequence[EngineAddress]) -> Config:
    """Returns the configuration that finds these engines too; the operator's own targets come first."""
    targets = (ProcessTarget(name=engine.name, url=engine.url) for engine in engines)
    return msgspec.structs.replace(config, engines=(*config.engines, *targets))


class _ProcessState:
    """State from pass to pass, by (pid, start time), since a later process may have the same pid."""

    def __init__(self) -> None:
        self.trackers: dict[tuple[int, int], ThreadTracker] = {}


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """Reads the processes; all series have the labels engine and rank."""
    processes = find_processes(host, config.engines, discover=config.discover)
    state = host.get_state(_ProcessState)
    state.trackers = {
        (process.pid, process.start_time): state.trackers.get((process.pid, process.start_time), ThreadTracker())
        for process in processes
    }
    if not processes:
        return
    node_ids, cpus_of = list_nodes(host), read_cpus_by_node(host)
    node_by_cpu = {cpu: node for node, cpus in cpus_of.items() for cpu in cpus}
    for process in processes:
        labels = {"engine": process.engine, "rank": process.rank}
        process_status = read_status(host, process.pid)
        threads = state.trackers[process.pid, process.start_time].update(host, process.pid, node_by_cpu)
        page_sample = _sample_process(host, process, config.pages)
        context_readings = list(
            _collect_context(host, process, cpus_of, is_complete=len(cpus_of) == len(node_ids), labels=labels)
        )
        process_stat = read_stat(host, process.pid)
        if process_stat is None or process_stat.start_time != process.start_time or process_stat.state in _ENDED_STATES:
            host.note(f"process {process.pid}", "ended during the pass")
            continue
        identity = {"pid": str(process.pid), "starttime": str(process.start_time)}
        yield INFO.sample(1.0, **labels, **identity, kind=process.kind, command=process.command)
        yield RUN_SECONDS.sample(process_stat.ticks / _TICKS_PER_SECOND, **labels)
        yield MINOR_FAULTS.sample(process_stat.minor_faults, **labels)
        yield MAJOR_FAULTS.sample(process_stat.major_faults, **labels)
        if process_status is not None:
            yield from _collect_memory(process_status, node_ids, labels)
        yield from _collect_threads(threads, list(cpus_of), is_complete=len(cpus_of) == len(node_ids), labels=labels)
        yield from context_readings
        if page_sample is not None:
            yield from collect_shares(page_sample, node_ids, threads.ticks, labels)


def _collect_context(
    host: Host, process: EngineProcess, cpus_of: dict[str, frozenset[int]], *, is_complete: bool, labels: dict[str, str]
) -> Iterator[Reading]:
    """Yields the placement requested of the process, and the limits above it."""
    if is_complete:  # otherwise the CPUs' nodes, or the set of all nodes, are unknown
        yield from placement_request.collect_requests(host, process, cpus_of, labels)
    yield from cgroup.collect_cgroup(host, process.pid, labels)


def _collect_memory(process_status: Status, node_ids: Sequence[str], labels: dict[str, str]) -> Iterator[Reading]:
    for kind, field in _FIELDS.items():
        yield MEMORY.sample(process_status.sizes.get(field), **labels, kind=kind)
    yield SWAPPED.sample(process_status.sizes.get("VmSwap"), **labels)
    allowed = parse_cpulist(process_status.nodes)
    for node in node_ids if allowed is not None else ():
        yield MEMORY_ALLOWED.sample(int(node) in (allowed or ()), **labels, node=node)


def _collect_threads(
    threads: Threads, node_ids: Sequence[str], *, is_complete: bool, labels: dict[str, str]
) -> Iterator[Reading]:
    ticks = threads.ticks.total() if threads.ticks is not None else 0
    bound = threads.bound if is_complete else None  # a node with unknown CPUs may be allowed too
    for node in node_ids:
        counts = ((THREADS, threads.running), (THREADS_ALLOWED, threads.allowed), (THREADS_BOUND, bound))
        for metric, by_node in counts:
            yield metric.sample(None if by_node is None else by_node[node], **labels, node=node)
        if threads.ticks is not None and ticks:
            yield RUN_SHARE.sample(threads.ticks[node] / ticks, **labels, node=node)
    yield THREAD_MIGRATIONS.sample(threads.thread_migrations, **labels)
    yield PAGES_MIGRATED.sample(threads.pages_migrated, **labels)


def _sample_process(host: Host, process: EngineProcess, pages: int) -> PageSample | None:
    if not host.live:
        return None
    from collectors._process.move_pages import sample_pages  # imports ctypes, needed only on hosts with an engine

    return sample_pages(host, process.pid, process.start_time, pages)
