"""All processes with a command line, who started whom, and which of them are engines."""

from __future__ import annotations

from collectors._host.host import Host
from collectors._process import command_lines as commands
from collectors._process.stat import Stat, stat, status


class Tree:
    """The processes of one look; threads of the kernel and zombies have no command line and are not in it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.words: dict[int, list[str]] = {}
        self.stats: dict[int, Stat] = {}
        self._parents: dict[int, int | None] = {}
        for name in host.names("proc"):
            if name.isdecimal():
                self._add(int(name))
        self._kinds = {pid: kind for pid, words in self.words.items() if (kind := commands.kind(words))}
        self._above = {pid: self._ancestors(pid) for pid in self.words}

    def _add(self, pid: int) -> None:
        text = self._host.read(f"proc/{pid}/cmdline", optional=True)
        words = text.rstrip("\0 ").split("\0") if text else [""]
        if words[0] and (found := stat(self._host, pid)) is not None:
            self.words[pid], self.stats[pid], self._parents[pid] = words, found, found.parent

    def _ancestors(self, pid: int) -> frozenset[int] | None:
        """Who started it, and who started that, up to init; None where one of them cannot be read."""
        found: set[int] = set()
        while (parent := self._parent(pid)) is not None and parent not in found:
            if parent <= 1:
                return frozenset(found)
            found.add(parent)
            pid = parent
        return None

    def _parent(self, pid: int) -> int | None:
        if pid not in self._parents:
            seen = stat(self._host, pid)
            self._parents[pid] = None if seen is None else seen.parent
        return self._parents[pid]

    @property
    def engines(self) -> list[int]:
        """The processes that are engines, and were not started by one."""
        return [pid for pid in self._kinds if (above := self._above[pid]) is not None and not above & set(self._kinds)]

    def astray(self, kind: str) -> bool:
        """Whether some process of this kind of engine cannot be told whose it is."""
        return any(self._above[pid] is None for pid, of in self._kinds.items() if of == kind)

    def kind(self, pid: int) -> str:
        """What kind of engine a process is; other where it is none."""
        return self._kinds.get(pid, "other")

    def family(self, top: int) -> list[int]:
        """A process and all that it started, in the order in which they were started."""
        found = [pid for pid, above in self._above.items() if pid == top or top in (above or ())]
        return sorted(found, key=lambda pid: (self.stats[pid].started, pid))

    def resident(self, pid: int) -> int | None:
        """Bytes in RAM; 0 where it has ended, None where that cannot be read."""
        found = status(self._host, pid)
        if found is None:
            return None if self._host.exists(f"proc/{pid}") else 0
        return found.sizes.get("VmRSS")
