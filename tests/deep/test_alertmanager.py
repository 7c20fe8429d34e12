"""A real Alertmanager receives, keeps and resolves what real agents tell it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.alertmanagers import build_machine, fetch_active_alerts, run_alertmanager

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]

RULES = """
groups:
  - name: test
    rules:
      - alert: DimmTooHot
        expr: steadytok_dimm_temperature_celsius > 80
        labels: {severity: warning}
        annotations: {summary: "{{ $labels.dimm }} is at {{ $value }} °C"}
"""


@contextlib.contextmanager
def agent(tmp_path: Path, name: str, address: str, celsius: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A real agent on a machine of one DIMM, resending every two seconds."""
    home = tmp_path / name
    sensor = build_machine(home / "root", celsius)
    (home / "rules.yml").write_text(RULES)
    (home / "steadytok.yml").write_text(
        f"""
external_labels: {{instance: {name}}}
rules: {{builtin: false, files: ["{home}/rules.yml"]}}
alerting: {{resend_delay: 2s, alertmanagers: [{{static_configs: [{{targets: ["{address}"]}}]}}]}}
web: {{listen: "127.0.0.1:{processes.find_free_port()}"}}
state: {{dir: "{home}/state"}}
"""
    )
    config = str(home / "steadytok.yml")
    arguments = [sys.executable, "-m", "agent", "run", "--root", str(home / "root"), "--config", config, "--plain"]
    with processes.run_process(arguments, home / "log") as process:
        yield process, sensor


def test_alerts_live_and_end(tmp_path: Path) -> None:
    """Two hosts with one DIMM label are two alerts; each is kept alive, resolved when cool, never by leaving."""
    with run_alertmanager(tmp_path) as address, agent(tmp_path, "a", address, 88) as (_, sensor_a):
        with agent(tmp_path, "b", address, 91) as (process_b, _):
            processes.wait_until(
                lambda: fetch_active_alerts(address).keys() == {"a", "b"}, 30, "both alerts have arrived"
            )
            first = fetch_active_alerts(address)
            assert {alert["labels"]["dimm"] for alert in first.values()} == {"3-0050"}
            assert first["a"]["annotations"]["summary"] == "3-0050 is at 88 °C"

            processes.wait_until(
                lambda: fetch_active_alerts(address)["a"]["endsAt"] > first["a"]["endsAt"],
                15,
                "the alert is kept alive",
            )
            assert fetch_active_alerts(address)["a"]["startsAt"] == first["a"]["startsAt"]

            sensor_a.write_text("45000\n")
            processes.wait_until(
                lambda: "a" not in fetch_active_alerts(address), 15, "the cooled DIMM's alert has resolved"
            )
            assert "b" in fetch_active_alerts(address)

            before = fetch_active_alerts(address)["b"]
            process_b.send_signal(signal.SIGTERM)
            assert process_b.wait(15) == 0
        after = fetch_active_alerts(address)["b"]
        assert after["status"]["state"] == "active"
        assert after["endsAt"] >= before["endsAt"]


def test_a_test_alert_goes_through(tmp_path: Path) -> None:
    """`steadytok alert test` puts one alert into Alertmanager, and says so."""
    with run_alertmanager(tmp_path) as address:
        arguments = [sys.executable, "-m", "agent", "alert", "test", "--alertmanager", address]
        result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)

        assert result.returncode == 0, result.stderr
        assert result.stdout == f"http://{address}/api/v2/alerts: accepted\n"
        (alert,) = json.loads(processes.fetch(f"http://{address}/api/v2/alerts") or "[]")
        assert alert["labels"]["alertname"] == "SteadytokTest"


def test_a_test_alert_that_cannot_go_through(tmp_path: Path) -> None:
    """Where nobody listens, the command says why on one line and fails."""
    address = f"127.0.0.1:{processes.find_free_port()}"
    arguments = [sys.executable, "-m", "agent", "alert", "test", "--alertmanager", address]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)

    assert result.returncode == 1
    assert "Cannot connect" in result.stderr
    assert "Traceback" not in result.stderr
