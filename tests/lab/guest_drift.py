"""
Moves an engine's memory to the other node and back, then its threads away from its memory.

The agent begins with a learnt speed and placement, as after a restart, since learning takes five minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.lab import observe
from tests.lab.guest_agent import Watch, was_received

HOME = Path("/run/drift")
ENGINE = "http://127.0.0.1:9900"
WHO = '{engine="ref",rank="0"}'
DRIFT, LOCAL = f"steadytok_process_placement_drift{WHO}", f"steadytok_process_local_ratio{WHO}"
KEPT = re.compile(
    r"^(steadytok_(?:process_(?:placement|local|node_share|run_share|info)|engine_up).*) (\S+)$", re.MULTILINE
)
BUILTIN = Path(__file__).parents[2] / "rules/builtin/placement.yml"
CONFIG = """
external_labels: {instance: guest}
engine: {enabled: false}
engines: [{name: ref, kind: reference, url: "http://127.0.0.1:9900"}]
collectors: {process: {interval: 2s}}
rules: {builtin: false, files: ["/run/drift/*.rules.yml"]}
alerting: {resend_delay: 5s, alertmanagers: [{static_configs: [{targets: ["127.0.0.1:9094"]}]}]}
state: {dir: /run/drift/state}
"""
RULES = """
groups:
  - name: lab
    rules:
      - alert: LabDrift
        expr: steadytok_process_placement_drift > 0.1
        for: 4s
        annotations:
          summary: '{{ $labels.engine }} has {{ printf "%.2f" $value }} of its memory where it was not before'
      - alert: LabRemote
        expr: steadytok_process_local_ratio < 0.3
        for: 4s
        annotations:
          summary: '{{ $labels.engine }} has {{ printf "%.2f" $value }} of its memory where its threads run'
"""
# A hundred observations of a speed too high for emulation, and an hour with all pages on node 0.
LEARNT = {
    "version": 1,
    "bins": {"ref\x1f\x1f1": {"700": 100}},
    "placements": {"ref\x1f\x1f0": {"seen": 720, "shares": {"0": 1.0, "1": 0.0}}},
}


def drift() -> dict[str, Any]:
    """Runs the agent beside an engine whose pages and threads move."""
    (HOME / "state").mkdir(mode=0o700, parents=True)
    (HOME / "steadytok.yml").write_text(CONFIG)
    (HOME / "lab.rules.yml").write_text(RULES)
    (HOME / "builtin.rules.yml").write_text(shorten_for(BUILTIN.read_text()))
    (HOME / "state/baseline.json").write_text(json.dumps(LEARNT))
    watch = Watch(KEPT, 9094)
    with _agent() as agent:
        watch.start()
        try:
            _live(watch)
        finally:
            agent.send_signal(signal.SIGTERM)
            status = agent.wait(60)
            watch.stop()
    return {"status": status, "marks": watch.marks, "scrapes": watch.scrapes, "posts": watch.posts}


def shorten_for(rules: str) -> str:
    """Returns built-in rules with `for` in seconds instead of minutes."""
    return re.sub(r"for: \d+m", "for: 4s", rules)


@contextlib.contextmanager
def _agent() -> Iterator[subprocess.Popen[bytes]]:
    arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(HOME / "steadytok.yml")]
    with (
        Path("/run/out/drift.log").open("wb") as log,
        subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=observe.ENVIRONMENT) as agent,
    ):
        yield agent


@contextlib.contextmanager
def _engine() -> Iterator[int]:
    """Runs a busy reference engine that is bound to node 0; yields its pid."""
    options = ["--port", "9900", "--size", "24MiB", "--context", "128", "--nice", "0", "--numa", "bind:0"]
    with subprocess.Popen(
        [sys.executable, "-m", "engine", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=observe.ENVIRONMENT,
    ) as engine:
        assert engine.stdout is not None
        pid = int(json.loads(engine.stdout.readline())["pid"])
        idle = threading.Event()
        load = threading.Thread(target=_load, args=(idle,), daemon=True)
        load.start()
        try:
            yield pid
        finally:
            idle.set()
            os.kill(pid, signal.SIGKILL)
            load.join(30)


def _load(idle: threading.Event) -> None:
    body = json.dumps({"prompt": "a", "max_tokens": 16}).encode()
    while not idle.is_set():
        order = urllib.request.Request(f"{ENGINE}/v1/completions", body, {"Content-Type": "application/json"})
        with contextlib.suppress(OSError):  # the engine is ending
            urllib.request.urlopen(order, timeout=30).read()
        idle.wait(0.3)  # without a rest the engine leaves the emulated agent a quarter of a processor


def _live(watch: Watch) -> None:
    with _engine() as pid:
        # The libraries' page cache may be on any node: on that of its first reader.
        observe.run("migratepages", str(pid), "1", "0")
        watch.mark("at home")
        # In emulation the agent may take a minute to start.
        watch.until(lambda: _below(watch, DRIFT, 0.1) and _above(watch, LOCAL, 0.9), 240, "home exposed")
        observe.run("migratepages", str(pid), "0", "1")
        watch.mark("moved")
        watch.until(lambda: _above(watch, DRIFT, 0.5) and _below(watch, LOCAL, 0.5), 30, "drift exposed")
        watch.until(lambda: was_received(watch, "LabDrift"), 30, "LabDrift was received")
        watch.until(lambda: was_received(watch, "PlacementDrift"), 30, "PlacementDrift was received")
        observe.run("migratepages", str(pid), "1", "0")
        watch.mark("moved back")
        watch.until(lambda: _below(watch, DRIFT, 0.1), 60, "back exposed")
        for name in ("LabDrift", "LabRemote"):
            watch.until(lambda name=name: was_received(watch, name, ended=True), 30, f"{name}'s end was received")  # type: ignore[misc]  # mypy cannot infer a lambda's default
        posts = len(watch.posts)
        observe.run("taskset", "--all-tasks", "--cpu-list", "--pid", "2-3", str(pid))
        watch.mark("apart")
        watch.until(lambda: _below(watch, LOCAL, 0.3), 60, "apart exposed")
        watch.until(lambda: _fires(watch, "LabRemote", posts), 30, "LabRemote was received again")
        watch.until(
            lambda: _fires(watch, "BindingIneffective", posts, evidence="bound_threads"), 60, "threads were received"
        )


def _fires(watch: Watch, name: str, since: int, **labels: str) -> bool:
    """True if a newer message has an alert with these labels whose end is in the future."""
    expected_labels = {"alertname": name, **labels}
    return any(
        expected_labels.items() <= alert["labels"].items() and datetime.fromisoformat(alert["endsAt"]).timestamp() > at
        for at, alerts in watch.posts[since:]
        for alert in alerts
    )


def _below(watch: Watch, name: str, bound: float) -> bool:
    value = watch.newest(name)
    return value is not None and value < bound


def _above(watch: Watch, name: str, bound: float) -> bool:
    value = watch.newest(name)
    return value is not None and value > bound
