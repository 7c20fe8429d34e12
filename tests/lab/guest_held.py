"""Runs actions on real memory, and kills an agent while its governor, freeze and pace actions are in effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from agent.actions import QueryRows as Values
from agent.actions import RefusedError, Task, compact_memory, migrate_pages, reclaim
from agent.remediation.action_context import LiveActionContext
from collectors import node_meminfo
from rules.history.history import History
from tests.lab import observe
from tests.lab.guest_hand import FOLDER, GOVERNOR, HOLD, UNIT, Hand, count_pages, run_unit, until

HOME = Path("/run/held")
SIZE = 80 << 20
ENGINE = "http://127.0.0.1:9301"
ENGINES = {"r1": ENGINE, "r2": "http://127.0.0.1:9"}  # no server at the second, which names the unit's engine
RULES = """
groups:
  - {name: lab, rules: [{alert: Trip, expr: steadytok_meminfo_mem_total_bytes > 0}]}
"""
PATIENCE = 240.0
UNNEEDED = ("dimm", "dmi", "hwmon", "ipmi", "kmsg", "process")  # collectors that other stages cover
# Joins a cgroup and reads files; their page cache is charged to the cgroup.
READ = """
import pathlib, sys
open(sys.argv[1], "w").write("0")
read = 0
for file in sorted(pathlib.Path(sys.argv[2]).rglob("*.ko*")):
    read += len(file.read_bytes())
    if read > 48 << 20:
        break
"""


class KnownValuesContext(LiveActionContext):
    """The real hand and the real files, with fixed query results and those of the collector node_meminfo."""

    def __init__(self, values: dict[str, float], pid: int) -> None:
        super().__init__(History(60_000).snapshot(), 0, "/", str(FOLDER / "sock"), HOME / "pace_token")
        self._values, self._pid = values, pid

    def query(self, expr: str) -> Values:
        if "process_info" in expr:
            started = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[19]
            return [({"pid": str(self._pid), "starttime": started}, 1.0)]
        node = expr.partition('node="')[2][:1]
        read = {name: value for name, value in observe.collect(node_meminfo).items() if f'node="{node}"' in name}
        read = {name.partition("{")[0]: value for name, value in read.items()}
        return [({}, value) for name, value in {**read, **self._values}.items() if name in expr]


def run() -> dict[str, Any]:
    """Runs three actions on real memory, then kills an agent."""
    HOME.mkdir()
    hand = Hand()
    began = time.monotonic()
    with run_unit(SIZE, HOLD + "import time\ntime.sleep(3600)\n") as process:
        acted, took = run_actions(process.pid), time.monotonic() - began
        results = {"actions": acted, "actions_took": took, "killed": kill_agent(hand)}
    return {**results, "status": hand.end()}


def run_actions(pid: int) -> dict[str, Any]:
    """Runs migrate_pages, compact_memory, and reclaim of page cache that the unit has read."""
    values = {
        "steadytok_process_memory_bytes": float(SIZE),
        "steadytok_process_kind_share_ratio": 1.0,
        "steadytok_engine_requests_running": 0.0,
        "steadytok_meminfo_cached_bytes": 0.0,
        "workingset_refault_file": 0.0,
    }
    reach = KnownValuesContext(values, pid)
    before, numastat = count_pages(pid), observe.run("numastat", "-p", str(pid)).stdout
    move = migrate_pages.Config(from_node=0, to_node=1, per_second="16MiB")
    results = {"migrate_pages": run_action(migrate_pages, Task("move", {"engine": "r2"}, move, {}, ENGINES), reach)}
    results["pages"] = [before, count_pages(pid)]
    results["numastat"] = [numastat, observe.run("numastat", "-p", str(pid)).stdout]
    pack = Task("pack", {"engine": "r2", "node": "1"}, None, {}, ENGINES)
    results["compact_memory"] = run_action(compact_memory, pack, reach)
    return {**results, "reclaim": reclaim_cache(reach)}


def run_action(action: Any, task: Task, reach: LiveActionContext) -> dict[str, Any]:
    """Plans and does an action; returns the sentences of both."""
    plan = action.plan(task, reach)
    began = time.monotonic()
    return {"plan": plan.says, "did": action.do(task, plan, reach), "seconds": time.monotonic() - began}


def reclaim_cache(reach: LiveActionContext) -> dict[str, Any]:
    """Reclaims the unit's own page cache; per node the plan refuses, since this kernel has no reclaim per node."""
    for folder in (UNIT.parents[1], UNIT.parent):
        observe.write(str(folder / "cgroup.subtree_control"), "+memory")
    observe.write("/proc/sys/vm/drop_caches", "1")
    observe.run(*observe.python(READ, str(UNIT / "cgroup.procs"), os.environ["LAB_MODULES"]))
    before = file_bytes()
    result = run_action(reclaim, Task("free", {"unit": "llama.service"}, reclaim.Config(), {}, {}), reach)
    try:
        reclaim.plan(Task("free", {"node": "1"}, reclaim.Config(), {}, {}), reach)
        refused = ""
    except RefusedError as error:
        refused = str(error)
    return {"before": before, "after": file_bytes(), **result, "refused": refused}


