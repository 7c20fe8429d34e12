"""
What is done in the machine whose systemd runs the service: from nothing to nothing, with a reboot in between.

Run by that machine's own python3, with the standard library alone, once after each boot; its results are in
/run/lab/NAME.json, and tests/lab/test_service.py judges it on the host. Here nothing is judged.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAB = Path("/run/lab")
COMMAND = "/usr/local/bin/steadytok"
STATE = Path("/var/lib/steadytok")
CONFIG = Path("/etc/steadytok/steadytok.yml")
REBOOTED = Path("/var/lib/lab-rebooted")
MANAGER = "192.0.2.10"  # an address of this host alone, which the configuration names
STRANGER = "192.0.2.66"  # another one, which nobody names
AGENT = "http://127.0.0.1:9817"
DIMM, CAPABILITY, CRITICAL, TEMPERATURE, MAKER, DEVICE = "0x18", 0x00, 0x04, 0x05, 0x06, 0x07
EEPROM, PAGES = "0x50", "0x36,0x37"  # its SPD; the stub has one page, so that the second one's bytes stand there too
PLATE = {0x02: 0x0C, **dict(zip(range(325 - 256, 329 - 256), bytes.fromhex("3A2B1C0E"), strict=True))}  # machine.SLOT's
EDITED = f"""# edited by hand
state: {{dir: /var/lib/steadytok}}
external_labels: {{instance: guest}}
alerting: {{resend_delay: 5s, alertmanagers: [{{static_configs: [{{targets: ["{MANAGER}:9093"]}}]}}]}}
collectors: {{process: {{interval: 5s, engines: [{{name: lab, command: "lab-engine"}},
  {{name: odd, url: "http://127.0.0.1:18321"}}]}}}}
remediation: {{mode: enforce}}
remedies:
  - {{name: drop, match: ['alertname="DimmHot"'], action: drop_caches, rollback: never, plausible: [-1000, 1000],
      cooldown: 1m, max_attempts: 10, max_per_hour: 10,
      verify: {{expr: "vector(1)", within: 1m}}}}
"""
# One remedy acts at a time, until it is verified: of the one that ships that takes five minutes.
PACED = (
    EDITED.replace("{mode: enforce}", "{mode: enforce, disable: [cool-memory]}")
    + """\
  - {name: hold, match: ['alertname="DimmHot"'], action: pace, target: {engine: r1}, plausible: [-1000, 1000],
      cooldown: 1m, max_attempts: 10, max_per_hour: 10,
      parameters: {duty: 0.5}, verify: {expr: "vector(1)", within: 1m}}
engines: [{name: r1, kind: reference, url: "http://127.0.0.1:8001"}]
"""
)
UNIT = "steadytok-engine@r1.service"
ENGINE = "import time; held = bytearray(64 << 20); time.sleep(100000)"  # another user's, with 64 MiB
LISTENER = "import socket, time; door = socket.create_server(('127.0.0.1', 18321)); time.sleep(100000)"
ALERTMANAGER = "route: {receiver: nobody, group_wait: 1s, group_interval: 1s}\nreceivers: [{name: nobody}]\n"
PATIENCE = 180.0  # seconds, for anything that is waited for
_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH, _WALL = 0x4206, 0x4207, 17, 0x40000000  # ptrace(2), waitpid(2)


def run(*command: str, **environment: str) -> dict[str, Any]:
    """A program's status and words."""
    began = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, **environment}, timeout=600
    )
    took = round(time.monotonic() - began, 2)
    with (LAB / "commands.log").open("a") as log:  # for whoever looks why a stage broke off
        log.write(f"$ {' '.join(command)}  # {done.returncode}, {took} s\n{done.stdout[-4000:]}{done.stderr[-4000:]}\n")
    return {"status": done.returncode, "out": done.stdout, "err": done.stderr, "took": took}


def until(description: str, condition: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """What the condition gives once it gives something."""
    end = time.monotonic() + patience
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{description} did not come within {patience:g} s")
        time.sleep(0.5)
    return result


def show(unit: str, *properties: str) -> dict[str, str]:
    """Properties of a unit."""
    output = run("systemctl", "show", unit, f"--property={','.join(properties)}")["out"]
    return dict(line.split("=", 1) for line in output.splitlines() if "=" in line)


def read_pid() -> int:
    """The daemon's process."""
    return int(show("steadytok.service", "MainPID")["MainPID"])


def is_active() -> bool:
    """Whether it is up and ready."""
    return show("steadytok.service", "ActiveState", "SubState") == {"ActiveState": "active", "SubState": "running"}


def ask(url: str) -> Any:
    """What a URL answers, as JSON; None where nobody does."""
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())
    return None


