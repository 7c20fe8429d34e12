"""
Runs programs in the service machine, and reads the state of its units, its files, its agent and its Alertmanager.

All guest files of this machine run with its own python3 and the standard library alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAB = Path("/run/lab")
COMMAND = "/usr/local/bin/steadytok"
STATE = Path("/var/lib/steadytok")
CONFIG = Path("/etc/steadytok/steadytok.yml")
OPT = Path("/opt/steadytok")
DAEMON = "steadytok.service"
AGENT = "http://127.0.0.1:9817"
MANAGER = "192.0.2.10"  # an address of this host alone, which the configuration names
STRANGER = "192.0.2.66"  # another one, which the configuration does not name
ALERTMANAGER = "route: {receiver: nobody, group_wait: 1s, group_interval: 1s}\nreceivers: [{name: nobody}]\n"
PATIENCE = 180.0  # seconds, the longest wait for a condition


def run_program(*command: str, **environment: str) -> dict[str, Any]:
    """Runs a program; returns its status, its output and its duration."""
    start = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, **environment}, timeout=600
    )
    seconds = round(time.monotonic() - start, 2)
    with (LAB / "commands.log").open("a") as log:  # evidence for a stage that failed
        log.write(f"$ {' '.join(command)}  # {done.returncode}, {seconds} s\n")
        log.write(f"{done.stdout[-4000:]}{done.stderr[-4000:]}\n")
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr, "seconds": seconds}


def wait_until(description: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Returns the first true result of the condition. Raises TimeoutError."""
    end = time.monotonic() + patience
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{description} did not come within {patience:g} s")
        time.sleep(0.5)
    return result


def show_unit(unit: str, *properties: str) -> dict[str, str]:
    """Returns properties of a unit."""
    output = run_program("systemctl", "show", unit, f"--property={','.join(properties)}")["out"]
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def read_pid(unit: str = DAEMON) -> int:
    """Returns the main process of a unit; 0 if it does not run."""
    return int(show_unit(unit, "MainPID")["MainPID"])


def is_active() -> bool:
    """True while the daemon is ready."""
    return show_unit(DAEMON, "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


def list_running(pattern: str = "steadytok-eye@*.service") -> list[str]:
    """Returns the running units of a pattern: by default the eyes."""
    units = run_program("systemctl", "list-units", "--state=running", "--no-legend", "--plain", pattern)
    return [line.split()[0] for line in units["out"].splitlines()]


def list_failed() -> str:
    """Returns the failed units as systemctl prints them."""
    return str(run_program("systemctl", "--failed", "--no-legend", "--plain")["out"])


def read_journal(unit: str, output: str = "cat", *options: str) -> str:
    """Returns the journal of a unit."""
    return str(run_program("journalctl", "--no-pager", f"--output={output}", f"--unit={unit}", *options)["out"])


def list_files() -> list[str]:
    """Returns every file and folder of the disk, except those that an idle system changes."""
    changing = ("/var/log/journal", "/var/tmp", "/tmp", "/var/lib/systemd", "/var/cache", "/root", "/etc/.pwd.lock")
    paths = []
    for folder, folders, names in os.walk("/"):
        device = os.stat(folder).st_dev
        folders[:] = [
            name
            for name in folders
            if not f"{folder.rstrip('/')}/{name}".startswith(changing)
            and (os.path.islink(f"{folder}/{name}") or os.stat(f"{folder}/{name}").st_dev == device)
        ]
        paths += [f"{folder.rstrip('/')}/{name}" for name in (*folders, *names)]
    # The first import of a module compiles it, and shadow's tools keep backups such as /etc/passwd-.
    return sorted(path for path in paths if "__pycache__" not in path and not re.fullmatch(r"/etc/\w+-", path))


def fetch_json(url: str) -> Any:
    """Returns the JSON at a URL; None if there is no answer."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())
    return None


def is_answering(host: str, port: int) -> bool:
    """True while an HTTP server answers there."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{host}:{port}/", timeout=5):
        return True
    return False


def list_firing(**labels: str) -> list[dict[str, Any]]:
    """Returns the agent's firing alerts with these labels."""
    answer = fetch_json(f"{AGENT}/api/v1/alerts") or {"data": {"alerts": []}}
    alerts = answer["data"]["alerts"]
    return [alert for alert in alerts if labels.items() <= alert["labels"].items() and alert["state"] == "firing"]


def list_hot_dimms() -> list[dict[str, Any]]:
    """Returns the agent's alerts DimmHot that are critical and fire."""
    return list_firing(alertname="DimmHot", severity="critical")


def query_series(query: str) -> list[Any]:
    """Returns the labels and the value of each series that the agent answers a query with."""
    answer = fetch_json(f"{AGENT}/api/v1/query?query={query}") or {"data": {"result": []}}
    return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]


def read_state() -> dict[str, Any]:
    """Returns the start of the alert DimmHot, the daemon's process, and its number of restarts."""
    alerts = wait_until("DimmHot", list_hot_dimms)
    return {
        "active_at": alerts[0]["activeAt"],
        "pid": read_pid(),
        "restarts": show_unit(DAEMON, "NRestarts")["NRestarts"],
    }


def start_alertmanager() -> None:
    """Starts a real Alertmanager on an address that the configuration names; also adds an address that it does not."""
    for address in (MANAGER, STRANGER):
        run_program("ip", "address", "add", f"{address}/32", "dev", "lo")
    Path("/run/alertmanager").mkdir(exist_ok=True)
    Path("/run/alertmanager/config.yml").write_text(ALERTMANAGER)
    options = [f"--web.listen-address={MANAGER}:9093", "--cluster.listen-address=", "--storage.path=/run/alertmanager"]
    options.append("--config.file=/run/alertmanager/config.yml")
    run_program("systemd-run", "--unit=lab-manager", f"{LAB}/alertmanager", *options)
    wait_until("Alertmanager", lambda: fetch_json(f"http://{MANAGER}:9093/api/v2/status"))


def list_alertmanager_alerts() -> list[dict[str, Any]]:
    """Returns the alerts DimmHot that are critical, as Alertmanager has them."""
    filters = "filter=alertname%3DDimmHot&filter=severity%3Dcritical"
    return fetch_json(f"http://{MANAGER}:9093/api/v2/alerts?{filters}") or []
