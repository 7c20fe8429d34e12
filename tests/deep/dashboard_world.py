"""
A small fleet of two hosts for the dashboards: all hardware there is, as a folder that moves; and this machine, live.

The folder has what needs no kernel door: two nodes, DIMMs that run hot, a BMC, HSMP, resctrl, engine processes and a
vLLM that generates. The live agent has what a folder cannot have: pages of a running engine. A Prometheus scrapes both.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from agent.engines.baseline import Baseline, BaselineKey
from agent.engines.placement_baseline import ProcessKey
from tests import processes
from tests.conftest import MACHINES, load
from tests.secret_files import write_secret

HOUSE = Path(__file__).parents[2]
FIXTURES = HOUSE / "tests" / "collectors"
EXAMPLES = HOUSE / "docs" / "examples"
PICTURE, LIVE = "127.0.0.2", "127.0.0.3"
"""Addresses, and so the names of the hosts in Prometheus, by the relabelling of the shipped example."""

_CPU = "sys/devices/system/cpu"
_L3 = "sys/fs/resctrl/mon_data"
_ENGINE = "http/127.0.0.1:8000/metrics"
_DRILL = """
groups:
- name: drill
  interval: 1s
  rules:
  - alert: Drill
    expr: min by (job, instance) (steadytok_meminfo_mem_available_bytes) > 0
    for: 5s
    labels: {severity: warning}
    annotations: {summary: A drill.}
  - alert: LaterDrill
    expr: min by (job, instance) (steadytok_meminfo_mem_available_bytes) > 0
    for: 80s
    labels: {severity: warning}
    annotations: {summary: 'A drill, when the remedy of the first has given up.'}
"""


class World(NamedTuple):
    """Where to ask: the Prometheus, and each agent by the name of its host."""

    prometheus: str
    agents: dict[str, str]


def build(root: Path) -> None:
    """Writes the folder: the two nodes of tests/machines, and over them what single collectors' fixtures have."""
    machine = load(MACHINES / "two_nodes.py")
    machine.build(root, {**load(MACHINES / "two_nodes_sensors.py").files(), **_resctrl(), **_fan()})
    for source, kind in (
        ("process", "proc"),
        ("process", "sys/fs/cgroup"),
        ("engine", "http"),
        ("dimm", "dev"),
        ("dimm", "sys/firmware"),
    ):
        shutil.copytree(FIXTURES / source / "root" / kind, root / kind, dirs_exist_ok=True, symlinks=True)
    with (root / "proc" / "meminfo").open("a") as meminfo:
        meminfo.write("MemAvailable:  464000000 kB\nSwapTotal:  8388604 kB\nSwapFree:  8388000 kB\n")


def _resctrl() -> dict[str, str]:
    files = {
        "sys/fs/resctrl/cpus_list": "0-39\n",
        "sys/fs/resctrl/info/L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n",
        "sys/fs/resctrl/info/L3_MON/num_rmids": "64\n",
        "sys/fs/resctrl/info/last_cmd_status": "ok\n",
    }
    for cpu in range(40):
        index = f"{_CPU}/cpu{cpu}/cache/index3"
        first = cpu // 20 * 20
        files |= {f"{index}/id": f"{cpu // 20}\n", f"{index}/level": "3\n"}
        files[f"{index}/shared_cpu_list"] = f"{first}-{first + 19}\n"
    for domain in ("00", "01"):
        for name, size in (("mbm_total_bytes", 5 * 10**12), ("mbm_local_bytes", 4 * 10**12), ("llc_occupancy", 10**7)):
            files[f"{_L3}/mon_L3_{domain}/{name}"] = f"{size}\n"
    return files


def _fan() -> dict[str, str]:
    folder = "sys/class/hwmon/hwmon20"
    return {
        f"{folder}/name": "nct6775\n",
        f"{folder}/device": "-> ../../../devices/platform/nct6775.656",
        f"{folder}/fan1_input": "5400\n",
    }


class Mover(threading.Thread):
    """Lets the folder's counters grow, a second at a time, each file at one stroke."""

    def __init__(self, root: Path) -> None:
        super().__init__(name="mover", daemon=True)
        self._root = root
        self._over = threading.Event()
        self._first = {path: (root / path).read_text() for path in (*_GAINS, *self._many())}

    def _many(self) -> Iterator[str]:
        throttle = f"{_CPU}/cpu*/thermal_throttle"
        for pattern in (
            "sys/class/powercap/*/energy_uj",
            "sys/devices/system/node/node*/numastat",
            f"{_L3}/*/mbm_*",
            f"{throttle}/*_count",
            f"{throttle}/*_total_time_ms",
        ):
            yield from (str(path.relative_to(self._root)) for path in self._root.glob(pattern))

    def run(self) -> None:
        """Moves until told to stop."""
        second = 0
        while not self._over.wait(1.0):
            second += 1
            for path, text in self._first.items():
                complete_file = self._root.parent / "whole"
                complete_file.write_text((_GAINS.get(path) or _by_folder(path))(text, second))
                os.replace(complete_file, self._root / path)

    def stop(self) -> None:
        """Ends the thread."""
        self._over.set()
        self.join(10)