def list_firing() -> list[dict[str, Any]]:
    """DimmHot, critical and firing, as the agent tells it."""
    response = ask(f"{AGENT}/api/v1/alerts") or {"data": {"alerts": []}}
    expected_labels = {"alertname": "DimmHot", "severity": "critical"}
    return [
        a
        for a in response["data"]["alerts"]
        if expected_labels.items() <= a["labels"].items() and a["state"] == "firing"
    ]


def list_manager_alerts() -> list[dict[str, Any]]:
    """DimmHot, critical, as Alertmanager has it."""
    return ask(f"http://{MANAGER}:9093/api/v2/alerts?filter=alertname%3DDimmHot&filter=severity%3Dcritical") or []


def list_files() -> list[str]:
    """Every file and folder of the disk, but for what an idle system itself moves about."""
    moving = ("/var/log/journal", "/var/tmp", "/tmp", "/var/lib/systemd", "/var/cache", "/root", "/etc/.pwd.lock")
    paths = []
    for folder, folders, names in os.walk("/"):
        device = os.stat(folder).st_dev
        folders[:] = [
            name
            for name in folders
            if not f"{folder.rstrip('/')}/{name}".startswith(moving)
            and (os.path.islink(f"{folder}/{name}") or os.stat(f"{folder}/{name}").st_dev == device)
        ]
        paths += [f"{folder.rstrip('/')}/{name}" for name in (*folders, *names)]
    # Compiled by whoever imported first; and what shadow's tools keep of the files before.
    return sorted(path for path in paths if "__pycache__" not in path and not re.fullmatch(r"/etc/\w+-", path))


