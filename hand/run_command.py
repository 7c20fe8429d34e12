"""
`python -m hand.run_command PARENT`: runs one command of hand.toml, and ends every process that the command started.

A request, one JSON object, comes on standard input; a Report goes to standard output as JSON. A process in the
background, in a session of its own or behind a pipe that it floods would else outlive the command's timeout. As a child
subreaper this process becomes the parent of all that the command leaves behind: prctl(2), PR_SET_CHILD_SUBREAPER.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import selectors
import signal
import subprocess
import sys
import time
from collections import defaultdict
from typing import Any

from hand.parent_death import adopt_orphans, end_with_parent

ENDED, TIMED_OUT, STOPPED, NOT_STARTED = "ended", "timed out", "stopped", "not started"
KILL_TIMEOUT = 2.0  # seconds until a killed process is left to the kernel, as one in uninterruptible sleep
_CHUNK = 1 << 16  # bytes of output read at a time
_MAX_PIPE_BYTES = 1 << 20  # bytes that a pipe can hold: fcntl(2), F_SETPIPE_SZ


class SupervisedCommand:
    """The running command, the end of its output, and the signals that this process gets meanwhile."""

    def __init__(self, request: dict[str, Any]) -> None:
        """Starts the command; raises OSError."""
        self._max_output: int = request["max_output"]
        self._tail = b""
        self._signals, wakeup = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wakeup descriptor has the number
        self._process = subprocess.Popen(
            request["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=request["environment"],
            start_new_session=True,
            **_build_user_options(request["user"]),
        )
        assert self._process.stdout is not None  # Popen was called with PIPE
        self._output = self._process.stdout.fileno()
        os.set_blocking(self._output, False)

    def wait(self, timeout: float) -> str:
        """Reads the output until the command itself ends; returns ENDED, TIMED_OUT or STOPPED."""
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            for descriptor in (self._signals, self._output):
                selector.register(descriptor, selectors.EVENT_READ)
            while not self._has_ended():
                if (remaining := deadline - time.monotonic()) <= 0:
                    return TIMED_OUT
                for key, _ in selector.select(remaining):
                    if key.fd == self._signals:
                        if signal.SIGTERM in os.read(self._signals, _CHUNK):
                            return STOPPED
                    elif not self._read_output():
                        selector.unregister(self._output)
        return ENDED

    def _has_ended(self) -> bool:
        """True once the command is a zombie; it is not reaped yet, so that its group's number stays its own."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _read_output(self) -> int:
        """Reads a piece of the output and keeps the end of it; returns the bytes read, 0 at the end."""
        try:
            chunk = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return 0
        self._tail = (self._tail + chunk)[-self._max_output :]
        return len(chunk)

    def end_everything(self) -> bool:
        """Kills the command and all that it started; returns False when the kernel does not let one go."""
        with contextlib.suppress(ProcessLookupError):  # the group is empty
            os.killpg(self._process.pid, signal.SIGKILL)  # at one blow, before a member can start another
        deadline = time.monotonic() + KILL_TIMEOUT
        while self._reap():
            if time.monotonic() > deadline:
                return False
            for pid in list_descendants(os.getpid()):
                with contextlib.suppress(ProcessLookupError):  # it ended on its own meanwhile
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        return True

    def _reap(self) -> bool:
        """Collects the exit status of every child that has ended; returns True while others live."""
        with contextlib.suppress(ChildProcessError):  # there is no child left
            while child := os.waitpid(-1, os.WNOHANG):
                if child[0] == 0:
                    return True
                if child[0] == self._process.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(child[1])
        return False

    def report(self, ending: str) -> dict[str, Any]:
        """Kills what is left, and returns the Report: ending, status, end of the output, whether a process stayed."""
        is_clean = self.end_everything()
        for _ in range(_MAX_PIPE_BYTES // _CHUNK):  # what was in the pipe already
            if not self._read_output():
                break
        output = self._tail.decode(errors="replace")
        return {"ending": ending, "status": self._process.returncode, "output": output, "is_clean": is_clean}


def list_descendants(ancestor: int) -> list[int]:
    """Returns the processes below one, from /proc/PID/stat: proc_pid_stat(5), field 4."""
    children: dict[int, list[int]] = defaultdict(list)
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                children[int(file.read().rpartition(b")")[2].split()[1])].append(int(name))
        except (OSError, IndexError):
            continue  # it has ended
    descendants, pending = [], [ancestor]
    while pending:
        below = children.pop(pending.pop(), [])
        descendants += below
        pending += below
    return descendants


def _build_user_options(user: str) -> dict[str, Any]:
    """Returns the options that change the user; none when the hand does not run as root, as in a test."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def main() -> int:
    """Runs the command of the request, and reports."""
    request = json.load(sys.stdin)
    try:
        end_with_parent(int(sys.argv[1]))
        adopt_orphans()
        command = SupervisedCommand(request)
    except OSError as error:
        json.dump({"ending": NOT_STARTED, "output": error.strerror or str(error)}, sys.stdout)
        return 0
    json.dump(command.report(command.wait(request["timeout"])), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