def file_bytes() -> int:
    """Returns the bytes of the unit's page cache."""
    lines = (UNIT / "memory.stat").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("file "))


def kill_agent(hand: Hand) -> dict[str, Any]:
    """Kills an agent that slows a governor, a unit and an engine; measures how soon each is released."""
    prior = GOVERNOR.read_text().strip()
    new_governor = "performance" if prior != "performance" else "powersave"
    configure(new_governor)
    token = ["--token-file", str(HOME / "state/pace_token")]
    engine = ["engine", "--port", ENGINE.rpartition(":")[2], "--size", "1MiB", *token]
    agent = ["agent", "run", "--plain", "--config", str(HOME / "steadytok.yml")]
    with Path("/run/out/held.log").open("wb") as log:
        processes = [start_process(each, log) for each in (engine, agent)]
        began = time.monotonic()
        try:
            until(lambda: all(read_held(hand, new_governor).values()), PATIENCE)
            took = time.monotonic() - began
            leases = hand.request("hello")["result"]["leases"]
            processes[1].kill()
            return {"prior": prior, "leases": leases, "held_after": took, "free_after": measure_release(hand, prior)}
        finally:
            for process in processes:
                process.kill()
                process.wait()


def start_process(arguments: list[str], log: Any) -> subprocess.Popen[bytes]:
    """Starts a program of this repository."""
    return subprocess.Popen([sys.executable, "-m", *arguments], stdout=log, stderr=log, env=observe.ENVIRONMENT)


def configure(governor: str) -> None:
    """Writes a configuration with three remedies for one alert that always fires."""
    remedies = [
        {"action": "governor", "parameters": {"governor": governor}},
        {
            "action": "freeze",
            "target": {"engine": "r2", "unit": "llama.service"},
            "parameters": {"duty": 0.5, "period": 0.5},
        },
        {"action": "pace", "target": {"engine": "r1"}, "parameters": {"duty": 0.5}},
    ]
    always = {"match": ['alertname="Trip"'], "verify": {"expr": "vector(1)", "within": "1m"}}
    config = {
        "web": {"listen": "127.0.0.1:9818"},
        "state": {"dir": str(HOME / "state")},
        "engine": {"enabled": False},
        "collectors": {name: {"enabled": False} for name in UNNEEDED},
        "engines": [{"name": name, "url": url, "kind": "reference"} for name, url in ENGINES.items()],
        "rules": {"builtin": False, "files": [str(HOME / "rules.yml")]},
        "remediation": {"mode": "enforce", "builtin": False, "hand": str(FOLDER / "sock")},
        "remedies": [{"name": each["action"], **always, **each} for each in remedies],
    }
    (HOME / "state").mkdir()
    for name in ("token", "pace_token"):
        (HOME / "state" / name).touch(mode=0o600)  # the agent replaces a token that others can read or guess
        (HOME / "state" / name).write_text("the-token-of-this-guest")
    (HOME / "rules.yml").write_text(RULES)
    (HOME / "steadytok.yml").write_text(json.dumps(config))


def read_held(hand: Hand, governor: str) -> dict[str, bool]:
    """Returns which of the three actions are in effect."""
    freezes = any(lease["verb"] == "freeze" for lease in hand.request("hello")["result"]["leases"])
    return {"governor": GOVERNOR.read_text().strip() == governor, "freeze": freezes, "pace": read_duty() == 0.5}


def read_duty() -> float | None:
    """Returns the duty of the engine; None if it does not answer yet."""
    try:
        with urllib.request.urlopen(f"{ENGINE}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return None
    duties = [line.split()[1] for line in text.splitlines() if line.startswith("steadytok_reference_duty ")]
    return float(duties[0]) if duties else None


def measure_release(hand: Hand, prior: str) -> dict[str, float]:
    """Returns the seconds until each action was undone."""
    began, times = time.monotonic(), dict[str, float]()
    while len(times) < 3 and time.monotonic() - began < 60:
        now = {
            "governor": GOVERNOR.read_text().strip() == prior,
            "freeze": not hand.request("hello")["result"]["leases"]
            and (UNIT / "cgroup.freeze").read_text().strip() == "0",
            "pace": read_duty() == 1.0,
        }
        times |= {name: time.monotonic() - began for name, free in now.items() if free and name not in times}
        time.sleep(0.2)
    return times
