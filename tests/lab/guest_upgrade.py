"""Upgrades the service in the machine, from the version before the rooms and from this one; and boots it again."""

from __future__ import annotations

import http.server
import json
import threading
import time
from pathlib import Path
from typing import Any

from tests.lab.guest_board import add_dimm, set_temperature
from tests.lab.guest_host import (
    AGENT,
    COMMAND,
    CONFIG,
    DAEMON,
    LAB,
    OPT,
    STATE,
    fetch_json,
    is_active,
    list_failed,
    list_files,
    list_firing,
    list_running,
    read_journal,
    read_pid,
    read_state,
    run_program,
    show_unit,
    wait_until,
)

OLD_CONFIG = """# edited by hand
state: {dir: /var/lib/steadytok}
external_labels: {instance: guest, site: lab}
rules: {files: [/etc/steadytok/rules/*.yml]}
alerting: {resend_delay: 5s, alertmanagers: [{static_configs: [{targets: ["127.0.0.1:9093"]}]}]}
remedies:
  - {name: watch, match: ['alertname="Lasting"'], action: drop_caches, rollback: never, plausible: [0, 1000],
      cooldown: 1m, max_attempts: 10, max_per_hour: 10, verify: {expr: "vector(1)", within: 1m}}
"""
OLD_RULES = """# written by hand
groups:
  - name: own
    rules:
      - {alert: Lasting, expr: steadytok_meminfo_mem_total_bytes / 1e9 > 0, labels: {severity: warning}}
"""
RULES_FILE = CONFIG.with_name("rules") / "own.yml"
BASELINE = {
    "version": 1,
    "bins": {"r1\x1fmodel-7b\x1f1": {"250": 400, "251": 30}},
    "placements": {"r1\x1f0\x1fllama.cpp": {"seen": 300, "shares": {"0": 0.75, "1": 0.25}}},
}
"""A learnt baseline as the old version stores it."""


class AlertReceiver:
    """Receives alerts as Alertmanager does, and stores the messages about Lasting with the time of their receipt."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        messages = self.messages

        class AlertHandler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
                    if alert["labels"]["alertname"] == "Lasting":
                        messages.append({**alert, "received": time.time()})
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 9093), AlertHandler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Frees the port."""
        self._server.shutdown()
        self._server.server_close()


def upgrade_old_version() -> dict[str, Any]:
    """Installs the version before the rooms, lets it work, upgrades it to this version, and purges that."""
    if not (LAB / "old").exists():
        return {}  # not in the host's clone: the tests report it
    files = list_files()
    receiver = AlertReceiver()
    try:
        results = {"install": _install_old_version(), "before": _read_work(receiver)}
        start = time.time()
        wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{LAB}/old {LAB}/wheels"}
        results["upgrade"] = run_program(COMMAND, "upgrade", **wheels)
        results["active"] = is_active()
        wait_until("an eye", list_running)
        count = len(receiver.messages)
        wait_until("a message of the new version", lambda: len(receiver.messages) > count)
        results["after"] = _read_work(receiver)
        results["failed"] = list_failed()
        results["journal"] = read_journal("steadytok*", "json", f"--since=@{start:.0f}")
    finally:
        receiver.close()
    run_program("systemctl", "stop", DAEMON)  # which saves the baseline
    results["baseline"] = json.loads((STATE / "baseline.json").read_text())
    results["purge"] = run_program(COMMAND, "uninstall", "--purge")
    results["left"] = sorted(set(list_files()) - set(files))
    return results


def _install_old_version() -> dict[str, Any]:
    """Installs the old version from its own environment; then gives it a configuration, a rule and a baseline."""
    paths = {"PYTHONPATH": f"{LAB}/old-site:{LAB}/site", "PIP_FIND_LINKS": f"{LAB}/old {LAB}/wheels"}
    installed = run_program("python3", "-m", "agent", "install", PIP_NO_INDEX="1", **paths)
    run_program("systemctl", "stop", DAEMON)
    CONFIG.write_text(OLD_CONFIG)
    RULES_FILE.parent.mkdir(exist_ok=True)
    RULES_FILE.write_text(OLD_RULES)
    owner = STATE.stat()
    baseline = STATE / "baseline.json"
    baseline.write_text(json.dumps(BASELINE))
    run_program("chown", f"{owner.st_uid}:{owner.st_gid}", str(baseline))
    run_program("systemctl", "start", DAEMON)
    wait_until("the alert Lasting", lambda: list_firing(alertname="Lasting"))
    wait_until("an entry in the audit log", _read_audit)
    wait_until("an eye", list_running)
    return installed


def _read_work(receiver: AlertReceiver) -> dict[str, Any]:
    """Returns what an upgrade must keep, and the versions that run."""
    wait_until("a message about Lasting", lambda: receiver.messages)
    (alert,) = wait_until("the alert Lasting", lambda: list_firing(alertname="Lasting"))
    eyes = [Path(f"/proc/{read_pid(unit)}/cmdline").read_text().split("\0") for unit in list_running()]
    return {
        "active_at": alert["activeAt"],
        "labels": alert["labels"],
        "messages": list(receiver.messages),
        "audit": _read_audit(),
        "config": CONFIG.read_text(),
        "rules": RULES_FILE.read_text(),
        "eyes": eyes,
        "version": run_program(COMMAND, "--version")["out"].strip(),
        "build": fetch_json(f"{AGENT}/api/v1/query?query=steadytok_build_info"),
    }


def _read_audit() -> list[dict[str, Any]]:
    output = run_program(COMMAND, "remedies", "audit", "--json", "--config", str(CONFIG))["out"]
    return [json.loads(line) for line in output.splitlines()]


def upgrade() -> dict[str, Any]:
    """Upgrades to another version, with an edited configuration; then to one that does not exist."""
    before = read_state()
    results: dict[str, Any] = {"before": before, "state_before": sorted(path.name for path in STATE.iterdir())}
    wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{LAB}/newer {LAB}/wheels"}
    results["upgrade"] = run_program(COMMAND, "upgrade", **wheels)
    results["version"] = run_program(COMMAND, "--version")["out"].strip()
    results["config_after"] = CONFIG.read_text()
    results["after"] = read_state()
    results["state_after"] = sorted(path.name for path in STATE.iterdir())
    results["impossible"] = run_program(COMMAND, "upgrade", "--from", "steadytok==99", **wheels)
    results["venvs"] = sorted(path.name for path in OPT.iterdir())
    results["still_active"] = is_active()
    results["build"] = fetch_json(f"{AGENT}/api/v1/query?query=steadytok_build_info")
    return results


def observe_boot() -> dict[str, Any]:
    """Waits for the service after a reboot, and reads its state."""
    wait_until("the service after the reboot", is_active)
    results: dict[str, Any] = {
        "unit": show_unit(DAEMON, "ActiveState", "NRestarts"),
        "eyes": bool(wait_until("an eye", list_running)),
    }
    add_dimm()
    set_temperature(99.0)
    results["state"] = read_state()
    results["failed"] = list_failed()
    results["before"] = json.loads((LAB / "upgrade.json").read_text()).get("after")
    return results
