"""The agent follows a real Alertmanager that resolves an alert by its end, and that fires it again."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.web.webhook_payload import compute_fingerprint
from tests import processes
from tests.alertmanagers import run_alertmanager

pytestmark = [pytest.mark.deep, pytest.mark.timeout(240)]

ROUTE = """
route: {{receiver: hosts, group_wait: 1s, group_interval: 2s, repeat_interval: 5s}}
receivers:
  - name: hosts
    webhook_configs:
      - url: http://{agent}/api/v1/webhook/alertmanager
        http_config: {{authorization: {{credentials_file: {token}}}}}
"""


def send_alert(address: str, labels: dict[str, str], starts: datetime, ends: datetime) -> None:
    """Sends one alert to an Alertmanager, as Prometheus does."""
    alert = {"labels": labels, "startsAt": starts.isoformat(), "endsAt": ends.isoformat(), "generatorURL": "http://p/"}
    body, headers = json.dumps([alert]).encode(), {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}/api/v2/alerts", body, headers)
    urllib.request.urlopen(request, timeout=10).close()


class Box:
    """An agent whose remedies are for every alert of a rack."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{processes.find_free_port()}"
        remedy: dict[str, Any] = {"name": "tell", "match": ['rack="r2"'], "sources": ["webhook"], "instance": ".*"}
        config = {
            "web": {"listen": self.address},
            "state": {"dir": str(folder / "state")},
            "engine": {"enabled": False},
            "rules": {"builtin": False},
            "remediation": {"builtin": False},
            "remedies": [{**remedy, "action": "webhook", "target": {"url": "http://127.0.0.1:9/"}}],
        }
        (folder / "steadytok.yml").write_text(json.dumps(config))
        (folder / "root/proc").mkdir(parents=True)
        self.arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(folder / "steadytok.yml")]
        self.arguments += ["--root", str(folder / "root")]

    def count(self, outcome: str) -> float:
        """Returns how many posted alerts had an outcome."""
        series = f'steadytok_webhook_alerts_total{{outcome="{outcome}"}} '
        lines = (processes.fetch(f"http://{self.address}/metrics") or "").splitlines()
        return next((float(line.removeprefix(series)) for line in lines if line.startswith(series)), 0.0)


def test_an_alert_that_ended_by_timeout_fires_again(tmp_path: Path) -> None:
    """prometheus#5277, alertmanager#952: with the start that it had before, it fires again for the remedies too."""
    box, labels = Box(tmp_path), {"alertname": "Rack zu heiß, 机架", "rack": "r2"}
    starts = datetime.now(UTC) - timedelta(minutes=1)
    with processes.run_process(box.arguments, tmp_path / "log"):
        processes.wait_until(lambda: box.count("taken") == 0 and box.address in _read(tmp_path / "log"), 40, "ready")
        route = ROUTE.format(agent=box.address, token=tmp_path / "state/token")
        with run_alertmanager(tmp_path, route) as alertmanager:
            send_alert(alertmanager, labels, starts, datetime.now(UTC) + timedelta(seconds=8))
            processes.wait_until(lambda: box.count("taken") == 1, 40, "the alert fires")
            processes.wait_until(lambda: box.count("resolved") == 1, 60, "the alert has ended by its timeout")
            send_alert(alertmanager, labels, starts, datetime.now(UTC) + timedelta(minutes=4))
            processes.wait_until(lambda: box.count("taken") == 2, 60, "the alert fires again")
            (alert,) = json.loads(processes.fetch(f"http://{alertmanager}/api/v2/alerts") or "[]")
            processes.wait_until(lambda: box.count("repeated") > 0, 60, "its repeat is one")

    assert alert["fingerprint"] == compute_fingerprint(labels)


def test_an_alert_whose_start_moves_back_ends(tmp_path: Path) -> None:
    """A second Prometheus server sends an earlier start, which Alertmanager keeps: one end is posted for both."""
    box, labels = Box(tmp_path), {"alertname": "RackHot", "rack": "r2"}
    now = datetime.now(UTC)
    with processes.run_process(box.arguments, tmp_path / "log"):
        processes.wait_until(lambda: box.count("taken") == 0 and box.address in _read(tmp_path / "log"), 40, "ready")
        route = ROUTE.format(agent=box.address, token=tmp_path / "state/token")
        with run_alertmanager(tmp_path, route) as alertmanager:
            send_alert(alertmanager, labels, now - timedelta(seconds=50), now + timedelta(minutes=4))
            processes.wait_until(lambda: box.count("taken") == 1, 40, "the alert fires")
            send_alert(alertmanager, labels, now - timedelta(seconds=60), now + timedelta(minutes=5))
            processes.wait_until(lambda: box.count("taken") == 2, 60, "the earlier start is posted")
            send_alert(alertmanager, labels, now - timedelta(seconds=60), datetime.now(UTC))
            processes.wait_until(lambda: box.count("resolved") == 1, 60, "the alert has ended")
    (path,) = tmp_path.glob("state/*/inbox.db")
    with contextlib.closing(sqlite3.connect(path)) as database:
        states = database.execute("SELECT firing FROM inbox").fetchall()

    assert states == [(0,), (0,)]


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    "labels",
    [
        {"alertname": "ICMP ping failed", "instance": "192.0.2.30"},
        {"alertname": "节点状态", "severity": "critical", "Z": "1", "a": "2", "_": "3"},
    ],
)
def test_a_fingerprint_is_alertmanagers_own(tmp_path: Path, labels: dict[str, str]) -> None:
    """What older Alertmanagers leave out is what a newer one would send."""
    with run_alertmanager(tmp_path) as alertmanager:
        send_alert(alertmanager, labels, datetime.now(UTC), datetime.now(UTC) + timedelta(minutes=4))
        (alert,) = json.loads(processes.fetch(f"http://{alertmanager}/api/v2/alerts") or "[]")

    assert alert["fingerprint"] == compute_fingerprint(labels)
