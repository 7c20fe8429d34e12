"""Programs under measurement: started, found with all their children, weighed, ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

HOUSE = Path(__file__).parents[1]
MIB = float(1 << 20)


class NotListeningError(Exception):
    """A program under measurement ended, or never listened; the message has its last words."""


class Program:
    """A running program that answers on a port of this host."""

    def __init__(self, name: str, arguments: Sequence[str], port: int) -> None:
        self.name = name
        self.port = port
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `end`)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": self._words}
        self._process = subprocess.Popen(arguments, cwd=HOUSE, **quiet)  # type: ignore[call-overload]  # a dict of files is beyond its overloads

    def wait_until_it_listens(self, patience: float = 30.0) -> None:
        """Raises NotListeningError where it ends, or so many seconds pass."""
        until = time.monotonic() + patience
        while time.monotonic() < until and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.1)
        raise NotListeningError(f"{self.name} does not listen on port {self.port}: {self._last_words()}")

    def _last_words(self) -> str:
        self._words.seek(0)
        return self._words.read()[-600:].decode(errors="replace").strip() or "it said nothing"

    def family(self) -> list[psutil.Process]:
        """The program and all its descendants."""
        head = psutil.Process(self._process.pid)
        return [head, *head.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time of the program, its living children, and those of its children that it has reaped."""
        return sum(_own_cpu_seconds(member.pid) + _reaped_cpu_seconds(member) for member in self.family())

    def memory_mib(self) -> tuple[float, float]:
        """PSS and RSS of the program and its children; PSS gives a shared page to each of its users in equal parts."""
        infos = [member.memory_full_info() for member in self.family()]
        return sum(info.pss for info in infos) / MIB, sum(info.rss for info in infos) / MIB

    def end(self) -> None:
        """SIGTERM, and SIGKILL after five seconds."""
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._words.close()


def _own_cpu_seconds(pid: int) -> float:
    # utime + stime of /proc/PID/stat, but to the nanosecond instead of 1/100 s: clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


def _reaped_cpu_seconds(member: psutil.Process) -> float:
    times = member.cpu_times()
    return float(times.children_user + times.children_system)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that is removed at the end; in memory where that can be, as /proc and /sys are."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="steadytok-bench-", dir=memory) as place:
        yield Path(place)


@contextlib.contextmanager
def python(*arguments: str) -> Iterator[None]:
    """Our interpreter with these arguments, until the block ends."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=HOUSE)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
