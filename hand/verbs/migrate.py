"""
migrate: moves anonymous pages of one process from one node to another, up to a number of bytes.

Pages that the process itself has bound or interleaved stay: their owner had a reason. Only numa_maps has their policy.
The kernel walks every page of the process to write numa_maps, and blocks the process's mmap meanwhile. Every request
pays that, so a caller asks for many bytes seldom, and not for few bytes often.
https://www.kernel.org/doc/Documentation/filesystems/proc.rst (numa_maps)
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from hand import pages
from hand.arguments import Arguments
from hand.errors import HandError, HandRefusedError
from hand.limits import RateLimit
from hand.peer import is_within, read_cgroup
from hand.verb import JsonObject, Operation, Verb, VerbContext
from hand.verbs._nodes import MAX_NODES

MIN_BYTES, MAX_BYTES = 1 << 12, 1 << 34  # bytes of one request
TIMEOUT = 20.0  # seconds of one request; the response tells the bytes that are left
_BATCH_BYTES = 8 << 20  # bytes of address space for one system call, which takes some milliseconds
_MAPPING = re.compile(r"([0-9a-f]+) (\S+)(?: (.*))?")
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")

Spans = list[tuple[int, int]]
"""Start and end addresses."""


class PinnedProcess(NamedTuple):
    """A process that is not mistaken for a later one with the same pid."""

    pid: int
    start_time: int
    pidfd: int

    def check_alive(self) -> None:
        """Raises HandRefusedError when the process has ended."""
        if select.select([self.pidfd], [], [], 0)[0]:
            raise HandRefusedError(f"process {self.pid} has ended")


def _prepare(context: VerbContext, arguments: Arguments) -> Operation:
    pid = arguments.take_integer("pid", 2, 1 << 22)
    start_time = arguments.take_integer("start_time", 0, 1 << 62)
    source, target = (arguments.take_integer(name, 0, MAX_NODES - 1) for name in ("from", "to"))
    size = arguments.take_integer("bytes", MIN_BYTES, MAX_BYTES)
    arguments.reject_unknown()
    for node in (source, target):
        if not context.files.exists(f"sys/devices/system/node/node{node}"):
            raise HandRefusedError(f"there is no node {node} on this host")
    return lambda: _run(context, pid, start_time, source, target, size)


def _run(context: VerbContext, pid: int, start_time: int, source: int, target: int, size: int) -> JsonObject:
    started = time.monotonic()

    def must_stop() -> bool:
        return time.monotonic() > started + TIMEOUT or context.files.children.is_ended

    process = _open_process(pid, start_time)
    try:
        _check_permitted(context, pid)
        moved_bytes, left_bytes = _move_pages(process, source, target, size, must_stop)
    finally:
        os.close(process.pidfd)
    return {"moved_bytes": moved_bytes, "left_bytes": left_bytes, "seconds": time.monotonic() - started}


def _open_process(pid: int, start_time: int) -> PinnedProcess:
    try:
        process = PinnedProcess(pid, start_time, os.pidfd_open(pid))
    except OSError as error:
        raise HandRefusedError(f"process {pid}: {error.strerror}") from error
    if _read_start_time(pid) != start_time:
        os.close(process.pidfd)
        raise HandRefusedError(f"process {pid} is another process than the requested one: it started at another time")
    return process


def _read_start_time(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None  # the process has just ended


def _check_permitted(context: VerbContext, pid: int) -> None:
    cgroup = read_cgroup(pid)
    if not any(unit.migrate and is_within(cgroup, unit.cgroup) for unit in context.config.units.values()):
        raise HandRefusedError(f"process {pid} is in {cgroup}, which hand.toml does not name with migrate = true")


def _move_pages(
    process: PinnedProcess, source: int, target: int, size: int, must_stop: Callable[[], bool]
) -> tuple[int, int]:
    """
    Returns the bytes that moved to the target, and the bytes that are still on the source node.

    Linux 6.1 hides from move_pages the pages that NUMA balancing has marked and nobody has touched since. So the second
    number is the count of numa_maps less the moved bytes.
    """
    spans, source_bytes = _find_movable(process, source)
    moved_bytes = 0
    for batch in _split_batches(spans):
        process.check_alive()
        nodes_before = pages.query_nodes(process.pid, batch)
        on_source = [address for address, node in zip(batch, nodes_before, strict=True) if node == source]
        if chosen := on_source[: max(0, -(-(size - moved_bytes) // pages.PAGE_SIZE))]:
            pages.move(process.pid, chosen, target)
        # Queried again, since moving one page of a huge page moves all of it.
        nodes_after = pages.query_nodes(process.pid, batch) if chosen else nodes_before
        moved_bytes += (nodes_after.count(target) - nodes_before.count(target)) * pages.PAGE_SIZE
        if moved_bytes >= size or must_stop():
            break
    return moved_bytes, max(0, source_bytes - moved_bytes)


def _split_batches(spans: Spans) -> Iterator[list[int]]:
    """Yields the pages in batches that no huge page straddles."""
    for start, end in spans:
        while start < end:
            batch_end = min(end, (start // _BATCH_BYTES + 1) * _BATCH_BYTES)
            yield list(range(start, batch_end, pages.PAGE_SIZE))
            start = batch_end


def _find_movable(process: PinnedProcess, source: int) -> tuple[Spans, int]:
    """Returns the anonymous mappings without a fixed placement, and their bytes on the source node."""
    try:
        numa_maps_text = Path(f"/proc/{process.pid}/numa_maps").read_text()
        maps_text = Path(f"/proc/{process.pid}/maps").read_text()
    except OSError as error:
        raise HandError(f"the mappings of process {process.pid} cannot be read: {error.strerror}") from error
    movable = {
        start: details
        for start, policy, details in _parse_mappings(numa_maps_text)
        if _is_movable_policy(policy) and _is_anonymous(details)
    }
    ranges = (_RANGE.match(line) for line in maps_text.splitlines())
    spans = [(int(match[1], 16), int(match[2], 16)) for match in ranges if match]
    return [span for span in spans if span[0] in movable], sum(
        _count_bytes_on(source, details) for details in movable.values()
    )


def _count_bytes_on(node: int, details: str) -> int:
    """Returns the bytes that a line of numa_maps counts on a node."""
    words = dict(word.split("=", 1) for word in details.split() if "=" in word)
    return int(words.get(f"N{node}", 0)) * int(words.get("kernelpagesize_kB", pages.PAGE_SIZE >> 10)) << 10


def _parse_mappings(text: str) -> Iterator[tuple[int, str, str]]:
    for line in text.splitlines():
        match = _MAPPING.match(line)
        if match:
            yield int(match[1], 16), match[2], match[3] or ""


def _is_movable_policy(policy: str) -> bool:
    """True when pages may be on any node: neither the mapping nor the task binds or interleaves them."""
    return policy in ("default", "local") or policy.startswith("prefer")


def _is_anonymous(details: str) -> bool:
    words = details.split()
    return any(word.startswith("anon=") for word in words) and not any(word.startswith("file=") for word in words)


def _check_support(context: VerbContext) -> str:
    if pages.get_syscall_number() is None:
        return "the system call number of move_pages(2) is unknown for this processor"
    if not context.files.exists("sys/devices/system/node/node1"):
        return "this host has one node"
    is_named = any(unit.migrate for unit in context.config.units.values())
    return "" if is_named else "hand.toml names no unit whose pages may be moved"


VERB = Verb("migrate", RateLimit(3600, 3600.0), _prepare, _check_support)
