"""Asks the collector `process` about one process or about engines, again and again, and says in words why not."""

from __future__ import annotations

import queue
import time
from typing import Any

import msgspec

from agent.placement import numa_maps
from agent.placement.process_placement import Placed, exactly, placed
from agent.sampling.plugins import Collector, bind
from agent.sampling.sampler import Pass, ThreadLane
from collectors import Host

PATIENCE = 30.0  # seconds; a process of 100,000 mappings takes one or two


class LookError(Exception):
    """Nothing can be shown; the message is one sentence."""


class Look:
    """The collector with what it remembers from look to look, so that work is what was done since the last."""

    def __init__(self, collector: Collector, module: Any, root: str, wanted: str | None) -> None:
        self._host = Host(root)
        self._files = Host(root)  # a look that does not return keeps the other one
        self._answers: queue.SimpleQueue[Pass] = queue.SimpleQueue()
        self._wanted = wanted
        self._pid = int(wanted) if wanted is not None and wanted.isascii() and wanted.isdecimal() else None
        if self._pid is not None:
            target = module.Target(name=f"PID {self._pid}", pid=self._pid)
            own = msgspec.structs.replace(collector.own or module.Config(), engines=(target,), discover=False)
            collector = bind(module, "process", interval=None, deadline=None, own=own)
        self._collector = collector
        self._lane = ThreadLane("process", self._host, self._answers.put)

    def now(self) -> tuple[list[Placed], list[str]]:
        """The processes as they are now, and what could not be read; LookError where there is nothing to be shown."""
        if self._pid is not None:
            self._exists(self._pid)
        self._lane.start(self._collector, time.monotonic())
        try:
            done = self._answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise LookError(f"the kernel did not answer within {PATIENCE:g} s") from None
        if done.error is not None:
            raise LookError(f"the collector process failed: {done.error}")
        found = placed(done.samples)
        if self._pid is None and self._wanted is not None:
            found = self._named(found)
        if not found:
            raise LookError(self._nothing(done))
        return found, [_said(note.path, note.reason) for note in done.notes]

    def exactly(self, one: Placed) -> Placed:
        """The same process by its numa_maps, which holds it up meanwhile. Raises LookError where it cannot be read."""
        path = f"proc/{one.pid}/numa_maps"
        text = self._files.read(path, largest=numa_maps.LARGEST)
        if text is None:
            raise LookError(_said(path, self._files.take_notes()[-1].reason))
        try:
            return exactly(one, numa_maps.parse(text))
        except ValueError as error:
            raise LookError(f"{path}: {error}") from None

    def _exists(self, pid: int) -> None:
        """Raises LookError where a process has no memory to be asked about."""
        status = self._files.read(f"proc/{pid}/status", optional=True)
        fields = dict(line.partition(":")[::2] for line in (status or "").splitlines())
        name = fields.get("Name", "").strip()
        if status is None:
            raise LookError(f"there is no process {pid}")
        if fields.get("State", "").strip()[:1] in ("Z", "X"):
            raise LookError(f"process {pid} ({name}) has ended and waits for its parent: it has no memory any more")
        if (whole := fields.get("Tgid", "").strip()) not in ("", str(pid)):
            raise LookError(f"{pid} ({name}) is a thread of process {whole}: ask for that one")
        if "VmSize" not in fields:
            raise LookError(f"process {pid} ({name}) is a thread of the kernel: it has no memory of its own")

    def _named(self, found: list[Placed]) -> list[Placed]:
        named = [one for one in found if one.engine == self._wanted]
        if not named:
            there = ", ".join(sorted({one.engine for one in found})) or "none was found"
            raise LookError(f"no engine is named {self._wanted!r}; engines here: {there}")
        return named

    def _nothing(self, done: Pass) -> str:
        if self._pid is not None and not (done.notes and self._files.exists(f"proc/{self._pid}")):
            return f"process {self._pid} ended while it was asked"
        if done.notes:
            return "; ".join(_said(note.path, note.reason) for note in done.notes[:2])
        return "no engine is running here that is known by its command line; name one under engines:, or give a PID"


def _said(path: str, reason: str) -> str:
    refused = reason in ("Operation not permitted", "Permission denied")
    return f"{path}: {reason}" + (" (needs CAP_SYS_PTRACE, or the process's own user)" if refused else "")
