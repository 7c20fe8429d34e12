"""
Runs the real agent during heat, CPU hotplug, four kinds of out-of-memory kill, and counters that stop.

/metrics is scraped once a second, and each change is marked with its time. A receiver with the part of Alertmanager's
API that the agent needs stores the alerts.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.lab import observe
from tests.lab.guest_sensors import DIMMS, TEMPERATURE, bus, set_celsius

HOME = Path("/run/lab")
PATIENCE = 700.0  # seconds for the whole stage; later conditions are marked as missing
SLOW = 6.0  # factor for an emulated machine on a busy host; only a missing condition takes the whole time
URL = "http://127.0.0.1:9817"
CGROUPS = Path("/sys/fs/cgroup")
# A label's value may have spaces; the sample's value follows the last one.
_KEPT = "topology_node|node_meminfo_mem_total|stat_cpu|cpufreq|dimm|kmsg|numastat|lab|collector_(?:success|age)"
KEPT = re.compile(rf"^(steadytok_(?:{_KEPT}).*) (\S+)$", re.MULTILINE)
# topology has a long interval, so that only an event can trigger it while a test waits.
CONFIG = """
external_labels: {instance: guest}
engine: {enabled: false}
collectors: {topology: {interval: 2m}}
rules: {files: ["/run/lab/rules.yml"]}
alerting: {resend_delay: 5s, alertmanagers: [{static_configs: [{targets: ["127.0.0.1:9093"]}]}]}
web: {listen: "127.0.0.1:9817"}
state: {dir: /run/lab/state}
"""
RULES = """
groups:
  - name: lab
    rules:
      - {alert: LabHot, expr: steadytok_dimm_headroom_celsius < 5, for: 8s}
      - {record: steadytok_lab_alerts, expr: "count by (alertname, alertstate, severity, dimm) (ALERTS)"}
"""
# A name with the separators of the kernel's log line, since a process may have any name.
VICTIM = "a,b: (c)=d"
DIE = """
import mmap, sys, time
victim, cgroup, size = sys.argv[1:]
open("/proc/self/comm", "w").write(victim)
open("/proc/self/oom_score_adj", "w").write("1000")
if cgroup:
    open(cgroup + "/cgroup.procs", "w").write("0")
held = mmap.mmap(-1, int(size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000)
print("holds it", flush=True)
time.sleep(60)
"""
MORE_THAN_A_NODE = str(900 << 20)


class Watch:
    """Stores marks, scrapes and received alerts, each with its Unix time."""

    def __init__(self, series_pattern: re.Pattern[str] = KEPT, receiver: int = 9093) -> None:
        """Scrapes the series that match `series_pattern`, and receives alerts on a port of this machine."""
        self.began = time.monotonic()
        self._series_pattern = series_pattern
        self.marks: list[tuple[float, str]] = []
        self.scrapes: list[tuple[float, dict[str, float]]] = []
        self.posts: list[tuple[float, Any]] = []
        self.deadline = self.began + PATIENCE
        self._stop = threading.Event()
        self._scraper = threading.Thread(target=self._scrape, daemon=True)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", receiver), self._receiver())

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._scraper.start()

    def stop(self) -> None:
        self._stop.set()
        self._scraper.join(30)

    def mark(self, name: str) -> None:
        self.marks.append((time.time(), name))

    def newest(self, name: str) -> float | None:
        """Returns the value of a series in the newest scrape; None if it is absent."""
        return self.scrapes[-1][1].get(name) if self.scrapes else None

    def until(self, condition: Callable[[], bool], seconds: float, mark_name: str) -> bool:
        """Waits for a condition, and marks the time at which it became true, or that it did not."""
        deadline = min(time.monotonic() + SLOW * seconds, self.deadline)
        while not (met := condition()) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.mark(mark_name if met else f"NOT {mark_name}")
        return met

    def _scrape(self) -> None:
        while not self._stop.wait(1.0):
            try:
                with urllib.request.urlopen(f"{URL}/metrics", timeout=10) as answer:
                    body = answer.read().decode()
            except OSError:
                continue  # the agent starts or ends
            self.scrapes.append((time.time(), {key: float(value) for key, value in self._series_pattern.findall(body)}))

    def _receiver(watch: Watch) -> type[http.server.BaseHTTPRequestHandler]:  # noqa: N805  # `self` is the request's
        class Receiver(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                watch.posts.append((time.time(), json.loads(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Logs nothing."""

        return Receiver


def run() -> dict[str, Any]:
    """Runs the agent once, from its start to SIGTERM."""
    HOME.mkdir()
    (HOME / "steadytok.yml").write_text(CONFIG)
    (HOME / "rules.yml").write_text(RULES)
    watch = Watch()
    with Path("/run/out/agent.log").open("wb") as log:
        agent = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--plain", "--config", str(HOME / "steadytok.yml")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=observe.ENVIRONMENT,
        )
        watch.start()
        try:
            _live(watch, agent)
        finally:
            watch.mark("SIGTERM")
            agent.send_signal(signal.SIGTERM)
            status = agent.wait(60)
            watch.mark("ended")
            watch.stop()
    return {"status": status, "marks": watch.marks, "scrapes": watch.scrapes, "posts": watch.posts}


