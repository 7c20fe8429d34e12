"""Ends the daemon in several ways: a main thread that stands still, SIGKILL, and ten clean stops."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from pathlib import Path
from typing import Any

from tests.lab.guest_host import (
    DAEMON,
    STATE,
    is_active,
    list_alertmanager_alerts,
    list_running,
    read_journal,
    read_pid,
    read_state,
    run_program,
    show_unit,
    wait_until,
)

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000  # ptrace(2), waitpid(2)


def trip_watchdog() -> dict[str, Any]:
    """Stops the thread that ticks while all others continue; then kills the daemon."""
    results: dict[str, Any] = {"before": read_state()}
    frozen = read_pid()
    freezer = _freeze(frozen)
    start = time.monotonic()
    wait_until("a second process", lambda: read_pid() not in (0, frozen) and is_active())
    os.waitpid(freezer, 0)
    results["frozen_seconds"] = round(time.monotonic() - start, 1)
    results["after"] = read_state()
    os.kill(read_pid(), 9)
    wait_until("a third process", lambda: read_pid() not in (0, results["after"]["pid"]) and is_active())
    results["killed"] = read_state()
    results["alertmanager_alerts"] = list_alertmanager_alerts()
    results["journal"] = read_journal(DAEMON)
    return results


def _freeze(frozen: int) -> int:
    """
    Forks a child that stops the main thread of a process alone, and releases it once SIGABRT is pending for it.

    A thread that a tracer stops takes no signal, and a traced process is gone only once its tracer has waited for it.
    """
    child = os.fork()
    if child:
        return child
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace(_PTRACE_SEIZE, frozen, None, None)
    libc.ptrace(_PTRACE_INTERRUPT, frozen, None, None)
    os.waitpid(frozen, _WALL)
    with contextlib.suppress(OSError):  # another thread took the signal, and the process has ended
        while not _is_aborting(frozen):
            time.sleep(0.2)
        libc.ptrace(_PTRACE_DETACH, frozen, None, None)
        os.waitpid(frozen, _WALL)
    os._exit(0)


def _is_aborting(process: int) -> bool:
    text = Path(f"/proc/{process}/status").read_text()
    pending = re.findall(r"^(?:ShdPnd|SigPnd):\s+(\w+)$", text, re.M)
    return any(int(mask, 16) >> 5 & 1 for mask in pending) or "zombie" in text  # bit 5 is signal 6


def restart_ten_times() -> dict[str, Any]:
    """Stops and starts the service ten times; lists its remains after the first and the last stop."""
    results: dict[str, Any] = {"stops": []}
    for turn in range(10):
        stopped = run_program("systemctl", "stop", DAEMON)
        result = show_unit(DAEMON, "Result", "ExecMainStatus", "ExecMainCode")
        results["stops"].append({"seconds": stopped["seconds"], **result})
        if turn in (0, 9):
            wait_until("the eye's end", lambda: not list_running() and not list_running("steadytok-look@*.service"))
            results["first" if turn == 0 else "last"] = _list_remains()
        run_program("systemctl", "start", DAEMON)
    results["state"] = read_state()
    return results


def _list_remains() -> dict[str, Any]:
    """Returns the service's processes, units, files and mounts while the service is stopped."""
    processes = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            text = status.read_text()
            if re.search(rf"^Uid:\s+({'|'.join(map(str, _list_uids()))})\s", text, re.M):
                processes.append(text.splitlines()[0])
    units = run_program("systemctl", "list-units", "--all", "--no-legend", "--plain", "steadytok*")["out"]
    return {
        "processes": processes,
        "units": sorted(" ".join(line.split()[:4]) for line in units.splitlines()),
        "run": sorted(
            str(path) for folder in ("steadytok", "steadytok-hand") for path in Path("/run", folder).rglob("*")
        ),
        # Without the flight recorder's files, which it deletes by age.
        "state": sorted(str(path) for path in STATE.rglob("*") if path.parent.name != "recorder"),
        "temporary": sorted(str(path) for path in (*Path("/tmp").iterdir(), *Path("/var/tmp").iterdir())),
        "mounts": sum("steadytok" in line for line in Path("/proc/mounts").read_text().splitlines()),
    }


def _list_uids() -> list[int]:
    """Returns the numbers of the service's users."""
    lines = (line.split(":") for line in Path("/etc/passwd").read_text().splitlines())
    return [int(line[2]) for line in lines if line[0].startswith("steadytok")]
