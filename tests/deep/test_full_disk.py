"""A real agent starts on a full disk, and goes on by itself once there is room; nothing that it knew is lost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests import processes

pytestmark = [pytest.mark.deep, pytest.mark.timeout(300)]

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
# Runs in a namespace of its own, whose mount goes with it: a file system of 3 MiB that is full while the agent starts.
PROGRAM = """
import subprocess, sys
from pathlib import Path
from tests.deep.test_full_disk import FullDisk
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "steadytok-test", sys.argv[1] + "/disk"], check=True)
FullDisk(Path(sys.argv[1])).play()
"""
ALERT = {
    "status": "firing",
    "labels": {"alertname": "RackHot", "rack": "r1"},
    "startsAt": "2026-03-01T08:00:00Z",
    "fingerprint": "a1",
}


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    """Returns refusals like other answers."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response


class FullDisk:
    """An agent whose state folder is on a small file system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "disk/state"
        self.log = folder / "log"
        self.address = f"127.0.0.1:{processes.find_free_port()}"
        remedy = {"name": "tell", "match": ['rack="r1"'], "sources": ["webhook"], "instance": ".*", "action": "webhook"}
        config = {
            "web": {"listen": self.address},
            "state": {"dir": str(self.state)},
            "engine": {"enabled": False},
            "rules": {"builtin": False},
            "remediation": {"builtin": False, "pause_file": str(folder / "pause")},
            "remedies": [{**remedy, "target": {"url": "http://127.0.0.1:9/"}}],
        }
        (folder / "steadytok.yml").write_text(json.dumps(config))
        self.command = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(folder / "steadytok.yml")]

    def post(self) -> dict[str, object]:
        token = (self.state / "token").read_text().strip()
        body = json.dumps({"version": "4", "alerts": [ALERT]})
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        url = f"http://{self.address}/api/v1/webhook/alertmanager"
        request = urllib.request.Request(url, body.encode(), headers)
        with contextlib.closing(urllib.request.build_opener(_EveryStatus).open(request, timeout=20)) as response:
            answer: dict[str, object] = json.load(response)
            return answer

    def is_halted(self) -> bool | None:
        """True while no remedy acts, by the agent's own metrics; None where it does not answer."""
        lines = (processes.fetch(f"http://{self.address}/metrics") or "").splitlines()
        values = [line.split()[1] for line in lines if line.startswith("steadytok_remedies_halted ")]
        return float(values[0]) == 1.0 if values else None

    def play(self) -> None:
        with processes.run_process(self.command, self.log):
            processes.wait_until(lambda: self.is_halted() is False, 60, "remedies act")
            assert self.post()["data"] == {"taken": 1}
        ballast = self.folder / "disk/ballast"
        fill = ["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"]
        subprocess.run(fill, capture_output=True, check=False)
        with processes.run_process(self.command, self.log):
            processes.wait_until(lambda: self.is_halted() is True, 60, "no remedy acts without a journal")
            assert self.post()["errorType"] == "unavailable"
            assert list(self.state.glob("*.unreadable")) == []
            ballast.unlink()
            processes.wait_until(lambda: self.is_halted() is False, 60, "remedies act again")
            processes.wait_until(lambda: self.post().get("data") == {"repeated": 1}, 60, "the alert is known")
        assert list(self.state.glob("*.unreadable")) == []
        assert [path.name for path in self.state.glob("*-wal")] == []
        assert "Traceback" not in self.log.read_text()


def test_a_start_on_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    """alerts.db, inbox.db and journal.db stay in place; posts are refused meanwhile, and what was posted is known."""
    probe = [*NAMESPACE, "mount", "-t", "tmpfs", "x", "/mnt"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may mount nothing, not even in a namespace of its own")
    (tmp_path / "disk").mkdir()
    program = [*NAMESPACE, sys.executable, "-c", PROGRAM, str(tmp_path)]
    house = Path(__file__).parents[2]
    done = subprocess.run(program, cwd=house, capture_output=True, text=True, check=False, timeout=280)

    assert done.returncode == 0, done.stderr[-4000:]
