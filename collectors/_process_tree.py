"""All processes with a command line, who started whom, and which of them are engines."""

from __future__ import annotations

from collectors import _engine_commands as commands
from collectors._host import Host
from collectors._process_stat import Stat, stat, status


class Tree:
    """The processes of one look; threads of the kernel and zombies have no command line and are not in it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.words: dict[int, list[str]] = {}
        self.stats: dict[int, Stat] = {}
        self._children: dict[int, list[int]] = {}
        for name in host.names("proc"):
            if name.isdecimal():
                self._add(int(name))
        self._kinds = {pid: kind for pid, words in self.words.items() if (kind := commands.kind(words))}

    def _add(self, pid: int) -> None:
        text = self._host.read(f"proc/{pid}/cmdline", optional=True)
        words = text.rstrip("\0 ").split("\0") if text else [""]
        if not words[0] or (found := stat(self._host, pid)) is None:
            return
        self.words[pid], self.stats[pid] = words, found
        self._children.setdefault(found.parent, []).append(pid)

    @property
    def engines(self) -> list[int]:
        """The processes that are engines, and were not started by one."""
        return [pid for pid in self._kinds if not any(above in self._kinds for above in self._above(pid))]

    def kind(self, pid: int) -> str:
        """What kind of engine a process is; other where it is none."""
        return self._kinds.get(pid, "other")

    def family(self, top: int) -> list[int]:
        """A process and all that it started, in the order in which they were started."""
        found, left = [], [top]
        while left:
            pid = left.pop()
            found.append(pid)
            left += [child for child in self._children.get(pid, ()) if child not in found]
        return sorted(found, key=lambda pid: (self.stats[pid].started, pid))

    def resident(self, pid: int) -> int | None:
        """Bytes in RAM; 0 where it has ended, None where that cannot be read."""
        found = status(self._host, pid)
        if found is None:
            return None if self._host.exists(f"proc/{pid}") else 0
        return found.sizes.get("VmRSS")

    def _above(self, pid: int) -> list[int]:
        found: list[int] = []
        while (pid := self.stats[pid].parent) in self.stats and pid not in found:
            found.append(pid)
        return found
