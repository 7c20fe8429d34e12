"""
Lays out the memory of processes by hand, and reads its placement from numa_maps and from our collector.

https://docs.kernel.org/admin-guide/mm/numa_memory_policy.html, numa_maps in https://docs.kernel.org/filesystems/proc.html
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collectors import Host, process
from collectors._process.maps import read_mappings
from collectors._process.move_pages import sample_pages
from collectors._process.stat import read_stat
from tests.lab import observe

FOLDER = Path("/sys/devices/system/node")
MIB = 256  # pages
SAMPLES = 1000  # to count how often an error covers the truth
COVERING_PAGES = 512  # pages of each sample
# Regions as KIND:SIZE:NODE: the kind of memory, its size in MiB, and the node to which it is bound.
HOLD = """
import ctypes, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
SHARED, PRIVATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE
def bind(node):
    mask = ctypes.c_ulong(1 << node)
    if libc.syscall(238, 2, ctypes.byref(mask), 64):
        raise OSError(ctypes.get_errno(), "set_mempolicy")
held = []
for region in sys.argv[2:]:
    kind, size, node = region.split(":")
    if node:
        bind(int(node))
    if kind == "file":
        with open(size, "rb") as file:
            region = mmap.mmap(file.fileno(), 0, flags=PRIVATE, prot=mmap.PROT_READ)
    elif kind == "shmem":
        region = mmap.mmap(-1, int(size) << 20, flags=SHARED)
    else:
        more = {"anon": 0, "thp": 0, "hugetlb": 0x40000}[kind]
        region = mmap.mmap(-1, int(size) << 20, flags=PRIVATE | mmap.MAP_ANONYMOUS | more)
    if kind == "thp":
        region.madvise(mmap.MADV_HUGEPAGE)
    for place in range(0, len(region), 4096):
        if kind == "file":
            region[place]
        else:
            region[place] = 1
    held.append(region)
children = [os.fork() for _ in range(int(sys.argv[1]))] if sys.argv[1] != "-" else []
if 0 not in children:
    print(json.dumps(children), flush=True)
sys.stdin.read()
"""
SPLIT = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
pieces = int(sys.argv[1])
region = mmap.mmap(-1, pieces * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000)
start = ctypes.addressof(ctypes.c_char.from_buffer(region))
for piece in range(0, pieces, 2):
    if libc.mprotect(start + piece * 4096, 4096, 1):
        raise OSError(ctypes.get_errno(), "mprotect")
print("[]", flush=True)
sys.stdin.read()
"""


def placements() -> dict[str, Any]:
    """Reads processes with every kind of memory, on the last two nodes or on all."""
    nodes = sorted(int(path.name[4:]) for path in FOLDER.glob("node[0-9]*"))
    last, before = nodes[-1], nodes[-2]
    large = max(Path("/").glob("usr/lib/x86_64-linux-gnu/*.so*"), key=lambda path: path.stat().st_size)
    observe.write("/proc/sys/vm/drop_caches", "1")
    # move_pages of Linux 6.1 skips pages that NUMA balancing has marked and that are not touched again.
    observe.write("/proc/sys/kernel/numa_balancing", "0")
    observe.write(str(FOLDER / f"node{last}/hugepages/hugepages-2048kB/nr_hugepages"), "8")
    layouts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "bind": (("numactl", f"--membind={last}"), ("anon:48:",)),
        "interleave": (("numactl", "--interleave=all"), ("anon:48:",)),
        "by_hand": ((), (f"anon:42:{last}", f"anon:18:{before}")),
        "huge": ((), (f"thp:32:{last}", f"anon:16:{before}")),
        "hugetlb": ((), (f"hugetlb:12:{last}", f"anon:16:{before}")),
        "file": ((), (f"file:{large}:{last}", f"anon:16:{before}")),
        "shmem": ((), (f"shmem:24:{last}", f"anon:12:{before}")),
    }
    results: dict[str, Any] = {"nodes": nodes, "last": last, "before": before}
    for name, (under, regions) in layouts.items():
        with hold_memory(*under, *observe.python(HOLD, "-", *regions)) as (pid, _):
            results[name] = _compare(pid)
            if name == "by_hand":
                results["covered"] = _compare_covered(pid, last)
    with hold_memory(*observe.python(HOLD, "1", f"anon:24:{last}", f"anon:16:{before}")) as (pid, children):
        results["parent"], results["child"] = _compare(pid), _compare(children[0])
        for child in children:
            os.kill(child, signal.SIGKILL)
    observe.write(str(FOLDER / f"node{last}/hugepages/hugepages-2048kB/nr_hugepages"), "0")
    return results


