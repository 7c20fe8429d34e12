"""Runs the real hand process on a socket, over a folder of kernel files."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PATIENCE

HOUSE = Path(__file__).parents[2]
BOOT_ID = "11111111-2222-3333-4444-555555555555"
POLICY = "sys/devices/system/cpu/cpufreq/policy0"
UNIT = "sys/fs/cgroup/system.slice/llama.service"

FILES = {
    "proc/meminfo": "MemTotal: 1000 kB\nMemFree: 100 kB\n",
    "proc/sys/kernel/random/boot_id": f"{BOOT_ID}\n",
    "proc/sys/vm/drop_caches": "0\n",
    f"{POLICY}/scaling_governor": "powersave\n",
    f"{POLICY}/scaling_available_governors": "performance powersave schedutil\n",
    f"{POLICY}/energy_performance_preference": "balance_power\n",
    f"{POLICY}/energy_performance_available_preferences": "default performance balance_power power\n",
    "sys/devices/system/node/node0/compact": "",
    "sys/devices/system/node/node0/reclaim": "",
    f"{UNIT}/cgroup.freeze": "0\n",
    f"{UNIT}/memory.reclaim": "",
}
CONFIG = """
[units."llama.service"]
freeze = true
reclaim = true
[commands.say]
argv = ["/usr/bin/env"]
environment = ["STEADYTOK_LABEL_DIMM"]
[commands.sleep]
argv = ["/bin/sleep", "60"]
timeout = 0.3
"""


class RunningHand:
    """A running hand process and the means to send it requests."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.socket_path = folder / "hand.sock"
        self.options = options
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it is ready."""
        self.log = (self.folder / "log").open("a+b")
        arguments = ["--direct", "--socket", str(self.socket_path), "--state", str(self.folder / "state")]
        arguments += ["--root", str(self.root), "--config", str(self.folder / "hand.toml"), *self.options]
        log_size = (self.folder / "log").stat().st_size
        self.process = subprocess.Popen([sys.executable, "-m", "hand", *arguments], cwd=HOUSE, stderr=self.log)
        deadline = time.monotonic() + PATIENCE
        while b"ready" not in (self.folder / "log").read_bytes()[log_size:]:
            if self.process.poll() is not None:
                self.log.close()
                raise AssertionError(self.read_log())
            assert time.monotonic() < deadline, self.read_log()
            time.sleep(0.01)

    def read_log(self) -> str:
        """Returns the whole log."""
        return (self.folder / "log").read_text()

    def connect(self) -> socket.socket:
        """Opens a connection."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(20)
        try:
            connection.connect(str(self.socket_path))
        except OSError:  # as many wait to be accepted as the hand allows
            connection.close()
            raise
        return connection

    def send(self, raw: bytes) -> dict[str, Any]:
        """Sends raw bytes and returns the response."""
        with self.connect() as connection, connection.makefile("rb") as lines:
            with contextlib.suppress(BrokenPipeError):  # the hand may hang up early; its response can still be read
                connection.sendall(raw)
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer

    def request(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request and returns the response."""
        return self.send(json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n")

    def request_result(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request that must succeed and returns its result."""
        answer = self.request(verb, **arguments)
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result

    def read(self, path: str) -> str:
        """Returns the text of a kernel file."""
        return (self.root / path).read_text().strip()

    def write(self, path: str, text: str) -> None:
        """Writes a kernel file, as another program would."""
        (self.root / path).write_text(text)

    def kill(self) -> None:
        """Kills the process with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def terminate(self) -> int:
        """Ends the process with SIGTERM and returns its exit status."""
        self.process.terminate()
        status = self.process.wait(20)
        self.log.close()
        return status


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns once the condition is true; fails where it does not become true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        time.sleep(0.01)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        file = tmp_path / "root" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "hand.toml").write_text(CONFIG)
    os.chmod(tmp_path / "hand.toml", 0o644)
    return tmp_path


@pytest.fixture(name="hand")
def _hand(folder: Path) -> Iterator[RunningHand]:
    running = RunningHand(folder)
    yield running
    if running.process.poll() is None:
        running.terminate()