def _increase(text: str, pattern: str, gain: int) -> str:
    """Every number that the pattern's group finds, larger by `gain`."""
    return re.sub(pattern, lambda match: f"{match[1]}{int(float(match[2])) + gain}", text, flags=re.MULTILINE)


def _cpu_times(text: str, second: int) -> str:
    def row(match: re.Match[str]) -> str:
        user, nice, system, idle, wait, *rest = map(int, match[2].split())
        moved = (user + 70 * second, nice, system + 6 * second, idle + 20 * second, wait + 3 * second)
        return match[1] + " ".join(map(str, (*moved, *rest)))

    return re.sub(r"^(cpu\d+ )([\d ]+)$", row, text, flags=re.MULTILINE)


def _engine(text: str, second: int) -> str:
    gains = {
        "generation_tokens_total": 30,
        "prompt_tokens_total": 100,
        "num_preemptions_total": 1,
        "inter_token_latency_seconds_sum": 4,
        "time_to_first_token_seconds_sum": 1,
        "time_to_first_token_seconds_count": 2,
    }
    for name, gain in gains.items():
        text = _increase(text, rf"^(vllm:\w*{name}{{.*}} )([\d.e+]+)$", gain * second)
    return text


_GAINS: dict[str, Callable[[str, int], str]] = {
    "proc/stat": _cpu_times,
    "proc/vmstat": lambda text, second: _increase(
        text, r"^((?:pg|ps|work|numa|allocstall|compact)\w+ )(\d+)$", 400 * second
    ),
    "proc/pressure/cpu": lambda text, second: _increase(text, r"(total=)(\d+)", 30_000 * second),
    "proc/pressure/io": lambda text, second: _increase(text, r"(total=)(\d+)", 8_000 * second),
    "proc/pressure/memory": lambda text, second: _increase(text, r"(total=)(\d+)", 50_000 * second),
    _ENGINE: _engine,
}


def _by_folder(path: str) -> Callable[[str, int], str]:
    gain = next(
        gain
        for part, gain in (
            ("energy_uj", 150_000_000),
            ("mbm_total", 40 * 10**9),
            ("mbm_local", 30 * 10**9),
            ("_count", 1),
            ("total_time_ms", 30),
            ("numastat", 900),
        )
        if part in path
    )
    if "thermal_throttle" in path and not re.search(r"cpu[23]\d/", path):
        gain = 0  # package 1 is the hot one
    return lambda text, second: _increase(text, r"^(\w+ |)(\d+)$", gain * second)


class _Webhook(http.server.BaseHTTPRequestHandler):
    """Refuses whatever comes."""

    def do_POST(self) -> None:
        """Answers 500."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(500)
        self.end_headers()

    def log_message(self, format: str, *_: Any) -> None:
        """Says nothing."""


@contextlib.contextmanager
def run_webhook() -> Iterator[str]:
    """A server that remedies can call; its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextlib.contextmanager
def run_world(folder: Path) -> Iterator[World]:
    """Everything runs while the block does."""
    with ExitStack() as stack:
        build(folder / "root")
        mover = Mover(folder / "root")
        mover.start()
        stack.callback(mover.stop)
        engine = stack.enter_context(run_reference_engine(folder))
        hook = stack.enter_context(run_webhook())
        recording = _speed_up_recording(EXAMPLES / "fleet-recording.yml", folder)
        (folder / "drill.yml").write_text(_DRILL)
        _write_baseline(folder / "state-picture", "r1", 7.0)
        _write_baseline(folder / "state-live", "r0", 250.0)
        agents = {
            PICTURE: stack.enter_context(run_agent(folder, PICTURE, "picture", _find_picture(recording))),
            LIVE: stack.enter_context(
                run_agent(folder, LIVE, "live", _build_live_config(folder, engine, hook, recording))
            ),
        }
        prometheus = stack.enter_context(_run_prometheus(folder, list(agents.values())))
        yield World(prometheus, agents)


def _write_baseline(folder: Path, engine: str, speed: float) -> None:
    """A baseline, and a placement that is not the present one, as if learnt for a day."""
    baseline = Baseline()
    for _ in range(100):
        for batch in ("1", "2", "4", "8"):
            baseline.observe(BaselineKey(engine, "", batch), speed)
        baseline._placement_baseline.observe(ProcessKey(engine, "", "0"), {"0": 0.4, "1": 0.6})
    folder.mkdir()
    (folder / "baseline.json").write_text(baseline.dump())


def _speed_up_recording(path: Path, folder: Path) -> Path:
    """The rule file with every interval at 2 s: the test does not wait for a minute."""
    target = folder / path.name
    target.write_text(re.sub(r"interval: \w+", "interval: 2s", path.read_text()))
    return target


