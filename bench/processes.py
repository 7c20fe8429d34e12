"""Programs under measurement: starts and ends them, and reads the cost of a program with all its children."""

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

PROJECT_ROOT = Path(__file__).parents[1]
MIB = float(1 << 20)


class NotListeningError(Exception):
    """A program under measurement ended, or never listened; the message has its last output."""


class Program:
    """A running program that answers on a port of this host."""

    def __init__(self, name: str, arguments: Sequence[str], port: int) -> None:
        self.name = name
        self.port = port
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  - closed in `close`
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": self._stderr}
        self._process = subprocess.Popen(arguments, cwd=PROJECT_ROOT, **streams)  # type: ignore[call-overload]  # a dict of files is beyond its overloads

    def wait_until_it_listens(self, timeout: float = 30.0) -> None:
        """Raises NotListeningError if the program ends, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0):
                return
            time.sleep(0.1)
        raise NotListeningError(f"{self.name} does not listen on port {self.port}: {self._read_stderr_tail()}")

    def _read_stderr_tail(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read()[-600:].decode(errors="replace").strip() or "no output on standard error"

    def list_processes(self) -> list[psutil.Process]:
        """Returns the program and all its descendants."""
        leader = psutil.Process(self._process.pid)
        return [leader, *leader.children(recursive=True)]

    def read_cpu_seconds(self) -> float:
        """Returns user and system time of the program, its living descendants, and its reaped children."""
        return sum(
            _read_cpu_seconds(process.pid) + _read_reaped_cpu_seconds(process) for process in self.list_processes()
        )

    def read_memory_mib(self) -> tuple[float, float]:
        """Returns PSS and RSS of the program and its children; PSS divides a shared page equally among its users."""
        infos = [process.memory_full_info() for process in self.list_processes()]
        return sum(info.pss for info in infos) / MIB, sum(info.rss for info in infos) / MIB

    def close(self) -> None:
        """Sends SIGTERM, and SIGKILL after five seconds."""
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stderr.close()


def _read_cpu_seconds(pid: int) -> float:
    # utime + stime of /proc/PID/stat, in nanoseconds instead of 1/100 s: clock_getcpuclockid(3).
    return time.clock_gettime((~pid << 3) | 2)


def _read_reaped_cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.children_user + times.children_system)


def find_free_port() -> int:
    """Returns a free port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def make_temporary_folder() -> Iterator[Path]:
    """Yields a temporary folder, in memory like /proc and /sys if possible."""
    memory_folder = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="steadytok-bench-", dir=memory_folder) as path:
        yield Path(path)


@contextlib.contextmanager
def run_python(*arguments: str) -> Iterator[None]:
    """Runs our interpreter with these arguments until the end of the block."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=PROJECT_ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
