"""The query behind `steadytok placement`: reads one process or all engines through the collector `process`."""

from __future__ import annotations

import queue
import time
from typing import Any

import msgspec

from agent.placement import numa_maps
from agent.placement.process_placement import ProcessPlacement, from_numa_maps, from_samples
from agent.sampling.passes import CollectionResult, ThreadRunner
from agent.sampling.plugins import Collector, bind_collector
from collectors import Host

PROCESS = "process"  # the collector that samples placements
QUERY_TIMEOUT = 30.0  # seconds; a process of 100,000 mappings takes one or two


class PlacementError(Exception):
    """There is no placement to show; the message says why in one sentence."""


class PlacementQuery:
    """Reads placements repeatedly; the collector keeps state, so that `work` covers the time since the last read."""

    def __init__(self, collector: Collector, module: Any, root: str, selector: str | None) -> None:
        self._host = Host(root)
        self._file_host = Host(root)  # a read that hangs keeps the other host
        self._results: queue.SimpleQueue[CollectionResult] = queue.SimpleQueue()
        self._selector = selector
        self._pid = int(selector) if selector is not None and selector.isascii() and selector.isdecimal() else None
        if self._pid is not None:
            target = module.ProcessTarget(name=f"PID {self._pid}", pid=self._pid)
            own_config = msgspec.structs.replace(collector.config or module.Config(), engines=(target,), discover=False)
            collector = bind_collector(module, collector.name, interval=None, deadline=None, config=own_config)
        self._collector = collector
        self._runner = ThreadRunner(collector.name, self._host, self._results.put)

    def read(self) -> tuple[list[ProcessPlacement], list[str]]:
        """Returns the processes now, and notes on unreadable files; raises PlacementError when there is no process."""
        if self._pid is not None:
            self._check_has_memory(self._pid)
        self._runner.start(self._collector, time.monotonic())
        try:
            result = self._results.get(timeout=QUERY_TIMEOUT)
        except queue.Empty:
            raise PlacementError(f"the kernel did not answer within {QUERY_TIMEOUT:g} s") from None
        if result.error is not None:
            raise PlacementError(f"the collector process failed: {result.error}")
        processes = from_samples(result.samples)
        if self._pid is None and self._selector is not None:
            processes = self._select_engine(processes)
        if not processes:
            raise PlacementError(self._explain_empty(result))
        return processes, [_describe_note(note.path, note.reason) for note in result.notes]

    def read_numa_maps(self, process: ProcessPlacement) -> ProcessPlacement:
        """Returns the process by its numa_maps, whose read slows the process down. Raises PlacementError."""
        path = f"proc/{process.pid}/numa_maps"
        text = self._file_host.read(path, largest=numa_maps.LARGEST_FILE)
        if text is None:
            raise PlacementError(_describe_note(path, self._file_host.take_notes()[-1].reason))
        try:
            return from_numa_maps(process, numa_maps.parse(text))
        except ValueError as error:
            raise PlacementError(f"{path}: {error}") from None

    def _check_has_memory(self, pid: int) -> None:
        """Raises PlacementError for a process without memory."""
        status = self._file_host.read(f"proc/{pid}/status", optional=True)
        fields = dict(line.partition(":")[::2] for line in (status or "").splitlines())
        name = fields.get("Name", "").strip()
        if status is None:
            raise PlacementError(f"there is no process {pid}")
        if fields.get("State", "").strip()[:1] in ("Z", "X"):
            raise PlacementError(f"process {pid} ({name}) has ended and waits for its parent: it has no memory")
        if (thread_group := fields.get("Tgid", "").strip()) not in ("", str(pid)):
            raise PlacementError(f"{pid} ({name}) is a thread of process {thread_group}: ask for that one")
        if "VmSize" not in fields:
            raise PlacementError(f"process {pid} ({name}) is a thread of the kernel: it has no memory of its own")

    def _select_engine(self, processes: list[ProcessPlacement]) -> list[ProcessPlacement]:
        selected = [process for process in processes if process.engine == self._selector]
        if not selected:
            engines = ", ".join(sorted({process.engine for process in processes})) or "none was found"
            raise PlacementError(f"no engine is named {self._selector!r}; engines here: {engines}")
        return selected

    def _explain_empty(self, result: CollectionResult) -> str:
        if self._pid is not None and not (result.notes and self._file_host.exists(f"proc/{self._pid}")):
            return f"process {self._pid} ended during the query"
        if result.notes:
            return "; ".join(_describe_note(note.path, note.reason) for note in result.notes[:2])
        return "no engine is running here that is known by its command line; name one under engines:, or give a PID"


def _describe_note(path: str, reason: str) -> str:
    is_denied = reason in ("Operation not permitted", "Permission denied")
    return f"{path}: {reason}" + (" (needs CAP_SYS_PTRACE, or the process's own user)" if is_denied else "")
