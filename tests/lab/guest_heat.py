"""Heats a memory module: an alert reaches a real Alertmanager, one remedy drops the page cache, one paces an engine."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from pathlib import Path
from typing import Any

from tests.lab.guest_board import add_dimm, load_bmc_drivers, set_temperature
from tests.lab.guest_host import (
    COMMAND,
    CONFIG,
    DAEMON,
    MANAGER,
    list_alertmanager_alerts,
    list_hot_dimms,
    query_series,
    read_journal,
    read_pid,
    run_program,
    show_unit,
    start_alertmanager,
    wait_until,
)

EDITED_CONFIG = f"""# edited by hand
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
# One remedy acts at a time, until it is verified; the built-in cool-memory would take five minutes.
PACED_CONFIG = (
    EDITED_CONFIG.replace("{mode: enforce}", "{mode: enforce, disable: [cool-memory]}")
    + """\
  - {name: hold, match: ['alertname="DimmHot"'], action: pace, target: {engine: r1}, plausible: [-1000, 1000],
      cooldown: 1m, max_attempts: 10, max_per_hour: 10,
      parameters: {duty: 0.5}, verify: {expr: "vector(1)", within: 1m}}
engines: [{name: r1, kind: reference, url: "http://127.0.0.1:8001"}]
"""
)
ENGINE_UNIT = "steadytok-engine@r1.service"
ENGINE = "import time; memory = bytearray(64 << 20); time.sleep(100000)"  # another user's, with 64 MiB
LISTENER = "import socket, time; server = socket.create_server(('127.0.0.1', 18321)); time.sleep(100000)"


def heat_dimm() -> dict[str, Any]:
    """Heats the module to 99 °C, and waits until the alert and both remedies have had their effects."""
    add_dimm()
    start_alertmanager()
    _start_reference_engine()
    CONFIG.write_text(PACED_CONFIG)
    run_program("systemd-run", "--unit=lab-engine", "--uid=nobody", "python3", "-c", ENGINE, "lab-engine")
    _start_listener()
    results: dict[str, Any] = {"bmc": load_bmc_drivers(), "install": run_program(COMMAND, "install")}
    results["network"] = Path(f"/usr/local/lib/systemd/system/{DAEMON}.d/20-network.conf").read_text()
    cache = Path("/root/cache")
    _fill_page_cache(cache)
    results["drops_before"] = _count_drops()
    set_temperature(99.0)
    wait_until("DimmHot", list_hot_dimms)
    results["alertmanager_alerts"] = wait_until("DimmHot at Alertmanager", list_alertmanager_alerts)
    try:
        _observe_effects(results)
    finally:
        run_program(COMMAND, "remedies", "list", "--config", str(CONFIG))
        results["audit"] = run_program(COMMAND, "remedies", "audit", "--config", str(CONFIG))
        results["hand_journal"] = read_journal("steadytok-hand.service")
        results["engine_journal"] = read_journal(ENGINE_UNIT)
        cache.unlink()
        CONFIG.write_text(EDITED_CONFIG)
        run_program("systemctl", "reload", DAEMON)
        run_program("systemctl", "stop", ENGINE_UNIT)
    return results


def _observe_effects(results: dict[str, Any]) -> None:
    before = results["drops_before"]
    results["drops_after"] = wait_until(
        "a drop of the page cache", lambda: _count_drops() > before and _count_drops(), 300.0
    )
    # Only the eye can take this sample.
    results["node_shares"] = wait_until(
        "the placement of the engine's pages",
        lambda: query_series("steadytok_process_node_share_ratio%7Bengine=%22lab%22%7D"),
    )
    results["placement_requests"] = wait_until(
        "the placement that an engine's environment requests",
        lambda: query_series("steadytok_process_asked_info%7Bengine=%22odd%22%7D"),
    )
    results["ipmi"] = wait_until("the BMC's sensors", lambda: query_series("steadytok_ipmi_temperature_celsius"))
    results["fan"] = query_series("steadytok_ipmi_fan_rpm")
    results["dimms"] = [metric for metric, _ in query_series("steadytok_dimm_temperature_celsius")]
    results["slots"] = [metric for metric, _ in query_series("steadytok_dimm_info")]
    results["duty"] = wait_until("a paced engine", _read_duty)
    results["engine_unit"] = show_unit(ENGINE_UNIT, "ActiveState", "NRestarts", "User")
    status = Path(f"/proc/{read_pid(ENGINE_UNIT)}/status").read_text()
    results["engine_capabilities"] = re.findall(r"^(Cap\w+):\s+(\w+)$", status, re.M)


def _start_reference_engine() -> None:
    """Starts the reference engine as a service, without a word about a token."""
    CONFIG.with_name("engine-r1.env").write_text("OPTIONS=--port 8001 --size 1MiB --context 64 --slots 1\n")
    run_program("systemctl", "start", ENGINE_UNIT)


def _start_listener() -> None:
    """Starts another user's engine: only its sockets reveal its port, only its environment requests a placement."""
    Path("/run/lab-bin").mkdir()
    Path("/run/lab-bin/llama-server").symlink_to("/usr/bin/python3")
    environment = ("--setenv=LLAMA_ARG_NUMA=distribute", "--setenv=SECRET=swordfish")
    command = ("/run/lab-bin/llama-server", "-c", LISTENER)
    run_program("systemd-run", "--unit=lab-odd", "--uid=nobody", *environment, *command)


def _fill_page_cache(path: Path) -> None:
    """Reads 400 MiB of a hole: it takes no disk, and its pages are in the cache like any others."""
    with path.open("wb+") as file:
        file.truncate(400 << 20)
        while file.read(1 << 20):
            pass


def _count_drops() -> int:
    """Returns the kernel's own count of page cache drops."""
    return int(re.search(r"^drop_pagecache (\d+)$", Path("/proc/vmstat").read_text(), re.M)[1])


def _read_duty() -> float | None:
    """Returns the duty that the engine reports; None at full speed, and without an answer."""
    with contextlib.suppress(OSError), urllib.request.urlopen("http://127.0.0.1:8001/metrics", timeout=10) as answer:
        duty = float(re.search(r"^steadytok_reference_duty (\S+)$", answer.read().decode(), re.M)[1])
        return duty if duty < 1 else None
    return None