def refusals() -> dict[str, Any]:
    """Reads processes that die, are dead, have no memory, refuse, have a reused pid, or have 100,000 mappings."""
    return {
        "dying": _collect_dying(),
        "zombie": _collect_zombie(),
        "kernel": _collect(2),
        "refused": _collect_refused(),
        "reused": _collect_reused(),
        "pieces": _collect_pieces(),
    }


@contextlib.contextmanager
def hold_memory(*command: str) -> Iterator[tuple[int, list[int]]]:
    """Runs a process with its memory laid out during the block; yields its pid and those of its children."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=observe.ENVIRONMENT
    ) as holder:
        assert holder.stdout is not None
        line = holder.stdout.readline()
        if not line:
            raise RuntimeError(f"{command[-3:]} did not lay out its memory: status {holder.wait(10)}")
        try:
            yield holder.pid, [int(number) for number in re.findall(r"\d+", line)]
        finally:
            holder.kill()


def count_pages(pid: int) -> dict[str, int]:
    """Returns the pages of 4 KiB by `NODE KIND`, from numa_maps."""
    host = Host("/")
    kinds = {mapping.start: mapping.kind for mapping in read_mappings(host, pid) or ()}
    pages: Counter[str] = Counter()
    for line in observe.read_text(f"/proc/{pid}/numa_maps").splitlines():
        kind = kinds.get(int(line.split()[0], 16))
        size = re.search(r"kernelpagesize_kB=(\d+)", line)
        for node, count in re.findall(r" N(\d+)=(\d+)", line):
            if kind is not None and size is not None:
                pages[f"{node} {kind}"] += int(count) * int(size[1]) // 4
    return dict(pages)


def _compare(pid: int) -> dict[str, Any]:
    numastat = observe.run("numastat", "-p", str(pid)).stdout
    return {"truth": count_pages(pid), "numastat": numastat, **_collect(pid)}


def _collect(pid: int) -> dict[str, Any]:
    """Runs the collector once for one process."""
    host = Host("/")
    config = process.Config(engines=(process.ProcessTarget(name="held", pid=pid),), discover=False)
    series = observe.collect(process, host, config)
    return {"series": series, "notes": [list(note) for note in host.take_notes()]}


def _compare_covered(pid: int, node: int) -> dict[str, Any]:
    """Takes many samples of a process whose true share is known."""
    host = Host("/")
    counted = count_pages(pid)
    stat = read_stat(host, pid)
    assert stat is not None
    shares = []
    for _ in range(SAMPLES):
        placement = sample_pages(host, pid, stat.start_time, COVERING_PAGES)
        shares.append(None if placement is None else placement.estimate_share([node]))
    pages = sum(count for key, count in counted.items() if key.startswith(f"{node} "))
    return {"truth": pages / sum(counted.values()), "shares": shares}


def _collect_dying() -> list[dict[str, Any]]:
    """Kills a process at some moment of a reading, many times."""
    results = []
    for turn in range(12):
        with hold_memory(*observe.python(HOLD, "-", "anon:4:")) as (pid, _):
            killer = threading.Timer(0.006 * turn, os.kill, (pid, signal.SIGKILL))
            killer.start()
            results.append(_collect(pid))
            killer.join()
    return results


def _collect_zombie() -> dict[str, Any]:
    with subprocess.Popen(["true"], env=observe.ENVIRONMENT) as ended:
        while "Z (zombie)" not in observe.read_text(f"/proc/{ended.pid}/status"):
            time.sleep(0.01)
        return _collect(ended.pid)


def _collect_refused() -> dict[str, Any]:
    """Reads a process of root's as the user nobody."""
    with hold_memory(*observe.python(HOLD, "-", "anon:4:")) as (pid, _):
        os.seteuid(65534)
        try:
            results = _collect(pid)
        finally:
            os.seteuid(0)
    return results


def _collect_reused() -> dict[str, Any]:
    """Samples a pid that another process has taken over."""
    host = Host("/")
    with hold_memory(*observe.python(HOLD, "-", "anon:4:")) as (first, _):
        stat = read_stat(host, first)
    assert stat is not None
    time.sleep(0.05)
    observe.write("/proc/sys/kernel/ns_last_pid", str(first - 1))
    with hold_memory(*observe.python(HOLD, "-", "anon:4:")) as (second, _):
        placement = sample_pages(host, second, stat.start_time, 4096)
    return {
        "same": first == second,
        "has_placement": placement is not None,
        "notes": [list(n) for n in host.take_notes()],
    }


def _collect_pieces() -> dict[str, Any]:
    observe.write("/proc/sys/vm/max_map_count", "300000")
    with hold_memory(*observe.python(SPLIT, "100000")) as (pid, _):
        began = time.thread_time()
        results = _collect(pid)
        results["cpu_seconds"] = time.thread_time() - began
        results["mappings"] = observe.read_text(f"/proc/{pid}/maps").count("\n")
        results["truth"] = count_pages(pid)
    return results