def install() -> dict[str, Any]:
    """From nothing: what a user types after `pip install`, then what is there."""
    shutil.copytree(LAB / "templates", "/usr/share/prometheus/alertmanager")
    before = {"files": list_files(), "passwd": Path("/etc/passwd").read_text()}
    (LAB / "before.json").write_text(json.dumps(before))
    wheels = {"PYTHONPATH": f"{LAB}/site", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{LAB}/wheels"}
    results: dict[str, Any] = {"rehearsed": run("python3", "-m", "agent", "install", "--dry-run", **wheels)}
    results["untouched"] = not Path("/opt/steadytok").exists() and not CONFIG.exists()
    results["as_nobody"] = run("setpriv", "--reuid=65534", "python3", "-m", "agent", "install", **wheels)
    results["install"] = run("python3", "-m", "agent", "install", **wheels)
    results["again"] = run(COMMAND, "install")
    results["unit"] = show("steadytok.service", "ActiveState", "SubState", "NRestarts", "Result", "StatusText", "User")
    until("an eye", lambda: list_eyes())
    time.sleep(5)  # a few ticks, so that the journal has what they say
    results["status"] = run("systemctl", "status", "--no-pager", "--full", "steadytok.service")
    results["units"] = run("systemctl", "list-units", "--all", "--no-legend", "--plain", "steadytok*")["out"]
    results["failed"] = run("systemctl", "--failed", "--no-legend", "--plain")["out"]
    results["journal"] = run("journalctl", "--no-pager", "--output=json", "--unit=steadytok*")["out"]
    results["check"] = run(COMMAND, "check", "--config", str(CONFIG))
    results["collectors"] = ask(f"{AGENT}/api/v1/query?query=steadytok_collector_success")
    results["score"] = Path(f"/proc/{read_pid()}/oom_score_adj").read_text().strip()
    return results


def list_eyes(pattern: str = "steadytok-eye@*.service") -> list[str]:
    """The eyes that run, or other units."""
    units = run("systemctl", "list-units", "--state=running", "--no-legend", "--plain", pattern)
    return [line.split()[0] for line in units["out"].splitlines()]


def set_sensor(celsius: float) -> None:
    """What the module on the stub of a bus measures: sixteenths of a degree, bytes swapped."""
    value = round(celsius * 16) & 0x1FFF
    register(TEMPERATURE, (value & 0xFF) << 8 | value >> 8)


def register(number: int, value: int, address: str = DIMM, size: str = "w") -> None:
    """Writes a word of the module's, or a byte of its SPD."""
    done = run("i2cset", "-y", "-f", str(bus()), address, f"0x{number:02x}", f"0x{value:02x}", size)
    assert done["status"] == 0, done


def bus() -> int:
    """The number of the stub's bus."""
    for path in Path("/sys/bus/i2c/devices").glob("i2c-*/name"):
        if path.read_text().startswith("SMBus stub"):
            return int(path.parent.name.removeprefix("i2c-"))
    raise RuntimeError("no stub of a bus in /sys/bus/i2c/devices")


def add_module() -> None:
    """A memory module with a sensor, at 45 °C, with its critical limit at 95 °C, and its serial number in its SPD."""
    for name in ("i2c-dev", "ee1004"):
        run("modprobe", name)
    run("modprobe", "i2c-stub", f"chip_addr={DIMM},{EEPROM},{PAGES}")
    for number, value in ((CAPABILITY, 0x7F00), (MAKER, 0xB311), (DEVICE, 0x0029), (CRITICAL, 0xF005)):
        register(number, value)
    set_sensor(45.0)
    for number, value in PLATE.items():
        register(number, value, EEPROM, "b")
    appear("ee1004", EEPROM)
    run("systemd-tmpfiles", "--create", "steadytok.conf")  # as at a boot at which the driver is there already
    run("modprobe", "jc42")
    appear("jc42", DIMM)


def appear(driver: str, address: str) -> None:
    """A device on the bus."""
    with contextlib.suppress(OSError):  # the driver found it by itself
        Path(f"/sys/bus/i2c/devices/i2c-{bus()}/new_device").write_text(f"{driver} {address}")


def bmc() -> dict[str, Any]:
    """The drivers of the BMC, where udev has not loaded them at the boot: who has the device then."""
    for name in ("ipmi_si", "ipmi_devintf"):
        run("modprobe", name)
    device = until("/dev/ipmi0", lambda: Path("/dev/ipmi0").exists() and Path("/dev/ipmi0"))
    until("udev's rule", lambda: device.stat().st_gid != 0, 10.0)
    return {"group": device.group(), "mode": oct(device.stat().st_mode & 0o777)}


def start_alertmanager() -> None:
    """A real Alertmanager on an address that the configuration names, and an address that it does not."""
    for address in (MANAGER, STRANGER):
        run("ip", "address", "add", f"{address}/32", "dev", "lo")
    Path("/run/alertmanager").mkdir(exist_ok=True)
    Path("/run/alertmanager/config.yml").write_text(ALERTMANAGER)
    listen = [f"--web.listen-address={MANAGER}:9093", "--cluster.listen-address=", "--storage.path=/run/alertmanager"]
    run(
        "systemd-run",
        "--unit=lab-manager",
        f"{LAB}/alertmanager",
        "--config.file=/run/alertmanager/config.yml",
        *listen,
    )
    until("Alertmanager", lambda: ask(f"http://{MANAGER}:9093/api/v2/status"))


def count_drops() -> int:
    """How often the page cache was dropped, by the kernel's own count."""
    return int(re.search(r"^drop_pagecache (\d+)$", Path("/proc/vmstat").read_text(), re.M)[1])


def query_series(name: str) -> list[Any]:
    """The series of a metric as the agent has them now, with their values."""
    answer = ask(f"{AGENT}/api/v1/query?query={name}") or {"data": {"result": []}}
    return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]


def read_placement() -> list[Any]:
    """Shares of the engine's pages by node, of a sample that only the eye can take."""
    return query_series("steadytok_process_node_share_ratio%7Bengine=%22lab%22%7D")


def listener() -> None:
    """An engine of another user's on a port that only its sockets tell, with a wish that only its environment tells."""
    Path("/run/lab-bin").mkdir()
    Path("/run/lab-bin/llama-server").symlink_to("/usr/bin/python3")
    wish = ("--setenv=LLAMA_ARG_NUMA=distribute", "--setenv=SECRET=swordfish")
    run("systemd-run", "--unit=lab-odd", "--uid=nobody", *wish, "/run/lab-bin/llama-server", "-c", LISTENER)


def serve() -> None:
    """The reference engine as a service, with nothing said about a token."""
    CONFIG.with_name("engine-r1.env").write_text("OPTIONS=--port 8001 --size 1MiB --context 64 --slots 1\n")
    run("systemctl", "start", UNIT)


