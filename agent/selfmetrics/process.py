"""Measures the processor time and memory of the agent and its children, with psutil."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping

import psutil

from agent.selfmetrics import definitions
from collectors import Reading

INTERVAL = 5.0  # seconds; the usage changes slowly, and reading it costs a tenth of a millisecond


class Footprint:
    """The usage of the agent's processes, read every few seconds and reported at each tick."""

    def __init__(self) -> None:
        self._next_read = 0.0
        self._readings: tuple[Reading, ...] = ()

    def read_processes(self, pids: Mapping[str, int | None], now: float) -> tuple[Reading, ...]:
        """Returns the usage of each process by its role; leaves out a process that does not exist."""
        if now >= self._next_read:
            self._readings = ()  # where reading fails (EMFILE), the old usage must not pass for the present one
            self._readings = tuple(_read_usage({role: pid for role, pid in pids.items() if pid is not None}))
            self._next_read = now + INTERVAL
        return self._readings


def freeze_gc() -> None:
    """Exempts the objects made at the start, which live as long as the process, from garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _read_usage(pids: Mapping[str, int]) -> Iterator[Reading]:
    for role, pid in pids.items():
        try:
            process = psutil.Process(pid)
            times, memory = process.cpu_times(), process.memory_info()
        except psutil.Error:
            continue  # it ended meanwhile
        yield definitions.PROCESS_CPU.sample(times.user + times.system, process=role)
        yield definitions.PROCESS_RESIDENT.sample(memory.rss, process=role)
