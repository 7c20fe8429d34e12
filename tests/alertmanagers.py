"""Real Alertmanagers for tests, and a machine with one DIMM whose temperature the test sets."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests import processes

QUIET = "route: {receiver: none}\nreceivers: [{name: none}]\n"


@contextlib.contextmanager
def run_alertmanager(folder: Path, config: str = QUIET, address: str = "") -> Iterator[str]:
    """Runs a real Alertmanager that stores its state in a folder; yields HOST:PORT. It can be started again there."""
    (folder / "alertmanager.yml").write_text(config)
    address = address or f"127.0.0.1:{processes.find_free_port()}"
    arguments = [
        processes.require_program("prometheus-alertmanager"),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'am'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    with processes.run_process(arguments, folder / "alertmanager.log"):
        processes.wait_until(
            lambda: processes.fetch(f"http://{address}/-/ready") is not None, 30, "Alertmanager is ready"
        )
        yield address


def build_machine(root: Path, celsius: int) -> Path:
    """Writes a machine with one DIMM sensor; returns the file with its temperature."""
    chip = root / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (root / "sys/devices/i2c/3-0050").mkdir(parents=True)
    (chip / "device").symlink_to("../../../devices/i2c/3-0050")
    (chip / "name").write_text("spd5118\n")
    (chip / "temp1_input").write_text(f"{celsius}000\n")
    return chip / "temp1_input"


def fetch_active_alerts(address: str, label: str = "instance") -> dict[str, dict[str, Any]]:
    """Fetches the active alerts of an Alertmanager, by the value of a label."""
    body = processes.fetch(f"http://{address}/api/v2/alerts") or "[]"
    return {alert["labels"][label]: alert for alert in json.loads(body)}