def read_pace() -> float | None:
    """The duty that the engine is held to, by its own word; None at full speed, and where it does not tell."""
    with contextlib.suppress(OSError), urllib.request.urlopen("http://127.0.0.1:8001/metrics", timeout=10) as answer:
        duty = float(re.search(r"^steadytok_reference_duty (\S+)$", answer.read().decode(), re.M)[1])
        return duty if duty < 1 else None
    return None


def hot() -> dict[str, Any]:
    """Heat in a module: an alert at a real Alertmanager, a remedy that the kernel counts, one that an engine tells."""
    add_module()
    start_alertmanager()
    serve()
    CONFIG.write_text(PACED)
    run("systemd-run", "--unit=lab-engine", "--uid=nobody", "python3", "-c", ENGINE, "lab-engine")
    listener()
    results: dict[str, Any] = {"bmc": bmc(), "install": run(COMMAND, "install")}
    results["network"] = Path("/usr/local/lib/systemd/system/steadytok.service.d/20-network.conf").read_text()
    cache = Path("/root/cache")
    with cache.open("wb+") as file:
        file.truncate(400 << 20)  # a hole: to read it costs no disk, and its pages are in the cache like any others
        while file.read(1 << 20):
            pass
    results["before"] = count_drops()
    set_sensor(99.0)
    results["firing"] = until("DimmHot", list_firing)
    results["told"] = until("DimmHot at Alertmanager", list_manager_alerts)
    try:
        results["after"] = until(
            "a drop of the page cache", lambda: count_drops() > results["before"] and count_drops(), 300.0
        )
        results["placed"] = until("where the engine's pages are", read_placement)
        results["asked"] = until(
            "what an engine was asked", lambda: query_series("steadytok_process_asked_info%7Bengine=%22odd%22%7D")
        )
        results["ipmi"] = until("the BMC's sensors", lambda: query_series("steadytok_ipmi_temperature_celsius"))
        results["fan"] = query_series("steadytok_ipmi_fan_rpm")
        results["dimms"] = [metric for metric, _ in query_series("steadytok_dimm_temperature_celsius")]
        results["slots"] = [metric for metric, _ in query_series("steadytok_dimm_info")]
        results["paced"] = until("a pace of the service", read_pace)
        results["served"] = show(UNIT, "ActiveState", "NRestarts", "User")
        status = Path(f"/proc/{show(UNIT, 'MainPID')['MainPID']}/status").read_text()
        results["rights"] = re.findall(r"^(Cap\w+):\s+(\w+)$", status, re.M)
    finally:
        run(COMMAND, "remedies", "list", "--config", str(CONFIG))
        results["audit"] = run(COMMAND, "remedies", "audit", "--config", str(CONFIG))
        results["hand"] = run("journalctl", "--no-pager", "--output=cat", "--unit=steadytok-hand.service")["out"]
        results["served_journal"] = run("journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}")["out"]
        cache.unlink()
        CONFIG.write_text(EDITED)
        run("systemctl", "reload", "steadytok.service")
        run("systemctl", "stop", UNIT)
    return results


def walls() -> dict[str, Any]:
    """What a process in the daemon's place can do: the same unit and drop-ins, with another program in it."""
    units = Path("/usr/local/lib/systemd/system")
    unit = (units / "steadytok.service").read_text()
    python = "/opt/steadytok/current/bin/python"
    probe = f"ExecStart={python} -I -B /var/lib/steadytok/probe.py"
    unit = re.sub(r"^ExecStart=.*$", probe, unit, flags=re.M).replace("Type=notify", "Type=oneshot")
    unit = re.sub(r"^(Restart|WatchdogSec|Wants)=.*\n", "", unit, flags=re.M)
    Path("/run/systemd/system/lab-probe.service").write_text(unit)
    dropins = Path("/run/systemd/system/lab-probe.service.d")
    dropins.mkdir()
    for dropin in (units / "steadytok.service.d").iterdir():
        (dropins / dropin.name).write_text(dropin.read_text())
    (STATE / "probe.py").write_bytes((LAB / "guest_probe.py").read_bytes())
    run("systemctl", "daemon-reload")
    listener = subprocess.Popen([sys.executable, "-m", "http.server", "--bind", STRANGER, "8000"])
    try:
        until("the stranger", lambda: _answers(STRANGER, 8000))
        ran = run("systemctl", "start", "lab-probe.service")
    finally:
        listener.kill()
    report = STATE / "probe.json"
    results = {
        "ran": ran,
        "journal": run("journalctl", "--no-pager", "--output=cat", "--unit=lab-probe.service")["out"],
    }
    results["tried"] = json.loads(report.read_text()) if report.exists() else None
    for path in (report, STATE / "probe.py", Path("/run/systemd/system/lab-probe.service"), *dropins.iterdir()):
        path.unlink(missing_ok=True)
    dropins.rmdir()
    run("systemctl", "daemon-reload")
    return results


