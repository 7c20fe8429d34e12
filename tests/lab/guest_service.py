"""
The stages in the machine whose systemd runs the service: from an old version to nothing, with a reboot in between.

Runs as root, `python3 -m tests.lab.guest_service`, once after each boot. Each stage writes its results to
/run/lab/NAME.json, and the tests judge them on the host; nothing is judged in the guest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lab.guest_heat import heat_dimm
from tests.lab.guest_host import (
    AGENT,
    COMMAND,
    CONFIG,
    DAEMON,
    LAB,
    OPT,
    STATE,
    STRANGER,
    fetch_json,
    is_answering,
    list_failed,
    list_files,
    list_running,
    read_journal,
    read_pid,
    run_program,
    show_unit,
    wait_until,
)
from tests.lab.guest_restarts import restart_ten_times, trip_watchdog
from tests.lab.guest_upgrade import observe_boot, upgrade, upgrade_old_version

REBOOTED = Path("/var/lib/lab-rebooted")
UNITS = Path("/usr/local/lib/systemd/system")
Stage = Callable[[], dict[str, Any]]


def install() -> dict[str, Any]:
    """Installs from nothing, as a user does after `pip install`; then reads the state of the service."""
    shutil.copytree(LAB / "templates", "/usr/share/prometheus/alertmanager")
    before = {"files": list_files(), "passwd": Path("/etc/passwd").read_text()}
    (LAB / "before.json").write_text(json.dumps(before))
    wheels = {"PYTHONPATH": f"{LAB}/site", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{LAB}/wheels"}
    command = ("python3", "-m", "agent", "install")
    results: dict[str, Any] = {"dry_run": run_program(*command, "--dry-run", **wheels)}
    results["untouched"] = not OPT.exists() and not CONFIG.exists()
    results["as_nobody"] = run_program("setpriv", "--reuid=65534", *command, **wheels)
    results["install"] = run_program(*command, **wheels)
    results["again"] = run_program(COMMAND, "install")
    results["unit"] = show_unit(DAEMON, "ActiveState", "SubState", "NRestarts", "Result", "StatusText", "User")
    wait_until("an eye", list_running)
    time.sleep(5)  # a few ticks, so that the journal has their lines
    results["status"] = run_program("systemctl", "status", "--no-pager", "--full", DAEMON)
    results["units"] = run_program("systemctl", "list-units", "--all", "--no-legend", "--plain", "steadytok*")["out"]
    results["failed"] = list_failed()
    results["journal"] = read_journal("steadytok*", "json")
    results["check"] = run_program(COMMAND, "check", "--config", str(CONFIG))
    results["collectors"] = fetch_json(f"{AGENT}/api/v1/query?query=steadytok_collector_success")
    results["oom_score"] = Path(f"/proc/{read_pid()}/oom_score_adj").read_text().strip()
    return results


def probe_sandbox() -> dict[str, Any]:
    """Runs guest_probe.py in the daemon's sandbox: the same unit and drop-ins, with another program."""
    unit = (UNITS / DAEMON).read_text()
    start = f"ExecStart={OPT}/current/bin/python -I -B {STATE}/probe.py"
    unit = re.sub(r"^ExecStart=.*$", start, unit, flags=re.M).replace("Type=notify", "Type=oneshot")
    unit = re.sub(r"^(Restart|WatchdogSec|Wants)=.*\n", "", unit, flags=re.M)
    unit = re.sub(r"^TimeoutStartSec=.*$", "TimeoutStartSec=10min", unit, flags=re.M)  # all files, in emulation
    Path("/run/systemd/system/lab-probe.service").write_text(unit)
    dropins = Path("/run/systemd/system/lab-probe.service.d")
    dropins.mkdir()
    for dropin in (UNITS / f"{DAEMON}.d").iterdir():
        (dropins / dropin.name).write_text(dropin.read_text())
    (STATE / "probe.py").write_bytes(Path(__file__).with_name("guest_probe.py").read_bytes())
    run_program("systemctl", "daemon-reload")
    server = subprocess.Popen([sys.executable, "-m", "http.server", "--bind", STRANGER, "8000"])
    try:
        wait_until("the stranger", lambda: is_answering(STRANGER, 8000))
        ran = run_program("systemctl", "start", "lab-probe.service")
    finally:
        server.kill()
    report = STATE / "probe.json"
    results = {"ran": ran, "journal": read_journal("lab-probe.service")}
    results["attempts"] = json.loads(report.read_text()) if report.exists() else None
    for path in (report, STATE / "probe.py", Path("/run/systemd/system/lab-probe.service"), *dropins.iterdir()):
        path.unlink(missing_ok=True)
    dropins.rmdir()
    run_program("systemctl", "daemon-reload")
    return results


def uninstall() -> dict[str, Any]:
    """Uninstalls, first without and then with its state and configuration."""
    results: dict[str, Any] = {"uninstall": run_program(COMMAND, "uninstall")}
    results["kept"] = {str(path): path.exists() for path in (CONFIG, STATE, OPT, Path(COMMAND))}
    purge = ("python3", "-m", "agent", "uninstall", "--purge")
    results["purge"] = run_program(*purge, PYTHONPATH=f"{LAB}/site")
    results["again"] = run_program(*purge, PYTHONPATH=f"{LAB}/site")
    before = json.loads((LAB / "before.json").read_text())
    results["left"] = sorted(set(list_files()) - set(before["files"]))
    results["lost"] = sorted(set(before["files"]) - set(list_files()))
    results["run"] = [str(path) for path in Path("/run").glob("steadytok*")]
    results["passwd"] = [before["passwd"], Path("/etc/passwd").read_text()]
    results["units"] = run_program("systemctl", "list-unit-files", "--no-legend", "steadytok*")["out"]
    return results


BEFORE_REBOOT: dict[str, Stage] = {
    "old_upgrade": upgrade_old_version,
    "install": install,
    "heat": heat_dimm,
    "sandbox": probe_sandbox,
    "watchdog": trip_watchdog,
    "restarts": restart_ten_times,
    "upgrade": upgrade,
}
AFTER_REBOOT: dict[str, Stage] = {"boot": observe_boot, "uninstall": uninstall}


def perform(name: str, stage: Stage) -> None:
    """Runs a stage. If it fails, its traceback replaces its results, and the next stages run."""
    start = time.monotonic()
    try:
        results = stage()
    except Exception:  # the tests of this stage show it
        results = {"error": traceback.format_exc()}
    results["seconds"] = round(time.monotonic() - start, 1)
    (LAB / f"{name}.json").write_text(json.dumps(results))
    sys.stdout.write(f"{name}: {results['seconds']} s {results.get('error', '')}\n")
    sys.stdout.flush()


def perform_all(stages: dict[str, Stage], names: list[str]) -> None:
    """Runs these stages in order; with names, only those."""
    for name, stage in stages.items():
        if not names or name in names:
            perform(name, stage)


def main(names: list[str]) -> None:
    """Runs the stages before the reboot, reboots, and runs the others; or runs the named stages, then powers off."""
    os.chdir("/")
    if not names and not REBOOTED.exists():
        perform_all(BEFORE_REBOOT, [])
        REBOOTED.touch()
        run_program("systemctl", "reboot")
        return
    REBOOTED.unlink(missing_ok=True)
    perform_all({**BEFORE_REBOOT, **AFTER_REBOOT} if names else AFTER_REBOOT, names)
    (LAB / "whole.log").write_text(run_program("journalctl", "--no-pager")["out"])
    (LAB / "done").touch()
    run_program("systemctl", "poweroff")


if __name__ == "__main__":
    main(sys.argv[1:])
