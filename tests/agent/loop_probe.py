"""
Runs `steadytok` with a probe: names everything that opens a file, a folder, a database or a process on the event loop.

python -m tests.agent.loop_probe REPORT run --config FILE …: after SIGUSR2 each access is written to REPORT, one a line,
as `EVENT TARGET | FUNCTION < ITS CALLER < …`, the functions being those of this project, the innermost first.
Audit events: https://docs.python.org/3/library/audit_events.html.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

HOUSE = Path(__file__).parents[2]
EVENTS = frozenset(
    (
        *("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink"),
        *(
            "os.truncate",
            "os.chmod",
            "os.chown",
            "os.rmdir",
            "os.utime",
            "glob.glob",
            "glob.glob/2",
            "tempfile.mkstemp",
        ),
        *("sqlite3.connect", "sqlite3.execute", "subprocess.Popen", "os.posix_spawn", "os.fork", "os.system"),
        *("socket.getaddrinfo", "socket.gethostbyname"),
    )
)


class LoopProbe:
    """Writes the accesses of the thread whose event loop runs."""

    def __init__(self, report: str) -> None:
        self._descriptor = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_armed = False

    def arm(self, *_: object) -> None:
        """Begins to report; the start of the agent is over."""
        self._is_armed = True
        os.write(self._descriptor, b"armed\n")

    def note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Reports one audit event."""
        if self._is_armed and event in EVENTS and asyncio._get_running_loop() is not None:
            target = " ".join(map(str, arguments[:1]))
            os.write(self._descriptor, f"{event} {target} | {' < '.join(self._list_callers())}\n".encode())

    def _list_callers(self) -> list[str]:
        callers, frame = [], sys._getframe(2)
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(HOUSE) and ".venv" not in path.parts and path != Path(__file__):
                callers.append(f"{path.relative_to(HOUSE)}:{frame.f_code.co_qualname}")
            frame = frame.f_back
        return callers


class ProbedConnection(sqlite3.Connection):
    """A connection whose statements are audit events: sqlite3 itself reports only that a database is opened."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        sys.audit("sqlite3.execute", *arguments)
        return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        sys.audit("sqlite3.execute", *arguments)
        return super().executemany(*arguments)

    def executescript(self, script: str) -> sqlite3.Cursor:
        sys.audit("sqlite3.execute", script)
        return super().executescript(script)


def main() -> None:
    """Installs the probe and becomes `steadytok`."""
    probe = LoopProbe(sys.argv.pop(1))
    connect = sqlite3.connect
    sqlite3.connect = lambda *arguments, **options: connect(*arguments, factory=ProbedConnection, **options)  # type: ignore[assignment]
    signal.signal(signal.SIGUSR2, probe.arm)
    sys.addaudithook(probe.note)
    from agent.__main__ import main as run_steadytok

    run_steadytok()


if __name__ == "__main__":
    main()
