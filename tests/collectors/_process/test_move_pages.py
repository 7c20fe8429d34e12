"""Queries of this machine's own kernel, about processes that end or are replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import pytest

from collectors import Host
from collectors._process import move_pages
from collectors._process.maps import MemoryMapping as Mapped
from collectors._process.maps import read_mappings
from collectors._process.move_pages import sample_pages
from collectors._process.stat import read_stat
from tests.machines.processes import start_child

Machine = Callable[[Mapping[str, str]], Host]


def test_a_process_that_has_ended_is_not_asked() -> None:
    """A pid of an ended process, or of a different one, gives no placement and one note."""
    host = Host("/")
    with start_child(1) as pid:
        process_stat = read_stat(host, pid)
        assert process_stat is not None
        assert sample_pages(host, pid, process_stat.start_time + 1, 100) is None
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert sample_pages(host, pid, process_stat.start_time, 100) is None
    assert len(host.take_notes()) == 2


def test_a_program_that_it_becomes_is_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where execve(2) replaces the program between mappings and query, the sample is dropped."""
    code = "import os, sys; print(flush=True); sys.stdin.readline(); os.execvp('sleep', ['sleep', '60'])"
    host = Host("/")
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as one_process:
        assert one_process.stdout is not None
        one_process.stdout.readline()
        first = read_stat(host, one_process.pid)
        assert first is not None
        replaced_pids: list[int] = []

        def become(host: Host, pid: int) -> list[Mapped] | None:
            old = read_mappings(host, pid)
            assert one_process.stdin is not None
            one_process.stdin.write(b"now\n")
            one_process.stdin.flush()
            deadline = time.monotonic() + 30
            while (now := read_stat(host, pid)) is not None and now.start_stack == first.start_stack:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            replaced_pids.append(pid)
            return old

        monkeypatch.setattr(move_pages, "read_mappings", become)
        placement = sample_pages(host, one_process.pid, first.start_time, 4096)
        one_process.kill()

    assert replaced_pids == [one_process.pid]
    assert placement is None
    assert len(host.take_notes()) == 1


def test_a_fixture_never_asks_this_machine(machine: Machine) -> None:
    """Below a root other than / no page is queried, though the pid may be one of this machine's."""
    host = machine({})

    assert sample_pages(host, os.getpid(), 0, 100) is None
    assert host.take_notes() == []
