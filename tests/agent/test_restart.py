"""A real agent is killed and started again: alerts fire when they would have, and what was seen is still there."""

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
    """Takes alerts as Alertmanager does, and keeps all that it was told."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        told = self.alerts

        class Door(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        self.address = f"127.0.0.1:{self.server.server_port}"

    def of(self, name: str) -> list[dict[str, Any]]:
        return [alert for alert in self.alerts if alert["labels"]["alertname"] == name]

    def ended(self, name: str) -> bool:
        """Whether the newest word on an alert is that it has ended."""
        return _seconds(self.of(name)[-1]["endsAt"]) <= time.time()


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    taking = Receiver()
    thread = threading.Thread(target=taking.server.serve_forever)
    thread.start()
    try:
        yield taking
    finally:
        taking.server.shutdown()
        thread.join()
        taking.server.server_close()


class House:
    """A machine of one DIMM, and an agent on it that may be started more than once."""

    def __init__(self, home: Path, alertmanager: str) -> None:
        self.home = home
        self.log = home / "log"
        self.address = f"127.0.0.1:{processes.free_port()}"
        self.sensor = _machine(home / "root")
        (home / "rules.yml").write_text(RULES)
        (home / "steadytok.yml").write_text(
            f"""
rules: {{builtin: false, files: ["{home}/rules.yml"]}}
alerting: {{resend_delay: 2s, alertmanagers: [{{static_configs: [{{targets: ["{alertmanager}"]}}]}}]}}
web: {{listen: "{self.address}"}}
state: {{dir: "{home}/state"}}
"""
        )

    def arguments(self, *command: str) -> list[str]:
        places = ["--root", str(self.home / "root"), "--config", str(self.home / "steadytok.yml")]
        return [sys.executable, "-m", "agent", *command, *places]

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with processes.running(self.arguments("run", "--plain"), self.log) as process:
            processes.until(lambda: self.get("/-/ready") is not None, 30, "ready")
            yield process

    def get(self, path: str) -> str | None:
        return processes.get(f"http://{self.address}{path}")

    def alert(self, name: str) -> dict[str, Any] | None:
        alerts = json.loads(self.get("/api/v1/alerts") or "null")["data"]["alerts"]
        return next((alert for alert in alerts if alert["labels"]["alertname"] == name), None)

    def saved(self) -> bool:
        """Whether alerts.db has an alert."""
        (path,) = (self.home / "state").glob("**/alerts.db")
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM alerts").fetchone()
        return bool(count)

    def asked(self, query: str) -> list[float]:
        answer = json.loads(self.get(f"/api/v1/query?query={query}") or "null")
        return [float(result["value"][1]) for result in answer["data"]["result"]]


def _machine(root: Path) -> Path:
    chip = root / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (root / "sys/devices/i2c/3-0050").mkdir(parents=True)
    (chip / "device").symlink_to("../../../devices/i2c/3-0050")
    (chip / "name").write_text("spd5118\n")
    (chip / "temp1_input").write_text("88000\n")
    return chip / "temp1_input"


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture(name="house")
def _house(tmp_path: Path) -> Iterator[tuple[House, Receiver]]:
    with receiver() as taking:
        yield House(tmp_path, taking.address), taking


@pytest.mark.deep
def test_killed_in_the_middle_of_for(house: tuple[House, Receiver]) -> None:
    """After kill -9 the alert keeps the time when it became active, and fires no sooner than `for` after it."""
    here, taking = house
    with here.running() as process:
        processes.until(lambda: here.alert("Hot") is not None, 20, "the alert is pending")
        before = here.alert("Hot")
        processes.until(here.saved, 10, "it is written")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert before is not None
    assert before["state"] == "pending"
    assert taking.of("Hot") == []
    with here.running():
        processes.until(lambda: taking.of("Hot") != [], 30, "the alert fires")
        after = here.alert("Hot")

    assert after is not None
    assert (after["state"], after["activeAt"]) == ("firing", before["activeAt"])
    assert _seconds(taking.of("Hot")[0]["startsAt"]) - _seconds(before["activeAt"]) >= 8.0


@pytest.mark.deep
def test_killed_while_firing(house: tuple[House, Receiver]) -> None:
    """A firing alert goes on as the same alert, is held while unknown, and resolves when the DIMM is cool."""
    here, taking = house
    with here.running() as process:
        processes.until(lambda: taking.of("Hot") != [], 30, "the alert fires")
        first = taking.of("Hot")[0]["startsAt"]
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    here.sensor.write_text("45000\n")
    count = len(taking.of("SlowToForget"))
    with here.running():
        processes.until(lambda: taking.ended("Hot"), 30, "the end is told")
        processes.until(lambda: len(taking.of("SlowToForget")) > count, 20, "what looks back an hour goes on")
        slow = here.alert("SlowToForget")

    assert {alert["startsAt"] for alert in taking.of("Hot")} == {first}
    assert slow is not None
    assert slow["state"] == "firing"


@pytest.mark.deep
def test_what_was_seen_is_still_there(house: tuple[House, Receiver]) -> None:
    """After kill -9 a query over the past answers from before it, and `recorder show` prints what was recorded."""
    here, _ = house
    with here.running() as process:
        processes.until(lambda: any((here.home / "state").glob("**/full-*")), 30, "rows are written")
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    here.sensor.write_text("45000\n")
    show = here.arguments("recorder", "show", "--metric", "steadytok_dimm_temperature_celsius", "--json")
    told = subprocess.run(show, capture_output=True, text=True, check=False, timeout=50)
    with here.running():
        now = "steadytok_dimm_temperature_celsius"
        processes.until(lambda: here.asked(now) == [45.0], 30, "the DIMM is sampled")
        most = here.asked(f"max_over_time({now}[5m])")

    assert most == [88.0]
    (series,) = json.loads(told.stdout)
    assert series["metric"]["__name__"] == now
    assert {text for _, text in series["values"]} == {"88"}
