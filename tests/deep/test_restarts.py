"""The agent on this host, started and ended again and again as systemd does it: nothing is left behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import processes

pytestmark = [pytest.mark.deep, pytest.mark.timeout(1800)]

TIMES = int(os.environ.get("STEADYTOK_RESTARTS", "20"))
CONFIG = "engine: {{enabled: false}}\nweb: {{listen: 127.0.0.1:{port}}}\nstate: {{dir: {state}}}\n"


def until_ready(listener: socket.socket) -> None:
    end = time.monotonic() + 60
    while b"READY=1" not in listener.recv(4096):
        assert time.monotonic() < end, "it ticks, and has not said that it is ready"


def list_leftovers(state: Path) -> set[str]:
    """Files of the state folder; not the flight recorder's tapes, which it throws away by their age."""
    return {str(path) for path in state.rglob("*") if path.parent.name != "recorder"}


def test_restarts_leave_nothing_behind(tmp_path: Path) -> None:
    """Each start is told to systemd, each SIGTERM ends it with status 0; no process and no file is left."""
    config, state, log = tmp_path / "steadytok.yml", tmp_path / "state", tmp_path / "log"
    config.write_text(CONFIG.format(port=processes.find_free_port(), state=state))
    command = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(config)]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    first: set[str] = set()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, log.open("wb") as output:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "TMPDIR": str(tmp_path / "state")}
        for _ in range(TIMES):
            with subprocess.Popen(command, stdout=output, stderr=output, env=environment) as process:
                until_ready(listener)
                family = psutil.Process(process.pid).children(recursive=True)
                process.terminate()
                assert process.wait(20) == 0
            assert [child for child in family if child.is_running()] == []
            first = first or list_leftovers(state)

    assert list_leftovers(state) == first
    assert {child.pid for child in psutil.Process().children(recursive=True)} == before
    assert "Traceback" not in log.read_text()
