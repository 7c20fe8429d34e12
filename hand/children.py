"""
Runs the programs that do what may take long, each in a process that can be ended while the hand goes on.

A program is a module of the hand. It ends at SIGTERM, and also when the hand itself is killed (`parent_death.py`).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

from hand.errors import AmbiguousOutcomeError, HandClosingError

REAP_TIMEOUT = 2.0  # seconds until a killed process is left to the kernel, which may hold it in uninterruptible sleep


class Completed(NamedTuple):
    """A program that has ended by itself."""

    status: int
    output: bytes
    error: bytes


class Children:
    """The programs under way; `end` ends them and lets no other start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.is_ended = False
        """True once the hand ends: what takes long stops where it can."""

    def run(self, program: str, arguments: Sequence[str], text: bytes, timeout: float) -> Completed | None:
        """
        Runs a program with `text` as its standard input; returns None when it was killed after `timeout` seconds.

        Raises HandClosingError when the hand is ending, and AmbiguousOutcomeError when it ends meanwhile.
        """
        process = self._start(program, arguments)
        try:
            output, error = process.communicate(text, timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            return None
        finally:
            self._running.discard(process)
        if self.is_ended and process.returncode < 0:
            raise AmbiguousOutcomeError("the hand ended meanwhile; the request may be carried out in part")
        return Completed(process.returncode, output, error)

    def _start(self, program: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-B", "-m", program, str(os.getpid()), *arguments]
        with self._lock:
            if self.is_ended:
                raise HandClosingError
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C on a terminal reaches the hand alone, which ends the rest in order
                env={},
            )
            self._running.add(process)
            return process

    def end(self) -> None:
        """Asks every program to end; each ends its own processes."""
        with self._lock:
            self.is_ended = True
            for process in list(self._running):
                process.terminate()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # left to the kernel
        process.communicate(timeout=REAP_TIMEOUT)
