"""Sends every verb to the hand on a real kernel, and kills the hand while it has leases."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.lab import observe

FOLDER = Path("/run/hand")
UNIT = Path("/sys/fs/cgroup/system.slice/llama.service")
GOVERNOR = Path("/sys/devices/system/cpu/cpufreq/policy0/scaling_governor")
CONFIG = """
[units."llama.service"]
freeze = true
migrate = true
reclaim = true
"""
SIZE = 48 << 20  # bytes of the process on node 0
# Touches every page while it runs on node 0 without a memory policy; then moves to node 1.
HOLD = """
import os, sys
size = int(sys.argv[1])
os.sched_setaffinity(0, {0, 1})
held = bytearray(size)
held[::4096] = b"1" * (size // 4096)
os.sched_setaffinity(0, {2, 3})
print(1, flush=True)
"""
WORK = HOLD + "while True: pass\n"


class Hand:
    """Runs the real hand, and sends requests to it."""

    def __init__(self) -> None:
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / "hand.toml").write_text(CONFIG)
        self.process = self._start_process()

    def _start_process(self) -> subprocess.Popen[bytes]:
        arguments = ["--direct", "--socket", str(FOLDER / "sock"), "--state", str(FOLDER / "state")]
        arguments += ["--config", str(FOLDER / "hand.toml")]
        (FOLDER / "sock").unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-m", "hand", *arguments])
        until(lambda: (FOLDER / "sock").exists(), 60)
        time.sleep(0.5)
        return process

    def request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Returns the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(FOLDER / "sock"))
            connection.sendall(json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer: dict[str, Any] = json.loads(lines.readline())
                return answer

    def kill(self) -> None:
        """Ends the process with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def restart(self) -> None:
        """Starts the next process, as systemd would."""
        self.process = self._start_process()

    def end(self) -> int:
        """Ends the process with SIGTERM; returns its status."""
        self.process.terminate()
        return self.process.wait(20)


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Returns once the condition is true. Raises RuntimeError after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"a condition was false for {seconds:g} s")
        time.sleep(0.05)


@contextlib.contextmanager
def run_unit(size: int = SIZE, code: str = WORK) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process in the unit's cgroup with so much memory on node 0."""
    observe.run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    UNIT.mkdir(parents=True, exist_ok=True)
    # move_pages of this kernel skips pages that NUMA balancing has marked and that are not touched again.
    observe.write("/proc/sys/kernel/numa_balancing", "0")
    process = subprocess.Popen(observe.python(code, str(size)), stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None  # PIPE
        process.stdout.readline()
        (UNIT / "cgroup.procs").write_text(str(process.pid))
        yield process
    finally:
        with contextlib.suppress(OSError):  # the file may not exist
            (UNIT / "cgroup.freeze").write_text("0")
        process.kill()
        process.wait()
        observe.write("/proc/sys/kernel/numa_balancing", "1")
        observe.run("umount", "-l", "/sys/fs/cgroup")


def run() -> dict[str, Any]:
    """Sends every verb once, and reads the kernel's figures before and after."""
    results: dict[str, Any] = {}
    hand = Hand()
    results["hello"] = hand.request("hello")
    results["drop_caches"] = drop_caches(hand)
    results["compact"] = hand.request("compact", node=1)
    results["governor"] = governor(hand)
    with run_unit() as process:
        results["stranger"] = hand.request("migrate", pid=os.getpid(), start_time=read_start_time(os.getpid()), **MOVE)
        results["another_time"] = hand.request("migrate", pid=process.pid, start_time=1, **MOVE)
        results["migrate"] = migrate(hand, process.pid)
        results["freeze"] = freeze(hand, process.pid)
    results["status"] = hand.end()
    return results


def drop_caches(hand: Hand) -> dict[str, Any]:
    """Fills the page cache with files of the root, and has it dropped; returns its bytes before and after."""
    read = 0
    for file in sorted(Path(os.environ["LAB_MODULES"]).rglob("*.ko*")):
        read += len(file.read_bytes())
        if read > 48 << 20:
            break
    before = read_cached_bytes()
    return {"read": read, "before": before, "answer": hand.request("drop_caches"), "after": read_cached_bytes()}


def read_cached_bytes() -> int:
    """Returns the bytes of file pages that no process has mapped."""
    fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {name: int(value.split()[0]) for name, value in fields.items()}
    return (kib["Active(file)"] + kib["Inactive(file)"] - kib["Mapped"]) * 1024


def governor(hand: Hand) -> dict[str, Any]:
    """Sets a governor, kills and restarts the hand, and lets the lease expire."""
    prior = GOVERNOR.read_text().strip()
    new_governor = "performance" if prior != "performance" else "powersave"
    answer = hand.request("governor", policy=0, governor=new_governor, lease="g", ttl=20, expected=prior)
    held_governor = GOVERNOR.read_text().strip()
    hand.kill()
    after_kill = GOVERNOR.read_text().strip()
    hand.restart()
    leases = hand.request("hello")["result"]["leases"]
    renewed = hand.request("renew", leases=["g"], ttl=1)
    until(lambda: GOVERNOR.read_text().strip() == prior, 60)
    results = {"held": held_governor, "after_kill": after_kill, "leases": leases, "renewed": renewed}
    return {"prior": prior, "wanted": new_governor, "answer": answer, "after": GOVERNOR.read_text().strip(), **results}


MOVE = {"from": 0, "to": 1, "bytes": 16 << 20}


def migrate(hand: Hand, pid: int) -> dict[str, Any]:
    """Moves the pages of a process, first a bounded part, then all; counts them after each move."""
    page_counts = [count_pages(pid)]
    answers = []
    for size in (16 << 20, SIZE, SIZE, SIZE, SIZE):
        answers.append(hand.request("migrate", pid=pid, start_time=read_start_time(pid), **{**MOVE, "bytes": size}))
        page_counts.append(count_pages(pid))
        if page_counts[-1]["0"] < 256:
            break
    return {"pages": page_counts, "answers": answers, "numastat": observe.run("numastat", "-p", str(pid)).stdout}


def count_pages(pid: int) -> dict[str, int]:
    """Returns the anonymous pages on each node by numa_maps."""
    text = Path(f"/proc/{pid}/numa_maps").read_text()
    lines = [line for line in text.splitlines() if "anon=" in line and "file=" not in line]
    return {node: sum(int(n) for line in lines for n in re.findall(rf"\bN{node}=(\d+)", line)) for node in ("0", "1")}


def read_start_time(pid: int) -> int:
    """Returns the start time of a process in ticks, from /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def freeze(hand: Hand, pid: int) -> dict[str, Any]:
    """Measures the CPU share of the process: free, at half duty, and after the lease."""
    free = measure_share(pid)
    answer = hand.request("freeze", unit="llama.service", duty=0.5, period=0.5, lease="f", ttl=30)
    half = measure_share(pid)
    hand.request("renew", leases=["f"], ttl=0.1)
    until(lambda: not hand.request("hello")["result"]["leases"], 60)
    return {"free": free, "answer": answer, "half": half, "after": measure_share(pid)}


def measure_share(pid: int, seconds: float = 4.0) -> float:
    """Returns the CPU seconds per second of a process."""

    def read_used_seconds() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    began, before = time.monotonic(), read_used_seconds()
    time.sleep(seconds)
    return (read_used_seconds() - before) / (time.monotonic() - began)
