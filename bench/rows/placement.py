"""The nodes of a large process's memory: by a sample of its pages, against numastat and numa_maps."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from bench.report import BenchmarkResult, Figure, format_number
from collectors import Host
from collectors._process.move_pages import sample_pages
from collectors._process.page_sample import PageSample
from collectors._process.stat import read_stat

ABOUT = "the nodes of a process's pages of 4 KiB, by a sample of 8,192 of them, against numastat -p"
PEER = "numastat"
SIZES = (1, 4, 16)  # GiB
SPARE_GIB = 2  # GiB that remain for other programs
SAMPLE_PAGES = 8192
REPEATS = 15
BUDGET = 1 / 20
GROWTH_BUDGET = 3.0  # largest cost ratio for sixteen times the memory; caches and page tables are not free
# Allocates memory in small pages. After each line of input it times its own mmap and munmap until the next line: the
# longest time is the stall that a reader of its placement has caused.
HOLDER_SCRIPT = """
import json, mmap, select, sys, time
open("/proc/self/oom_score_adj", "w").write("1000")
held = mmap.mmap(-1, int(sys.argv[1]) << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
held.madvise(23)
print("{}", flush=True)
while sys.stdin.readline():
    worst, count = 0.0, 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        began = time.perf_counter()
        mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        worst = max(worst, time.perf_counter() - began)
        count += 1
    sys.stdin.readline()
    print(json.dumps({"worst": worst, "count": count}), flush=True)
"""


class MethodCosts(NamedTuple):
    """Medians: the seconds of each method for a process, and the longest stall in that process meanwhile."""

    ours: float
    peer: float
    numa_maps: float
    stall_idle: float
    stall_ours: float
    stall_numa_maps: float
    share: float
    peer_share: float


def measure(_seconds: float) -> BenchmarkResult:
    """Measures one process of each size for which this host has memory."""
    if shutil.which(PEER) is None:
        return BenchmarkResult("placement", ABOUT, skipped=f"{PEER} is not installed (apt install numactl).")
    available_gib = psutil.virtual_memory().available / (1 << 30) - SPARE_GIB
    sizes = [size for size in SIZES if size <= available_gib]
    if not sizes:
        return BenchmarkResult("placement", ABOUT, skipped=f"{SIZES[0] + SPARE_GIB} GiB of free memory are needed.")
    costs = {size: _measure_costs(size) for size in sizes}
    return _build_result(costs, [size for size in SIZES if size not in sizes])


def _measure_costs(size: int) -> MethodCosts:
    with _hold_memory(size) as process:
        pid = process.pid
        sample_times = [_measure_seconds(lambda: _sample_placement(pid)) for _ in range(REPEATS)]
        peer_times = [_measure_seconds(lambda: _read_numastat_share(pid)) for _ in range(REPEATS)]
        maps_times = [_measure_seconds(lambda: _read_numa_maps(pid)) for _ in range(REPEATS)]
        idle_stalls = [
            _measure_stall(process, lambda: time.sleep(statistics.median(sample_times))) for _ in range(REPEATS)
        ]
        sample_stalls = [_measure_stall(process, lambda: _sample_placement(pid)) for _ in range(REPEATS)]
        maps_stalls = [_measure_stall(process, lambda: _read_numa_maps(pid)) for _ in range(REPEATS)]
        share = (_sample_placement(pid).estimate_share([0]) or (0.0, 0.0))[0]
        peer_share = _read_numastat_share(pid)
    median = statistics.median
    return MethodCosts(
        ours=median(sample_times),
        peer=median(peer_times),
        numa_maps=median(maps_times),
        stall_idle=median(idle_stalls),
        stall_ours=median(sample_stalls),
        stall_numa_maps=median(maps_stalls),
        share=share,
        peer_share=peer_share,
    )


@contextlib.contextmanager
def _hold_memory(size: int) -> Iterator[subprocess.Popen[str]]:
    """Yields a process with `size` GiB in RAM."""
    command = [sys.executable, "-I", "-S", "-c", HOLDER_SCRIPT, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"a process of {size} GiB could not start: status {process.wait()}")
            yield process
        finally:
            process.kill()


def _measure_stall(process: subprocess.Popen[str], action: Callable[[], object]) -> float:
    """Returns the longest mmap and munmap of the process, in seconds, during an action."""
    assert process.stdout is not None
    _send_line(process, "\n")
    time.sleep(0.02)  # it has begun
    action()
    _send_line(process, "\n")
    return float(json.loads(process.stdout.readline())["worst"])


def _send_line(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _sample_placement(pid: int) -> PageSample:
    """Samples the pages of a process as the collector does."""
    host = Host("/")
    process_stat = read_stat(host, pid)
    placement = None if process_stat is None else sample_pages(host, pid, process_stat.start_time, SAMPLE_PAGES)
    if placement is None:
        raise RuntimeError(f"this kernel does not report the nodes of pages: {host.take_notes()}")
    return placement


def _read_numastat_share(pid: int) -> float:
    """Returns the share of node 0 in the last line of numastat's table."""
    output = subprocess.run([PEER, "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    words = output.splitlines()[-1].split()
    return float(words[1]) / float(words[-1])


def _read_numa_maps(pid: int) -> int:
    return len(Path(f"/proc/{pid}/numa_maps").read_bytes())


def _measure_seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _build_result(costs: dict[int, MethodCosts], left_out: list[int]) -> BenchmarkResult:
    largest, smallest = max(costs), min(costs)
    largest_cost = costs[largest]
    figures = [
        Figure(f"time at {largest} GiB / numastat -p", largest_cost.ours / largest_cost.peer, "ratio", BUDGET),
        Figure(f"time at {largest} GiB / reading numa_maps", largest_cost.ours / largest_cost.numa_maps, "ratio"),
        Figure(
            f"longest stall of its mmap at {largest} GiB / reading numa_maps",
            largest_cost.stall_ours / largest_cost.stall_numa_maps,
            "ratio",
            1 / 4,
        ),
        Figure(
            f"time at {largest} GiB / at {smallest} GiB",
            largest_cost.ours / costs[smallest].ours,
            "ratio",
            GROWTH_BUDGET,
        ),
        Figure(
            "share of node 0 less numastat's, in points",
            100 * abs(largest_cost.share - largest_cost.peer_share),
            "",
            2.0,
        ),
    ]
    for size, cost in costs.items():
        figures += [
            Figure(f"{size} GiB: sample", 1000 * cost.ours, "ms"),
            Figure(f"{size} GiB: numastat -p", 1000 * cost.peer, "ms"),
            Figure(f"{size} GiB: reading numa_maps", 1000 * cost.numa_maps, "ms"),
            Figure(f"{size} GiB: longest mmap, left alone", 1000 * cost.stall_idle, "ms"),
            Figure(f"{size} GiB: longest mmap, sampled", 1000 * cost.stall_ours, "ms"),
            Figure(f"{size} GiB: longest mmap, numa_maps read", 1000 * cost.stall_numa_maps, "ms"),
        ]
    notes = [f"Medians of {REPEATS}; a stall is the longest mmap and munmap of a page, timed by the process itself."]
    if left_out:
        missing_sizes = ", ".join(map(format_number, left_out))
        notes.append(f"Not measured: {missing_sizes} GiB: this host does not have enough free memory.")
    return BenchmarkResult("placement", ABOUT, tuple(figures), tuple(notes))
