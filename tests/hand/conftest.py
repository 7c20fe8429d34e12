"""A hand at work: the real process on a socket, over a machine that is a folder."""

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


class Running:
    """One hand, and a connection to it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.root = folder / "root"
        self.socket = folder / "hand.sock"
        self.options = options
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it is ready."""
        self.log = (self.folder / "log").open("a+b")
        arguments = ["--direct", "--socket", str(self.socket), "--state", str(self.folder / "state")]
        arguments += ["--root", str(self.root), "--config", str(self.folder / "hand.toml"), *self.options]
        written = (self.folder / "log").stat().st_size
        self.process = subprocess.Popen([sys.executable, "-m", "hand", *arguments], cwd=HOUSE, stderr=self.log)
        until = time.monotonic() + 20
        while b"ready" not in (self.folder / "log").read_bytes()[written:]:
            if self.process.poll() is not None:
                self.log.close()
                raise AssertionError(self.words())
            assert time.monotonic() < until, self.words()
            time.sleep(0.01)

    def words(self) -> str:
        """All that it said."""
        return (self.folder / "log").read_text()

    def connect(self) -> socket.socket:
        """A connection of the test's own."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(20)
        connection.connect(str(self.socket))
        return connection

    def send(self, raw: bytes) -> dict[str, Any]:
        """The answer to raw bytes."""
        with self.connect() as connection, connection.makefile("rb") as lines:
            with contextlib.suppress(BrokenPipeError):  # it may hang up unheard: what it said is there to read
                connection.sendall(raw)
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request."""
        return self.send(json.dumps({"verb": verb, "arguments": arguments}).encode() + b"\n")

    def result(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """The result of a request that is carried out."""
        answer = self.ask(verb, **arguments)
        assert answer["ok"], answer
        found: dict[str, Any] = answer["result"]
        return found

    def read(self, path: str) -> str:
        """What a file of the machine says."""
        return (self.root / path).read_text().strip()

    def write(self, path: str, text: str) -> None:
        """Somebody else writes it."""
        (self.root / path).write_text(text)

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def end(self) -> int:
        """SIGTERM; its exit status."""
        self.process.terminate()
        status = self.process.wait(20)
        self.log.close()
        return status


def eventually(condition: Callable[[], bool]) -> None:
    """Returns when it holds; fails after a generous while."""
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until, "waited in vain"
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
def _hand(folder: Path) -> Iterator[Running]:
    running = Running(folder)
    yield running
    if running.process.poll() is None:
        running.end()
