"""
`python -m hand.look`: tells the eye a process's sockets and placement variables, which only root may read.

Reads a line with a pid and answers with a line of JSON. A program that may read /proc/PID/environ and /proc/PID/fd of
every user could also read every process's memory and every file. The eye also speaks to a BMC, so it does not get that
right: this separate program has it, and takes nothing but a number. https://docs.kernel.org/filesystems/proc.html
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

PLACEMENT_VARIABLES = (
    "VLLM_CPU_OMP_THREADS_BIND",
    "SGLANG_CPU_OMP_THREADS_BIND",
    "CPU_VISIBLE_MEMORY_NODES",
    "USE_NUMA",
    "LLAMA_ARG_NUMA",
)
"""The only variables that are reported; the rest of an environment may hold passwords."""

_MAX_LINE = 32  # bytes of a request
_PID_LINE = re.compile(rb"[1-9]\d{0,9}\n")
_MAX_ENVIRON_BYTES = 4 << 20  # bytes read of an environment
_MAX_VALUE_LENGTH = 4096  # characters of a value


def answer_request(line: bytes, proc: Path = Path("/proc")) -> dict[str, Any]:
    """Returns `variables` and `sockets` of the process, or `error`; both are empty when there is no such process."""
    if not _PID_LINE.fullmatch(line):
        return {"error": f"expected the number of a process, found {line[:_MAX_LINE]!a}"}
    folder = proc / line.decode().strip()
    try:
        return {"variables": _read_variables(folder / "environ"), "sockets": _read_sockets(folder / "fd")}
    except (FileNotFoundError, ProcessLookupError):
        return {"variables": {}, "sockets": []}  # the process has ended
    except OSError as error:
        return {"error": f"{error.filename or folder}: {error.strerror}"}


def _read_variables(environ: Path) -> dict[str, str]:
    with environ.open("rb") as file:
        entries = file.read(_MAX_ENVIRON_BYTES).decode("utf-8", "replace").split("\0")
    pairs = (entry.partition("=") for entry in entries)
    return {name: value[:_MAX_VALUE_LENGTH] for name, _, value in pairs if name in PLACEMENT_VARIABLES}


def _read_sockets(folder: Path) -> list[str]:
    """Returns the sockets as the links name them: socket:[4711]."""
    sockets = []
    for name in os.listdir(folder):
        try:
            target = os.readlink(folder / name)
        except FileNotFoundError:
            continue  # the descriptor was closed meanwhile
        if target.startswith("socket:["):
            sockets.append(target)
    return sockets


def main() -> int:
    """Answers until the caller closes the socket, even when it closes before the answer."""
    try:
        while line := sys.stdin.buffer.readline(_MAX_LINE):
            sys.stdout.write(json.dumps(answer_request(line)) + "\n")
            sys.stdout.flush()
    except (BrokenPipeError, ConnectionResetError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter reports the error at exit
    return 0


if __name__ == "__main__":
    sys.exit(main())
