"""Files of processes as the kernel writes them, and real child processes, for tests that need one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def format_stat(pid: int, *, parent: int = 1, started: int = 0, ticks: int = 0, cpu: int = 0, name: str = "x") -> str:
    """Formats /proc/PID/stat of Linux 6.x: fields 4 to 52 after the state."""
    numbers = [0] * 49
    numbers[0], numbers[10], numbers[18], numbers[35] = parent, ticks, started or pid, cpu
    return f"{pid} ({name}) S {' '.join(map(str, numbers))}\n"


@contextmanager
def start_child(mebibytes: int) -> Iterator[int]:
    """Runs a process that has touched this much memory."""
    code = "import mmap, sys; m = mmap.mmap(-1, int(sys.argv[1]) << 20, flags=34 | 0x8000); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code, str(mebibytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child_process:
        assert child_process.stdout is not None
        child_process.stdout.readline()
        try:
            yield child_process.pid
        finally:
            child_process.kill()