def _find_picture(recording: Path) -> dict[str, Any]:
    processes_of = json.loads((FIXTURES / "process" / "config.json").read_text())
    return {
        "engine": {"enabled": False},
        "engines": [{"name": "r1", "kind": "vllm", "url": "http://127.0.0.1:8000"}],
        "collectors": {"process": {"engines": [each for each in processes_of["engines"] if each["name"] != "r1"]}},
        "rules": {"files": [str(recording)]},
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": ["127.0.0.1:9"]}]}]},  # nobody listens
    }


def _build_live_config(folder: Path, engine: str, hook: str, recording: Path) -> dict[str, Any]:
    drill = {"match": ['alertname="Drill"'], "max_attempts": 1, "cooldown": "1m"}
    later = {"match": ['alertname="LaterDrill"']}
    pace = {"action": "pace", "target": {"engine": "r0"}, "parameters": {"token_file": str(folder / "token")}}
    return {
        "engine": {"enabled": False},
        "engines": [{"name": "r0", "kind": "reference", "url": engine}],
        "collectors": {"process": {"interval": "5s"}},
        "rules": {"files": [str(recording), str(folder / "drill.yml")]},
        "remediation": {"mode": "enforce", "builtin": False, "pause_file": str(folder / "pause")},
        "remedies": [
            {"name": "call-in-vain", **drill, "action": "webhook", "target": {"url": f"{hook}/no"}},
            {"name": "hold-back", **later, **pace, "verify": {"within": "10m"}},
        ],
    }


@contextlib.contextmanager
def run_agent(folder: Path, address: str, name: str, config: dict[str, Any]) -> Iterator[str]:
    """An agent with a state and a configuration of its name; `picture` watches the folder. Its URL."""
    port = processes.find_free_port()
    config |= {
        "web": {"listen": f"{address}:{port}"},
        "external_labels": {"instance": address},
        "state": {"dir": str(folder / f"state-{name}")},
    }
    path = folder / f"{name}.yml"
    path.write_text(yaml.safe_dump(config))
    root = str(folder / "root") if name == "picture" else "/"
    arguments = [sys.executable, "-m", "agent", "run", "--root", root, "--config", str(path), "--plain"]
    base = f"http://{address}:{port}"
    with processes.run_process(arguments, folder / f"{name}.log"):
        log = folder / f"{name}.log"
        processes.wait_until(lambda: processes.fetch(f"{base}/-/ready") is not None, 60, f"{name} is ready; see {log}")
        yield base


@contextlib.contextmanager
def run_reference_engine(folder: Path) -> Iterator[str]:
    """Our own engine, small, that is asked for tokens again and again."""
    port = processes.find_free_port()
    base = f"http://127.0.0.1:{port}"
    arguments = [sys.executable, "-m", "engine", "--port", str(port), "--size", "16MiB", "--no-pin"]
    write_secret(folder / "token", "a token of this test alone")
    arguments += ["--token-file", str(folder / "token")]
    over = threading.Event()

    def ask() -> None:
        body = json.dumps({"prompt": "once upon a time", "max_tokens": 24}).encode()
        while not over.wait(0.5):
            with contextlib.suppress(OSError):  # it is starting, or ending
                request = urllib.request.Request(f"{base}/v1/completions", body, {"Content-Type": "application/json"})
                urllib.request.urlopen(request, timeout=20).read()

    with processes.run_process(arguments, folder / "engine.log"):
        processes.wait_until(lambda: processes.fetch(f"{base}/metrics") is not None, 60, "the engine answers")
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        yield base
        over.set()
        thread.join(30)


@contextlib.contextmanager
def _run_prometheus(folder: Path, agents: list[str]) -> Iterator[str]:
    """A Prometheus with the shipped example as its configuration, scraping every 2 s."""
    example = (EXAMPLES / "prometheus.yml").read_text()
    example = example.replace("scrape_interval: 15s", "scrape_interval: 2s").replace("scrape_timeout: 10s", "")
    (folder / "prometheus.yml").write_text(example.replace("evaluation_interval: 30s", "evaluation_interval: 2s"))
    _speed_up_recording(EXAMPLES / "fleet-meta.yml", folder)
    (folder / "targets").mkdir()
    silent = f"127.0.0.4:{processes.find_free_port()}"
    targets = [{"targets": [*(base.removeprefix("http://") for base in agents), silent]}]
    (folder / "targets" / "hosts.yml").write_text(yaml.safe_dump(targets))
    address = f"127.0.0.1:{processes.find_free_port()}"
    arguments = [
        processes.require_program("prometheus"),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={address}",
    ]
    with processes.run_process(arguments, folder / "prometheus.log"):
        processes.wait_until(
            lambda: processes.fetch(f"http://{address}/-/ready") is not None, 30, "Prometheus gets ready"
        )
        yield f"http://{address}"
