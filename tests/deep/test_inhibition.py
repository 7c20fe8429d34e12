"""The Alertmanager configuration in docs/ holds an alert back while a remedy acts on it, and not another's."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests import processes

pytestmark = [pytest.mark.deep, pytest.mark.timeout(120)]

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "alertmanager.yml"


def test_a_remedied_alert_waits_and_its_neighbour_does_not(tmp_path: Path) -> None:
    """DimmHot of A1 is inhibited by RemedyRunning of A1; B1's, and a critical one, come through."""
    address = f"127.0.0.1:{processes.find_free_port()}"
    arguments = [
        processes.require_program("prometheus-alertmanager"),
        f"--config.file={EXAMPLE}",
        f"--storage.path={tmp_path / 'am'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    hot = {"alertname": "DimmHot", "instance": "h1", "severity": "warning"}
    running = {"alertname": "RemedyRunning", "instance": "h1", "dimm": "A1", "for_alert": "DimmHot", "severity": "none"}
    alerts = [{**hot, "dimm": "A1"}, {**hot, "dimm": "B1"}, {**hot, "dimm": "A1", "severity": "critical"}, running]
    with processes.run_process(arguments, tmp_path / "log"):
        processes.wait_until(
            lambda: processes.fetch(f"http://{address}/-/ready") is not None, 30, "Alertmanager is ready"
        )
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = urllib.request.Request(
            f"http://{address}/api/v2/alerts", data=body, headers={"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=5).close()

        def list_inhibited() -> set[tuple[str, str]]:
            listed = json.loads(processes.fetch(f"http://{address}/api/v2/alerts") or "[]")
            inhibited = [alert["labels"] for alert in listed if alert["status"]["inhibitedBy"]]
            return {(labels.get("dimm", ""), labels["severity"]) for labels in inhibited}

        # Alertmanager marks an alert when it would notify: group_wait is 30 s.
        processes.wait_until(lambda: bool(list_inhibited()), 60, "an alert is inhibited")
        assert list_inhibited() == {("A1", "warning")}