def _live(watch: Watch, agent: subprocess.Popen[bytes]) -> None:
    ready = watch.until(lambda: bool(watch.newest("steadytok_dimm_headroom_celsius" + _read_dimm())), 90, "first DIMM")
    if not ready:
        return
    set_celsius(DIMMS[0], TEMPERATURE, 88.0)
    watch.mark("hot")
    watch.until(lambda: _is_pending(watch), 30, "DimmHot pending")
    _stand_still(agent.pid)
    watch.mark("stood still")
    _processors(watch)
    _kills(watch)
    _counters(watch)
    _memory(watch)
    watch.until(lambda: was_received(watch, "DimmHot"), 90, "DimmHot was received")
    watch.until(lambda: was_received(watch, "LabHot"), 30, "LabHot was received")
    set_celsius(DIMMS[0], TEMPERATURE, 45.0)
    watch.mark("cool")
    watch.until(lambda: watch.newest("steadytok_dimm_temperature_celsius" + _read_dimm()) == 45.0, 30, "cool exposed")
    watch.until(lambda: was_received(watch, "LabHot", ended=True), 30, "LabHot's end was received")


def _stand_still(pid: int) -> None:
    """Stops the agent for seconds, and its children a little longer, as a host without free memory does."""
    children = [int(child) for child in observe.read_text(f"/proc/{pid}/task/{pid}/children").split()]
    for process_id in (pid, *children):
        os.kill(process_id, signal.SIGSTOP)
    time.sleep(8)
    os.kill(pid, signal.SIGCONT)
    time.sleep(1.5)
    for process_id in children:
        os.kill(process_id, signal.SIGCONT)


def _is_pending(watch: Watch) -> bool:
    return any('"DimmHot",alertstate="pending"' in name for name in (watch.scrapes[-1][1] if watch.scrapes else ()))


def _read_dimm() -> str:
    return f'{{dimm="{bus()}-0018",source="hwmon"}}'


def was_received(watch: Watch, name: str, *, ended: bool = False) -> bool:
    """True if an alert was received; with `ended`, only if its end was in the past at receipt."""
    return any(
        alert["labels"]["alertname"] == name
        and (not ended or datetime.fromisoformat(alert["endsAt"]).timestamp() <= at)
        for at, alerts in list(watch.posts)
        for alert in alerts
    )


def _has_value(watch: Watch, name: str, value: float) -> bool:
    return watch.newest(name) == value


def _processors(watch: Watch) -> None:
    online = "/sys/devices/system/cpu/cpu3/online"
    cpus = 'steadytok_topology_node_cpus{node="1"}'
    for value, count in (("0", 1.0), ("1", 2.0)):
        observe.write(online, value)
        watch.mark(f"cpu3 {value}")
        watch.until(functools.partial(_has_value, watch, cpus, count), 40, f"cpu3 {value} exposed")
        time.sleep(7)  # longer than the interval of cpufreq


def _kills(watch: Watch) -> None:
    observe.run("mount", "-t", "cgroup2", "none", str(CGROUPS))
    observe.write(str(CGROUPS / "cgroup.subtree_control"), "+memory +cpuset")
    for name, file, value in (("small,one", "memory.max", str(48 << 20)), ("pinned", "cpuset.mems", "1")):
        (CGROUPS / name).mkdir()
        observe.write(str(CGROUPS / name / file), value)
    _die(watch, "memcg", *observe.python(DIE, VICTIM, str(CGROUPS / "small,one"), str(128 << 20)))
    _die(watch, "cpuset", *observe.python(DIE, VICTIM, str(CGROUPS / "pinned"), MORE_THAN_A_NODE))
    _die(watch, "memory_policy", "numactl", "--membind=1", *observe.python(DIE, VICTIM, "", MORE_THAN_A_NODE))
    _die_by_hand(watch)


def _die(watch: Watch, constraint: str, *command: str) -> None:
    status = observe.run(*command, status=None).returncode
    watch.mark(f"killed {constraint} {status}")
    _await_kill(watch, constraint)


def _die_by_hand(watch: Watch) -> None:
    command = observe.python(DIE, VICTIM, "", str(64 << 20))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=observe.ENVIRONMENT) as victim:
        assert victim.stdout is not None
        victim.stdout.readline()
        observe.write("/proc/sysrq-trigger", "f")
        watch.mark(f"killed none {victim.wait(60)}")
    _await_kill(watch, "none")


def _await_kill(watch: Watch, constraint: str) -> None:
    total = f'steadytok_kmsg_oom_kills_total{{constraint="{constraint}"}}'
    watch.until(lambda: bool(watch.newest(total)), 20, f"kill {constraint} exposed")


def _counters(watch: Watch) -> None:
    hits = 'steadytok_numastat_numa_hit_total{node="0"}'
    observe.write("/proc/sys/vm/numa_stat", "0")
    watch.mark("numa_stat 0")
    watch.until(lambda: watch.newest(hits) is None, 30, "numastat gone")
    time.sleep(3)
    observe.write("/proc/sys/vm/numa_stat", "1")
    watch.mark("numa_stat 1")
    watch.until(lambda: watch.newest(hits) is not None, 30, "numastat back")


def _memory(watch: Watch) -> None:
    """Takes a block of node 1's memory offline and online again; the kernel may refuse blocks that are in use."""
    total = 'steadytok_topology_node_memory_bytes{node="1"}'
    before = watch.newest(total)
    for block in sorted(Path("/sys/devices/system/node/node1").glob("memory*/state"), reverse=True):
        try:
            observe.write(str(block), "offline")
        except OSError:
            continue
        watch.mark("memory 0")
        watch.until(lambda: watch.newest(total) != before, 40, "memory 0 exposed")
        observe.write(str(block), "online")
        watch.mark("memory 1")
        watch.until(lambda: watch.newest(total) == before, 40, "memory 1 exposed")
        return
    watch.mark("NOT memory 0: every block was refused")
