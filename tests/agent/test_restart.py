"""A real agent is killed and started again: alerts fire at the same time, and recorded History is restored."""

from __future__ import annotations

import contextlib
import http.server
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests import processes

RULES = """
groups:
  - name: test
    rules:
      - alert: Hot
        expr: steadytok_dimm_temperature_celsius > 80
        for: 8s
      - alert: SlowToForget
        expr: max_over_time(steadytok_dimm_temperature_celsius[1h]) > 80
"""


class Receiver:
    """Receives alerts as Alertmanager does, and stores them all."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        alerts = self.alerts

        class AlertHandler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                alerts.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), AlertHandler)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def find_alerts(self, name: str) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if alert["labels"]["alertname"] == name]

    def is_ended(self, name: str) -> bool:
        """True if the newest message about an alert says that it ended."""
        return _parse_seconds(self.find_alerts(name)[-1]["endsAt"]) <= time.time()


@contextlib.contextmanager
def run_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        thread.join()
        receiver.server.server_close()


class RestartableAgent:
    """A machine with one DIMM, and an agent on it that can be started several times."""

    def __init__(self, home: Path, alertmanager: str) -> None:
        self.home = home
        self.log = home / "log"
        self.address = f"127.0.0.1:{processes.find_free_port()}"
        self.sensor = _build_machine(home / "root")
        (home / "rules.yml").write_text(RULES)
        (home / "steadytok.yml").write_text(
            f"""
rules: {{builtin: false, files: ["{home}/rules.yml"]}}
alerting: {{resend_delay: 2s, alertmanagers: [{{static_configs: [{{targets: ["{alertmanager}"]}}]}}]}}
web: {{listen: "{self.address}"}}
state: {{dir: "{home}/state"}}
"""
        )

    def build_arguments(self, *command: str) -> list[str]:
        options = ["--root", str(self.home / "root"), "--config", str(self.home / "steadytok.yml")]
        return [sys.executable, "-m", "agent", *command, *options]

    @contextlib.contextmanager
    def run(self) -> Iterator[subprocess.Popen[bytes]]:
        with processes.run_process(self.build_arguments("run", "--plain"), self.log) as process:
            processes.wait_until(lambda: self.get("/-/ready") is not None, 30, "ready")
            yield process

    def get(self, path: str) -> str | None:
        return processes.fetch(f"http://{self.address}{path}")

    def find_alert(self, name: str) -> dict[str, Any] | None:
        alerts = json.loads(self.get("/api/v1/alerts") or "null")["data"]["alerts"]
        return next((alert for alert in alerts if alert["labels"]["alertname"] == name), None)

    def has_saved_alert(self) -> bool:
        """True once alerts.db has an alert."""
        (path,) = (self.home / "state").glob("**/alerts.db")
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM alerts").fetchone()
        return bool(count)

    def query(self, query: str) -> list[float]:
        answer = json.loads(self.get(f"/api/v1/query?query={query}") or "null")
        return [float(result["value"][1]) for result in answer["data"]["result"]]


def _build_machine(root: Path) -> Path:
    chip = root / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (root / "sys/devices/i2c/3-0050").mkdir(parents=True)
    (chip / "device").symlink_to("../../../devices/i2c/3-0050")
    (chip / "name").write_text("spd5118\n")
    (chip / "temp1_input").write_text("88000\n")
    return chip / "temp1_input"


def _parse_seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture(name="agent_and_receiver")
def _build_agent_and_receiver(tmp_path: Path) -> Iterator[tuple[RestartableAgent, Receiver]]:
    with run_receiver() as taking:
        yield RestartableAgent(tmp_path, taking.address), taking


@pytest.mark.deep
def test_killed_in_the_middle_of_for(agent_and_receiver: tuple[RestartableAgent, Receiver]) -> None:
    """After kill -9 a pending alert keeps its start time, and fires no sooner than `for` after it."""
    agent, receiver = agent_and_receiver
    with agent.run() as process:
        processes.wait_until(lambda: agent.find_alert("Hot") is not None, 20, "the alert is pending")
        before = agent.find_alert("Hot")
        processes.wait_until(agent.has_saved_alert, 10, "it is written")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert before is not None
    assert before["state"] == "pending"
    assert receiver.find_alerts("Hot") == []
    with agent.run():
        processes.wait_until(lambda: receiver.find_alerts("Hot") != [], 30, "the alert fires")
        after = agent.find_alert("Hot")

    assert after is not None
    assert (after["state"], after["activeAt"]) == ("firing", before["activeAt"])
    assert _parse_seconds(receiver.find_alerts("Hot")[0]["startsAt"]) - _parse_seconds(before["activeAt"]) >= 8.0


@pytest.mark.deep
def test_killed_while_firing(agent_and_receiver: tuple[RestartableAgent, Receiver]) -> None:
    """After kill -9 a firing alert continues as the same alert, and resolves once the DIMM is read as cool."""
    agent, receiver = agent_and_receiver
    with agent.run() as process:
        processes.wait_until(lambda: receiver.find_alerts("Hot") != [], 30, "the alert fires")
        first = receiver.find_alerts("Hot")[0]["startsAt"]
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    agent.sensor.write_text("45000\n")
    count = len(receiver.find_alerts("SlowToForget"))
    with agent.run():
        processes.wait_until(lambda: receiver.is_ended("Hot"), 30, "the resolved alert is sent")
        processes.wait_until(
            lambda: len(receiver.find_alerts("SlowToForget")) > count, 20, "what looks back an hour goes on"
        )
        slow = agent.find_alert("SlowToForget")

    assert {alert["startsAt"] for alert in receiver.find_alerts("Hot")} == {first}
    assert slow is not None
    assert slow["state"] == "firing"


@pytest.mark.deep
def test_what_was_seen_is_still_there(agent_and_receiver: tuple[RestartableAgent, Receiver]) -> None:
    """After kill -9 a query over the past has readings from before, and `recorder show` prints them."""
    agent, _ = agent_and_receiver
    with agent.run() as process:
        processes.wait_until(lambda: any((agent.home / "state").glob("**/full-*")), 30, "rows are written")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    agent.sensor.write_text("45000\n")
    show = agent.build_arguments("recorder", "show", "--metric", "steadytok_dimm_temperature_celsius", "--json")
    result = subprocess.run(show, capture_output=True, text=True, check=False, timeout=50)
    with agent.run():
        metric = "steadytok_dimm_temperature_celsius"
        processes.wait_until(lambda: agent.query(metric) == [45.0], 30, "the DIMM is sampled")
        highest = agent.query(f"max_over_time({metric}[5m])")

    assert highest == [88.0]
    (series,) = json.loads(result.stdout)
    assert series["metric"]["__name__"] == metric
    assert {text for _, text in series["values"]} == {"88"}
