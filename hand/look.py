"""
`python -m hand.look`: tells the eye two things of a process that else only root may read, and nothing more.

A line with a pid comes in; a line of JSON goes out, with its sockets and with those of its environment variables that
ask for a placement. What reads /proc/PID/environ and /proc/PID/fd of every user could read every process's memory and
every file too: hence a program of its own that takes nothing but a number, and not a right of the eye, which also
speaks to a BMC. https://docs.kernel.org/filesystems/proc.html
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
"""The only names that are looked for; the rest of an environment is passwords."""

_MAX_LINE = 32  # bytes of a request
_PID_LINE = re.compile(rb"[1-9]\d{0,9}\n")
_MAX_ENVIRON_BYTES = 4 << 20  # bytes of an environment that are read
_MAX_VALUE_LENGTH = 4096  # characters of a value


def answer_request(line: bytes, proc: Path = Path("/proc")) -> dict[str, Any]:
    """What a request line gives: `variables` and `sockets`, or `error`; both empty where there is no such process."""
    if not _PID_LINE.fullmatch(line):
        return {"error": f"expected the number of a process, found {line[:_MAX_LINE]!a}"}
    folder = proc / line.decode().strip()
    try:
        return {"variables": _read_variables(folder / "environ"), "sockets": _read_sockets(folder / "fd")}
    except (FileNotFoundError, ProcessLookupError):
        return {"variables": {}, "sockets": []}  # it has ended
    except OSError as error:
        return {"error": f"{error.filename or folder}: {error.strerror}"}


def _read_variables(environ: Path) -> dict[str, str]:
    with environ.open("rb") as file:
        entries = file.read(_MAX_ENVIRON_BYTES).decode("utf-8", "replace").split("\0")
    pairs = (entry.partition("=") for entry in entries)
    return {name: value[:_MAX_VALUE_LENGTH] for name, _, value in pairs if name in PLACEMENT_VARIABLES}


def _read_sockets(folder: Path) -> list[str]:
    """As the links write them: socket:[4711]."""
    sockets = []
    for name in os.listdir(folder):
        try:
            target = os.readlink(folder / name)
        except FileNotFoundError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            sockets.append(target)
    return sockets


def main() -> int:
    """Answers until whoever asks has hung up, and does not mind where that is before the answer."""
    try:
        while line := sys.stdin.buffer.readline(_MAX_LINE):
            sys.stdout.write(json.dumps(answer_request(line)) + "\n")
            sys.stdout.flush()
    except (BrokenPipeError, ConnectionResetError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter minds it as it ends
    return 0


if __name__ == "__main__":
    sys.exit(main())
