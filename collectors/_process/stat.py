"""
Reads files of a process or one of its threads: /proc/PID/stat and status, and the same below task/.

A process that has ended leaves no note. https://docs.kernel.org/filesystems/proc.html
"""

from __future__ import annotations

import re
from typing import NamedTuple

from collectors._host.host import Host

_STAT = re.compile(r"\d{1,10} \((.*)\) (\w) ((?:-?\d{1,20} ?){36,60})", re.ASCII | re.DOTALL)
_BYTES = re.compile(r"^(\w+):\s+(\d{1,16}) kB$", re.ASCII | re.MULTILINE)
_LIST = re.compile(r"^(Cpus|Mems)_allowed_list:[ \t]*(\S*)$", re.ASCII | re.MULTILINE)


class Stat(NamedTuple):
    """Fields of one stat file, with proc_pid_stat(5)'s names in words; times are in clock ticks."""

    command: str
    state: str
    parent: int
    minor_faults: int
    major_faults: int
    ticks: int
    start_time: int
    start_stack: int
    processor: int

    @property
    def identity(self) -> tuple[int, int]:
        """Start time and stack address: a later process with this pid, or a later program in it, has others."""
        return self.start_time, self.start_stack


class Status(NamedTuple):
    """A status file: fields in bytes by name, and the allowed CPUs and nodes as lists such as 0-3,8."""

    sizes: dict[str, int]
    cpus: str
    nodes: str


def read_stat(host: Host, process: int | str) -> Stat | None:
    """Returns the stat file of a pid, or of `PID/task/TID`; None where it has ended, or with a note."""
    path = f"proc/{process}/stat"
    text = host.read(path, optional=True)
    if text is None:
        return None
    match = _STAT.fullmatch(text)  # the name may have spaces and parentheses; the last parenthesis ends it
    if match is None:
        return host.note(path, f"expected PID (NAME) STATE and 49 numbers, found {text[:40]!r}")
    numbers = [int(number) for number in match[3].split()]
    # numbers[0] is field 4
    return Stat(
        command=match[1],
        state=match[2],
        parent=numbers[0],
        minor_faults=numbers[6],
        major_faults=numbers[8],
        ticks=numbers[10] + numbers[11],
        start_time=numbers[18],
        start_stack=numbers[24],
        processor=numbers[35],
    )


def read_status(host: Host, process: int | str) -> Status | None:
    """Returns the status file of a pid, or of `PID/task/TID`; None where it has ended, or with a note."""
    path = f"proc/{process}/status"
    text = host.read(path, optional=True)
    if text is None:
        return None
    lists = dict(_LIST.findall(text))
    if not lists:
        return host.note(path, "expected a line Cpus_allowed_list:")
    sizes = {name: int(kib) * 1024 for name, kib in _BYTES.findall(text)}
    return Status(sizes, lists.get("Cpus", ""), lists.get("Mems", ""))
