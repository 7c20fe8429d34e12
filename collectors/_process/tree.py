"""Reads all processes with a command line, their ancestry, and the engines among them."""

from __future__ import annotations

from collectors._host.host import Host
from collectors._process import command_lines as commands
from collectors._process.stat import Stat, read_stat, read_status


class ProcessTree:
    """The processes at one moment; kernel threads and zombies have no command line and are not in it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.command_lines: dict[int, list[str]] = {}
        self.stats: dict[int, Stat] = {}
        self._parents: dict[int, int | None] = {}
        for name in host.names("proc"):
            if name.isdecimal():
                self._add_process(int(name))
        self._kinds = {pid: kind for pid, words in self.command_lines.items() if (kind := commands.detect_kind(words))}
        self._ancestors_by_pid = {pid: self._find_ancestors(pid) for pid in self.command_lines}

    def _add_process(self, pid: int) -> None:
        words = self._host.read_strings(f"proc/{pid}/cmdline")
        if words and words[0] and (process_stat := read_stat(self._host, pid)) is not None:
            self.command_lines[pid], self.stats[pid], self._parents[pid] = words, process_stat, process_stat.parent

    def _find_ancestors(self, pid: int) -> frozenset[int] | None:
        """Returns the process's parent, its parent's parent and so on up to init; None where one cannot be read."""
        ancestors: set[int] = set()
        while (parent := self._find_parent(pid)) is not None and parent not in ancestors:
            if parent <= 1:
                return frozenset(ancestors)
            ancestors.add(parent)
            pid = parent
        return None

    def _find_parent(self, pid: int) -> int | None:
        if pid not in self._parents:
            process_stat = read_stat(self._host, pid)
            self._parents[pid] = None if process_stat is None else process_stat.parent
        return self._parents[pid]

    @property
    def engines(self) -> list[int]:
        """The processes that are engines and have no engine among their ancestors."""
        return [
            pid
            for pid in self._kinds
            if (ancestors := self._ancestors_by_pid[pid]) is not None and not ancestors & set(self._kinds)
        ]

    def has_orphans(self, kind: str) -> bool:
        """Returns True where a process of this kind of engine has unreadable ancestors."""
        return any(
            self._ancestors_by_pid[pid] is None for pid, process_kind in self._kinds.items() if process_kind == kind
        )

    def get_kind(self, pid: int) -> str:
        """Returns the kind of engine a process is; `other` where it is none."""
        return self._kinds.get(pid, "other")

    def list_family(self, top: int) -> list[int]:
        """Returns a process and all its descendants, in the order of their start."""
        pids = [pid for pid, ancestors in self._ancestors_by_pid.items() if pid == top or top in (ancestors or ())]
        return sorted(pids, key=lambda pid: (self.stats[pid].start_time, pid))

    def read_resident(self, pid: int) -> int | None:
        """Returns the bytes in RAM; 0 where the process has ended, None where they cannot be read."""
        process_status = read_status(self._host, pid)
        if process_status is None:
            return None if self._host.exists(f"proc/{pid}") else 0
        return process_status.sizes.get("VmRSS")
