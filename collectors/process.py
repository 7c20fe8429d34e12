"""
Where the memory and the threads of each engine process are: per node, with the error of every estimate.

Asks move_pages(2) for the node of some thousand random pages of the process, which takes milliseconds whatever its
size; reading numa_maps instead would hold the process up for as long as its page tables are long. Everything else is
files: /proc/PID/status, stat, maps and task/*. Processes are found by `_engine_processes`, or named in the
configuration. https://docs.kernel.org/filesystems/proc.html, move_pages(2)
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from collectors import Host, Reading, counter, gauge
from collectors._engine_processes import Target

INTERVAL = 15.0
DEADLINE = 2.0
ISOLATED = True

INFO = gauge(
    "steadytok_process_info",
    "1 for a process that holds an engine's memory, with its pid, its kind of engine, and its command's name.",
)
NODE_SHARE = gauge(
    "steadytok_process_node_share_ratio", "Share of the process's resident pages that are on the node, by a sample."
)
NODE_SHARE_ERROR = gauge(
    "steadytok_process_node_share_error_ratio", "Standard error of that share, 0 if all were asked."
)
KIND_SHARE = gauge(
    "steadytok_process_kind_share_ratio",
    "Of the process's resident pages of one kind of mapping (anon, file, shmem, hugetlb) the share on the node.",
)
KIND_SHARE_ERROR = gauge(
    "steadytok_process_kind_share_error_ratio", "Standard error of that share, 0 if all were asked."
)
SAMPLED = gauge("steadytok_process_sampled_pages", "Resident pages behind the shares, by kind of mapping.")
LOCAL = gauge(
    "steadytok_process_local_ratio",
    "Share of the process's resident pages that are on the nodes where its threads run: those with 5 % or more of "
    "its processor time.",
)
LOCAL_ERROR = gauge("steadytok_process_local_error_ratio", "Standard error of the local share, 0 if all were asked.")
MEMORY = gauge(
    "steadytok_process_memory_bytes", "Memory of the process that is in RAM, by kind: anon, file, shmem, hugetlb."
)
SWAPPED = gauge("steadytok_process_swapped_bytes", "Anonymous memory of the process that is swapped out.")
MEMORY_ALLOWED = gauge(
    "steadytok_process_memory_allowed", "1 where the process's cpuset lets it have memory of the node, else 0."
)
THREADS = gauge("steadytok_process_threads", "Threads whose last processor is on the node.")
THREADS_ALLOWED = gauge("steadytok_process_threads_allowed", "Threads whose affinity has a processor of the node.")
THREADS_BOUND = gauge("steadytok_process_threads_bound", "Threads whose affinity has processors of this node alone.")
RUN_SHARE = gauge(
    "steadytok_process_run_share_ratio",
    "Share of the threads' processor time since the last pass that was spent on the node, each thread's where it ran "
    "last.",
)
CPU_SECONDS = counter("steadytok_process_cpu_seconds_total", "User and system time of the process.")
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
    NODE_SHARE,
    NODE_SHARE_ERROR,
    KIND_SHARE,
    KIND_SHARE_ERROR,
    SAMPLED,
    LOCAL,
    LOCAL_ERROR,
    MEMORY,
    SWAPPED,
    MEMORY_ALLOWED,
    THREADS,
    THREADS_ALLOWED,
    THREADS_BOUND,
    RUN_SHARE,
    CPU_SECONDS,
    MINOR_FAULTS,
    MAJOR_FAULTS,
    THREAD_MIGRATIONS,
    PAGES_MIGRATED,
)


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which processes are looked at, besides those that `engines:` names by their URL."""

    engines: tuple[Target, ...] = ()
    """Engines named by URL, command line or pid; each gets its name as the label `engine`."""

    discover: bool = True
    """Also engines that nobody named, found by their command line: as KIND:PORT, or KIND where none listens."""

    pages: int = 4096
    """Resident pages asked of each process; the error of a share is at most 0.5 / sqrt(pages)."""


def collect(host: Host, config: Config) -> Iterator[Reading]:
    """One pass over the processes that are found; all series have the labels engine and rank."""
    yield from ()
