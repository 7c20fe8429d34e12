"""Starts real processes on loopback, peers and the agent, waits for them, and always ends them."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

PATIENCE = 120.0  # seconds for what happens within one on an idle machine


def require_program(name: str) -> str:
    """Finds a program; skips the test without it, or fails it where STEADYTOK_REQUIRE_PEERS is set."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed; .ci/run names the packages of Debian that have it"
        if os.environ.get("STEADYTOK_REQUIRE_PEERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def find_free_port() -> int:
    """Finds a TCP port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def run_process(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a process until the block ends; writes its output to a file."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def fetch(url: str) -> str | None:
    """Returns the body of a GET; None where nobody answers yet."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except (OSError, urllib.error.URLError):
        return None


def wait_until(condition: Callable[[], bool], seconds: float, description: str) -> None:
    """
    Waits for a condition; fails the test with `description` where it does not become true.

    A busy machine may take far longer than `seconds`, which is the time on an idle one: only what hangs fails.
    """
    deadline = time.monotonic() + max(seconds, PATIENCE)
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    pytest.fail(f"not within {max(seconds, PATIENCE):g} s: {description}")


def count_left_over(before: tuple[set[str], int]) -> tuple[set[str], int]:
    """The threads that were not there before, and how many more sockets are open; what others ended counts for none."""
    names, sockets = list_open_sockets()
    return names - before[0], max(0, sockets - before[1])


def list_open_sockets() -> tuple[set[str], int]:
    """The threads of this process, and how many sockets it has open."""
    names = {thread.name for thread in threading.enumerate()}
    links = (os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd"))
    return names, sum(os.path.exists(link) and os.readlink(link).startswith("socket:") for link in links)