def _answers(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{host}:{port}/", timeout=5):
        return True
    return False


def read_state() -> dict[str, Any]:
    """The alert as it stands, and which life of the daemon tells it."""
    alerts = until("DimmHot", list_firing)
    return {
        "active_at": alerts[0]["activeAt"],
        "pid": read_pid(),
        "restarts": show("steadytok.service", "NRestarts")["NRestarts"],
    }


def freeze(frozen: int) -> int:
    """
    Stops the main thread of a process and no other, in a child of ours; it is let go when SIGABRT is there for it.

    A thread that a tracer holds takes no signal, and a traced process is gone only once its tracer has waited for it.
    """
    child = os.fork()
    if child:
        return child
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace(_PTRACE_SEIZE, frozen, None, None)
    libc.ptrace(_PTRACE_INTERRUPT, frozen, None, None)
    os.waitpid(frozen, _WALL)
    with contextlib.suppress(OSError):  # another thread took the signal, and the process has ended
        while not _is_aborting(frozen):
            time.sleep(0.2)
        libc.ptrace(_PTRACE_DETACH, frozen, None, None)
        os.waitpid(frozen, _WALL)
    os._exit(0)


def _is_aborting(process: int) -> bool:
    text = Path(f"/proc/{process}/status").read_text()
    pending = re.findall(r"^(?:ShdPnd|SigPnd):\s+(\w+)$", text, re.M)
    return any(int(mask, 16) >> 5 & 1 for mask in pending) or "zombie" in text  # bit 5 is signal 6


def watchdog() -> dict[str, Any]:
    """The thread that ticks stands still while all others go on; then a plain kill."""
    results: dict[str, Any] = {"before": read_state()}
    frozen = read_pid()
    freezer = freeze(frozen)
    began = time.monotonic()
    until("a new life", lambda: read_pid() not in (0, frozen) and is_active())
    os.waitpid(freezer, 0)
    results["frozen_for"] = round(time.monotonic() - began, 1)
    results["after"] = read_state()
    os.kill(read_pid(), 9)
    until("a third life", lambda: read_pid() not in (0, results["after"]["pid"]) and is_active())
    results["killed"] = read_state()
    results["told"] = list_manager_alerts()
    results["journal"] = run("journalctl", "--no-pager", "--output=cat", "--unit=steadytok.service")["out"]
    return results


def list_remains() -> dict[str, Any]:
    """What the service has on this host while it is down."""
    processes = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            text = status.read_text()
            if re.search(rf"^Uid:\s+({'|'.join(map(str, list_uids()))})\s", text, re.M):
                processes.append(text.splitlines()[0])
    units = run("systemctl", "list-units", "--all", "--no-legend", "--plain", "steadytok*")["out"]
    return {
        "processes": processes,
        "units": sorted(" ".join(line.split()[:4]) for line in units.splitlines()),
        "run": sorted(
            str(path) for folder in ("steadytok", "steadytok-hand") for path in Path("/run", folder).rglob("*")
        ),
        # Not the flight recorder's tapes, which it throws away by their age.
        "state": sorted(str(path) for path in STATE.rglob("*") if path.parent.name != "recorder"),
        "temporary": sorted(str(path) for path in (*Path("/tmp").iterdir(), *Path("/var/tmp").iterdir())),
        "mounts": sum("steadytok" in line for line in Path("/proc/mounts").read_text().splitlines()),
    }


def list_uids() -> list[int]:
    """The numbers of the service's users."""
    lines = (line.split(":") for line in Path("/etc/passwd").read_text().splitlines())
    return [int(line[2]) for line in lines if line[0].startswith("steadytok")]


def restarts() -> dict[str, Any]:
    """Stopped and started ten times; what is there after the first and after the last."""
    results: dict[str, Any] = {"stops": []}
    for turn in range(10):
        stopped = run("systemctl", "stop", "steadytok.service")
        result = show("steadytok.service", "Result", "ExecMainStatus", "ExecMainCode")
        results["stops"].append({"took": stopped["took"], **result})
        if turn in (0, 9):
            until("the eye's end", lambda: not list_eyes() and not list_eyes("steadytok-look@*.service"))
            results["first" if turn == 0 else "last"] = list_remains()
        run("systemctl", "start", "steadytok.service")
    results["state"] = read_state()
    return results


def upgrade() -> dict[str, Any]:
    """To another version, with a configuration that was edited; then to one that cannot be had."""
    before = read_state()
    results: dict[str, Any] = {
        "before": before,
        "config": CONFIG.read_text(),
        "state": sorted(p.name for p in STATE.iterdir()),
    }
    wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": f"{LAB}/newer {LAB}/wheels"}
    results["upgrade"] = run(COMMAND, "upgrade", **wheels)
    results["version"] = run(COMMAND, "--version")["out"].strip()
    results["config_after"] = CONFIG.read_text()
    results["after"] = read_state()
    results["state_after"] = sorted(p.name for p in STATE.iterdir())
    results["impossible"] = run(COMMAND, "upgrade", "--from", "steadytok==99", **wheels)
    results["venvs"] = sorted(path.name for path in Path("/opt/steadytok").iterdir())
    results["still"] = is_active()
    results["build"] = ask(f"{AGENT}/api/v1/query?query=steadytok_build_info")
    return results


def after_reboot() -> dict[str, Any]:
    """After a reboot: it is up by itself, and knows what it knew."""
    until("the service after the reboot", is_active)
    results: dict[str, Any] = {
        "unit": show("steadytok.service", "ActiveState", "NRestarts"),
        "eyes": bool(until("an eye", list_eyes)),
    }
    add_module()
    set_sensor(99.0)
    results["state"] = read_state()
    results["failed"] = run("systemctl", "--failed", "--no-legend", "--plain")["out"]
    results["before"] = json.loads((LAB / "upgrade.json").read_text()).get("after")
    return results


def purge() -> dict[str, Any]:
    """Taken away, once with what it knew left, once wholly."""
    results: dict[str, Any] = {"uninstall": run(COMMAND, "uninstall")}
    results["kept"] = {str(path): path.exists() for path in (CONFIG, STATE, Path("/opt/steadytok"), Path(COMMAND))}
    fetched = {"PYTHONPATH": f"{LAB}/site"}
    results["purge"] = run("python3", "-m", "agent", "uninstall", "--purge", **fetched)
    results["again"] = run("python3", "-m", "agent", "uninstall", "--purge", **fetched)
    before = json.loads((LAB / "before.json").read_text())
    results["left"] = sorted(set(list_files()) - set(before["files"]))
    results["lost"] = sorted(set(before["files"]) - set(list_files()))
    results["run"] = [str(path) for path in Path("/run").glob("steadytok*")]
    results["passwd"] = [before["passwd"], Path("/etc/passwd").read_text()]
    results["units"] = run("systemctl", "list-unit-files", "--no-legend", "steadytok*")["out"]
    return results


FIRST: tuple[Callable[[], dict[str, Any]], ...] = (install, hot, walls, watchdog, restarts, upgrade)
SECOND: tuple[Callable[[], dict[str, Any]], ...] = (after_reboot, purge)


def perform(stage: Callable[[], dict[str, Any]]) -> None:
    """Runs a stage; one that fails leaves its traceback in its place, and the next ones are tried."""
    began = time.monotonic()
    try:
        results = stage()
    except Exception:  # whatever it was, the tests of this stage will show it
        results = {"error": traceback.format_exc()}
    results["lasted"] = round(time.monotonic() - began, 1)
    (LAB / f"{stage.__name__}.json").write_text(json.dumps(results))
    sys.stdout.write(f"{stage.__name__}: {results['lasted']} s {results.get('error', '')}\n")


def main(names: list[str]) -> None:
    """The first half, a reboot, and the second half; or the stages that are named, for trying one by hand."""
    if names:
        for stage in (*FIRST, *SECOND):
            if stage.__name__ in names:
                perform(stage)
        return
    if REBOOTED.exists():
        REBOOTED.unlink()
        for stage in SECOND:
            perform(stage)
        (LAB / "whole.log").write_text(run("journalctl", "--no-pager")["out"])
        (LAB / "done").touch()
        run("systemctl", "poweroff")
        return
    for stage in FIRST:
        perform(stage)
    REBOOTED.touch()
    run("systemctl", "reboot")


if __name__ == "__main__":
    main(sys.argv[1:])
