"""
migrate: moves anonymous pages of one process from one node to another, so many bytes at most.

A page that the process has bound or interleaved itself stays where it is: its owner had a reason. Which those are tells
numa_maps alone, whose reading walks every page of the process and holds up its mmap meanwhile: each request pays that,
so that a caller asks for many bytes seldom, and not for few bytes often.
https://www.kernel.org/doc/Documentation/filesystems/proc.rst (numa_maps)
"""

from __future__ import annotations

import os
import re
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hand import pages
from hand.arguments import Arguments
from hand.errors import HandError, RefusedError
from hand.limits import Limit
from hand.peer import cgroup_of, within
from hand.verb import Bench, Ready, Result, Verb
from hand.verbs._nodes import MOST_NODES

LEAST, MOST = 1 << 12, 1 << 34  # bytes for one request
LONGEST = 20.0  # seconds for one request; what is left by then is told
_PIECE = 8 << 20  # bytes of address space for one system call: some milliseconds
_MAPPING = re.compile(r"([0-9a-f]+) (\S+)(?: (.*))?")
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) ")

Spans = list[tuple[int, int]]
"""Addresses from and to."""


class Target(NamedTuple):
    """A process that cannot be mistaken for a later one of the same number."""

    pid: int
    start_time: int
    pidfd: int

    def check(self) -> None:
        """RefusedError where it has ended."""
        if select.select([self.pidfd], [], [], 0)[0]:
            raise RefusedError(f"process {self.pid} has ended")


def _prepare(bench: Bench, arguments: Arguments) -> Ready:
    pid = arguments.whole("pid", 2, 1 << 22)
    start_time = arguments.whole("start_time", 0, 1 << 62)
    source, target = (arguments.whole(name, 0, MOST_NODES - 1) for name in ("from", "to"))
    size = arguments.whole("bytes", LEAST, MOST)
    arguments.done()
    for node in (source, target):
        if not bench.files.exists(f"sys/devices/system/node/node{node}"):
            raise RefusedError(f"there is no node {node} on this host")
    return lambda: _run(bench, pid, start_time, source, target, size)


def _run(bench: Bench, pid: int, start_time: int, source: int, target: int, size: int) -> Result:
    began = time.monotonic()
    process = _opened(pid, start_time)
    try:
        _check_allowed(bench, pid)
        moved, left = _moved(process, source, target, size, began + LONGEST)
    finally:
        os.close(process.pidfd)
    return {"moved_bytes": moved, "left_bytes": left, "seconds": time.monotonic() - began}


def _opened(pid: int, start_time: int) -> Target:
    try:
        process = Target(pid, start_time, os.pidfd_open(pid))
    except OSError as error:
        raise RefusedError(f"process {pid}: {error.strerror}") from error
    if _start_time(pid) != start_time:
        os.close(process.pidfd)
        raise RefusedError(f"process {pid} is not the one that was meant: it started at another time")
    return process


def _start_time(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None  # it has just ended: not the one that was meant, in any case


def _check_allowed(bench: Bench, pid: int) -> None:
    cgroup = cgroup_of(pid)
    if not any(unit.migrate and within(cgroup, unit.cgroup) for unit in bench.config.units.values()):
        raise RefusedError(f"process {pid} is in {cgroup}, which hand.toml does not name with migrate = true")


def _moved(process: Target, source: int, target: int, size: int, until: float) -> tuple[int, int]:
    """
    Bytes that came to the target, and bytes that are still on the source node.

    Linux 6.1 hides from move_pages what NUMA balancing has marked and nobody has touched since, so what is left is what
    numa_maps counted, less what has moved.
    """
    spans, there_at_first = _movable(process, source)
    moved = 0
    for batch in _batches(spans):
        process.check()
        before = pages.nodes_of(process.pid, batch)
        there = [address for address, node in zip(batch, before, strict=True) if node == source]
        if chosen := there[: max(0, -(-(size - moved) // pages.PAGE))]:
            pages.move(process.pid, chosen, target)
        # Looked at again, since with one page of a huge page all of it moves.
        after = pages.nodes_of(process.pid, batch) if chosen else before
        moved += (after.count(target) - before.count(target)) * pages.PAGE
        if moved >= size or time.monotonic() > until:
            break
    return moved, max(0, there_at_first - moved)


def _batches(spans: Spans) -> Iterator[list[int]]:
    """The pages, in pieces that no huge page straddles."""
    for start, end in spans:
        while start < end:
            stop = min(end, (start // _PIECE + 1) * _PIECE)
            yield list(range(start, stop, pages.PAGE))
            start = stop


def _movable(process: Target, source: int) -> tuple[Spans, int]:
    """Anonymous mappings that no policy keeps where they are, and their bytes on the source node."""
    try:
        policies = Path(f"/proc/{process.pid}/numa_maps").read_text()
        maps = Path(f"/proc/{process.pid}/maps").read_text()
    except OSError as error:
        raise HandError(f"the mappings of process {process.pid} cannot be read: {error.strerror}") from error
    free = {start: rest for start, policy, rest in _mappings(policies) if _is_free(policy) and _is_anonymous(rest)}
    ranges = (_RANGE.match(line) for line in maps.splitlines())
    spans = [(int(found[1], 16), int(found[2], 16)) for found in ranges if found]
    return [span for span in spans if span[0] in free], sum(_bytes_on(source, rest) for rest in free.values())


def _bytes_on(node: int, rest: str) -> int:
    """What a line of numa_maps counts on a node."""
    words = dict(word.split("=", 1) for word in rest.split() if "=" in word)
    return int(words.get(f"N{node}", 0)) * int(words.get("kernelpagesize_kB", pages.PAGE >> 10)) << 10


def _mappings(text: str) -> Iterator[tuple[int, str, str]]:
    for line in text.splitlines():
        found = _MAPPING.match(line)
        if found:
            yield int(found[1], 16), found[2], found[3] or ""


def _is_free(policy: str) -> bool:
    """Whether pages may lie anywhere: neither bind nor interleave, of the mapping's own or the task's."""
    return policy in ("default", "local") or policy.startswith("prefer")


def _is_anonymous(rest: str) -> bool:
    words = rest.split()
    return any(word.startswith("anon=") for word in words) and not any(word.startswith("file=") for word in words)


def _missing(bench: Bench) -> str:
    if pages.number() is None:
        return "the number of move_pages(2) is not known for this processor"
    if not bench.files.exists("sys/devices/system/node/node1"):
        return "this host has one node"
    named = any(unit.migrate for unit in bench.config.units.values())
    return "" if named else "hand.toml names no unit whose pages may be moved"


VERB = Verb("migrate", Limit(3600, 3600.0), _prepare, _missing)
