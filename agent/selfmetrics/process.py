"""What the agent and its children cost the host, told by psutil."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping

import psutil

from agent.selfmetrics import definitions
from collectors import Reading

INTERVAL = 5.0  # seconds: what a process takes changes slowly, and asking costs a tenth of a millisecond


class Footprint:
    """Memory and processor time of our processes, asked every few seconds and told at each tick."""

    def __init__(self) -> None:
        self._next_read = 0.0
        self._readings: tuple[Reading, ...] = ()

    def read_processes(self, pids: Mapping[str, int | None], now: float) -> tuple[Reading, ...]:
        """What each process takes, by the name of its role; one that is not there is left out."""
        if now >= self._next_read:
            self._next_read = now + INTERVAL
            self._readings = tuple(_read_usage({role: pid for role, pid in pids.items() if pid is not None}))
        return self._readings


def freeze_gc() -> None:
    """What start made lives as long as the process: the collector of cycles need not walk it every few ticks."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _read_usage(pids: Mapping[str, int]) -> Iterator[Reading]:
    for role, pid in pids.items():
        try:
            process = psutil.Process(pid)
            times, memory = process.cpu_times(), process.memory_info()
        except psutil.Error:
            continue  # it ended between being named and being asked
        yield definitions.PROCESS_CPU.sample(times.user + times.system, process=role)
        yield definitions.PROCESS_RESIDENT.sample(memory.rss, process=role)
