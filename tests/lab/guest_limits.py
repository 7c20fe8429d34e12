"""
Reads a process under nested cgroup limits and a cpuset, and the placement that a numactl below a shell requests.

https://docs.kernel.org/admin-guide/cgroup-v2.html
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from collectors import Host, process
from tests.lab import observe
from tests.lab.guest_placement import HOLD, hold_memory

CGROUPS = Path("/sys/fs/cgroup")
MIB = 1 << 20
BIND = "VLLM_CPU_OMP_THREADS_BIND"


def limits() -> dict[str, Any]:
    """Reads a process in a cgroup whose parent has the smaller limit, before and after it has read a file."""
    with _cgroups():
        node = "1"
        observe.write(str(CGROUPS / "pod/c/cpuset.mems"), node)
        # The shell joins the cgroup, so that its child is in it from the first page on.
        script = f"echo $$ > {CGROUPS}/pod/c/cgroup.procs; {BIND}='0-1|2-3' HF_TOKEN=secret exec \"$@\""
        with hold_memory("sh", "-c", script, "sh", *observe.python(HOLD, "-", "anon:40:")) as (pid, _):
            results = {"before": _collect(pid), "counted": _files("pod", "pod/c")}
            large = max(Path("/usr/lib/x86_64-linux-gnu").glob("*.so*"), key=lambda path: path.stat().st_size)
            observe.write("/proc/sys/vm/drop_caches", "1")
            reader = f"echo $$ > {CGROUPS}/pod/c/cgroup.procs; cat {large} > /dev/null"
            observe.run("sh", "-c", reader)
            return {**results, "after": _collect(pid), "counted_after": _files("pod", "pod/c")}


def request_placement() -> dict[str, Any]:
    """Reads a process with threads on node 1 and memory on node 0, by a shell's numactl; also with --exact."""
    inner = " ".join(f"'{word}'" for word in observe.python(HOLD.replace("'", '"'), "-", "anon:40:"))
    script = f"numactl --cpunodebind=1 --membind=0 {inner}; true"
    with hold_memory("sh", "-c", script) as (shell, _):
        (pid,) = map(int, observe.read_text(f"/proc/{shell}/task/{shell}/children").split())
        results = {"series": _collect(pid)}
        command = (sys.executable, "-m", "agent", "placement", str(pid), "--json")
        for name, more in (("sampled", ()), ("exact", ("--exact", "--yes"))):
            results[name] = json.loads(observe.run(*command, *more).stdout)[0]
        numastat = observe.run("numastat", "-p", str(pid)).stdout
    return {**results, "numastat": numastat}


def _collect(pid: int) -> dict[str, float]:
    target = process.ProcessTarget(name="held", pid=pid)
    return observe.collect(process, Host("/"), process.Config(engines=(target,), discover=False))


def _files(*cgroups: str) -> dict[str, str]:
    names = ("current", "stat", "events", "numa_stat")
    return {
        f"{group} {name}": observe.read_text(f"{CGROUPS}/{group}/memory.{name}") for group in cgroups for name in names
    }


@contextlib.contextmanager
def _cgroups() -> Iterator[None]:
    """Mounts cgroup2 with pod (128 MiB) and pod/c (256 MiB) during the block."""
    observe.run("mount", "-t", "cgroup2", "cgroup2", str(CGROUPS))
    try:
        observe.write(str(CGROUPS / "cgroup.subtree_control"), "+memory +cpuset")
        (CGROUPS / "pod").mkdir()
        observe.write(str(CGROUPS / "pod/cgroup.subtree_control"), "+memory +cpuset")
        (CGROUPS / "pod/c").mkdir()
        observe.write(str(CGROUPS / "pod/memory.max"), str(128 * MIB))
        observe.write(str(CGROUPS / "pod/c/memory.max"), str(256 * MIB))
        yield
    finally:
        observe.run("umount", "-l", str(CGROUPS))
