"""Where the memory of a large process is: asked of a sample of its pages, against numastat and numa_maps."""

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

from bench.report import Figure, Row, shown
from collectors import Host
from collectors._process.move_pages import sample
from collectors._process.page_sample import Placement
from collectors._process.stat import stat

ABOUT = "the nodes of a process's pages of 4 KiB, by a sample of 8,192 of them, against numastat -p"
PEER = "numastat"
SIZES = (1, 4, 16)  # GiB
SPARE = 2  # GiB that are left to everybody else
PAGES = 8192
TIMES = 15
BUDGET = 1 / 20
FLAT = 3.0  # most that sixteen times the memory may cost more; caches and page tables are not free
# Holds memory in small pages, and on each line of input measures its own mmap and munmap until the next line comes:
# the longest one is how long somebody else's look has held it up.
HOLD = """
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


class Cost(NamedTuple):
    """Seconds that each way takes for a process, and the longest stall in the process while it is done, as medians."""

    ours: float
    peer: float
    numa_maps: float
    stall_idle: float
    stall_ours: float
    stall_numa_maps: float
    share: float
    peer_share: float


def measure(_seconds: float) -> Row:
    """One process after another, of each size that this host has memory for."""
    if shutil.which(PEER) is None:
        return Row("placement", ABOUT, skipped=f"{PEER} is not installed (apt install numactl).")
    room = psutil.virtual_memory().available / (1 << 30) - SPARE
    sizes = [size for size in SIZES if size <= room]
    if not sizes:
        return Row("placement", ABOUT, skipped=f"{SIZES[0] + SPARE} GiB of free memory are needed.")
    costs = {size: _cost(size) for size in sizes}
    return _row(costs, [size for size in SIZES if size not in sizes])


def _cost(size: int) -> Cost:
    with _held(size) as process:
        pid = process.pid
        ours = [_timed(lambda: _ask(pid)) for _ in range(TIMES)]
        peer = [_timed(lambda: _numastat(pid)) for _ in range(TIMES)]
        read = [_timed(lambda: _numa_maps(pid)) for _ in range(TIMES)]
        idle = [_stall(process, lambda: time.sleep(statistics.median(ours))) for _ in range(TIMES)]
        while_ours = [_stall(process, lambda: _ask(pid)) for _ in range(TIMES)]
        while_read = [_stall(process, lambda: _numa_maps(pid)) for _ in range(TIMES)]
        share = (_ask(pid).share([0]) or (0.0, 0.0))[0]
        peer_share = _numastat(pid)
    median = statistics.median
    return Cost(
        ours=median(ours),
        peer=median(peer),
        numa_maps=median(read),
        stall_idle=median(idle),
        stall_ours=median(while_ours),
        stall_numa_maps=median(while_read),
        share=share,
        peer_share=peer_share,
    )


@contextlib.contextmanager
def _held(size: int) -> Iterator[subprocess.Popen[str]]:
    """A process of so many GiB, all of them in RAM."""
    command = [sys.executable, "-I", "-S", "-c", HOLD, str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise RuntimeError(f"a process of {size} GiB came to nothing: status {process.wait()}")
            yield process
        finally:
            process.kill()


def _stall(process: subprocess.Popen[str], act: Callable[[], object]) -> float:
    """The longest mmap and munmap of the process, in seconds, while something is done to it."""
    assert process.stdout is not None
    _say(process, "\n")
    time.sleep(0.02)  # it has begun
    act()
    _say(process, "\n")
    return float(json.loads(process.stdout.readline())["worst"])


def _say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _ask(pid: int) -> Placement:
    """What the collector does, once it has found the process."""
    host = Host("/")
    seen = stat(host, pid)
    placement = None if seen is None else sample(host, pid, seen.started, PAGES)
    if placement is None:
        raise RuntimeError(f"this kernel does not tell where pages are: {host.take_notes()}")
    return placement


def _numastat(pid: int) -> float:
    """The share of node 0, as the last line of its table has it."""
    told = subprocess.run([PEER, "-p", str(pid)], capture_output=True, text=True, check=True).stdout
    words = told.splitlines()[-1].split()
    return float(words[1]) / float(words[-1])


def _numa_maps(pid: int) -> int:
    return len(Path(f"/proc/{pid}/numa_maps").read_bytes())


def _timed(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _row(costs: dict[int, Cost], left_out: list[int]) -> Row:
    largest, smallest = max(costs), min(costs)
    most = costs[largest]
    figures = [
        Figure(f"time at {largest} GiB / numastat -p", most.ours / most.peer, "ratio", BUDGET),
        Figure(f"time at {largest} GiB / reading numa_maps", most.ours / most.numa_maps, "ratio"),
        Figure(
            f"longest stall of its mmap at {largest} GiB / reading numa_maps",
            most.stall_ours / most.stall_numa_maps,
            "ratio",
            1 / 4,
        ),
        Figure(f"time at {largest} GiB / at {smallest} GiB", most.ours / costs[smallest].ours, "ratio", FLAT),
        Figure("share of node 0 less numastat's, in points", 100 * abs(most.share - most.peer_share), "", 2.0),
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
    notes = [f"Medians of {TIMES} looks; a stall is the longest mmap and munmap of a page that the process itself saw."]
    if left_out:
        missing = ", ".join(map(shown, left_out))
        notes.append(f"Not measured: {missing} GiB, for which this host has not enough free memory.")
    return Row("placement", ABOUT, tuple(figures), tuple(notes))
