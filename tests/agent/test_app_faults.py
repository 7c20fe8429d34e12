"""The real agent as a process: reloads, full disks, third-party collectors. Continues test_app.py."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes

RUN = [sys.executable, "-m", "agent", "run", "--plain", "--config"]


class RunningAgent:
    """An agent process on a small machine, its configuration, its log and its address."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.config = home / "steadytok.yml"
        self.log = home / "log"
        self.root = home / "machine"
        self.address = f"127.0.0.1:{processes.find_free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        (self.root / "proc").mkdir(parents=True)
        (self.root / "proc/meminfo").write_text("MemTotal: 1000 kB\n")
        chip = self.root / "sys/class/hwmon/hwmon0"
        chip.mkdir(parents=True)
        (chip / "name").write_text("jc42\n")
        (chip / "temp1_input").write_text("40000\n")

    def configure(self, more: str = "") -> None:
        state = f'state: {{dir: "{self.home}/state"}}'
        self.config.write_text(f'web: {{listen: "{self.address}"}}\nengine: {{enabled: false}}\n{state}\n{more}')

    def reload(self, more: str, message: str = "configuration reloaded") -> None:
        before = self.log.read_text().count(message)
        self.configure(more)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        processes.wait_until(lambda: self.log.read_text().count(message) > before, 20, message)

    def fetch_metrics(self) -> str:
        return processes.fetch(f"http://{self.address}/metrics") or ""

    def read_value(self, series: str) -> float | None:
        lines = [line for line in self.fetch_metrics().splitlines() if line.startswith(f"{series} ")]
        return float(lines[0].split()[-1]) if lines else None

    def count_threads(self) -> int:
        assert self.process is not None
        return len(os.listdir(f"/proc/{self.process.pid}/task"))


@contextlib.contextmanager
def run_agent(home: Path, more: str = "") -> Iterator[RunningAgent]:
    running = RunningAgent(home)
    running.configure(more)
    with processes.run_process([*RUN, str(running.config), "--root", str(running.root)], running.log) as process:
        running.process = process
        processes.wait_until(
            lambda: processes.fetch(f"http://{running.address}/-/ready") is not None,
            30,
            "ready",
        )
        yield running


@pytest.mark.deep
def test_a_reload_that_makes_a_collector_slow_does_not_stop_it(tmp_path: Path) -> None:
    """A collector whose interval a reload raises above five seconds continues to read."""
    with run_agent(tmp_path, "sample: {stale_after: 1}") as running:
        running.reload("sample: {stale_after: 1}\ncollectors: {meminfo: {interval: 6s}}")
        (running.root / "proc/meminfo").write_text("MemTotal: 2000 kB\n")

        processes.wait_until(
            lambda: running.read_value("steadytok_meminfo_mem_total_bytes") == 2_048_000,
            20,
            "the new value",
        )


def test_a_reload_starts_the_eye(tmp_path: Path) -> None:
    """The first isolated collector that a reload enables is read as if it had been enabled at the start."""
    with run_agent(tmp_path, "collectors: {hwmon: {enabled: false}, cpufreq: {enabled: false}}") as running:
        running.reload("collectors: {cpufreq: {enabled: false}}")

        processes.wait_until(
            lambda: "steadytok_hwmon_temperature_celsius{" in running.fetch_metrics(),
            15,
            "hwmon is read",
        )


@pytest.mark.deep
def test_switching_a_collector_off_and_on_costs_no_threads(tmp_path: Path) -> None:
    """However often a reload removes and adds a collector, the number of threads stays."""
    off = "collectors: {meminfo: {enabled: false}, vmstat: {enabled: false}}"
    with run_agent(tmp_path) as running:
        running.reload(off)
        running.reload("")
        before = running.count_threads()
        for _ in range(4):
            running.reload(off)
            running.reload("")

        assert running.count_threads() <= before


@pytest.mark.deep
@pytest.mark.parametrize("value", ["2024-99-99", "!!int x", "[" * 3000])
def test_a_reload_says_every_fault(value: str, tmp_path: Path) -> None:
    """Whatever a new file holds, a refused reload is logged."""
    with run_agent(tmp_path) as running:
        running.reload(f"x: {value}", message="the new configuration is not used")


def test_rules_look_back_no_further_than_what_is_kept_now(tmp_path: Path) -> None:
    """
    `sample.keep` changes only with a restart: a reloaded rule that needs the new one fails alone, the others are
    evaluated.
    """
    rules = tmp_path / "long.yml"
    rules.write_text(
        'groups: [{name: g, rules: [{alert: Long, expr: "max_over_time(up[90m]) > 0"}, {alert: Any, expr: vector(1)}]}]'
    )
    with run_agent(tmp_path) as running:
        running.reload(f'sample: {{keep: 2h}}\nrules: {{files: ["{rules}"]}}', message='"Long\\": looks back 1h30m')
        answer = json.loads(processes.fetch(f"http://{running.address}/api/v1/rules?rule_group[]=g") or "{}")
        long_rule, any_rule = answer["data"]["groups"][0]["rules"]

        assert (long_rule["health"], any_rule["health"], any_rule["state"]) == ("err", "ok", "firing")
        assert "further than the 1h of sample.keep" in long_rule["lastError"]


def test_a_reload_says_what_it_cannot_change(tmp_path: Path) -> None:
    """Another hand needs a restart, and each reload with one logs that."""
    with run_agent(tmp_path) as running:
        for _ in range(2):
            running.reload("remediation: {hand: /run/other.sock}", message='"settings":["remediation.hand"]')
        running.reload("remediation: {hand: socket}")
        assert running.log.read_text().count("only with a restart") == 2


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_costs_lines_and_not_the_agent(number: int, tmp_path: Path) -> None:
    """With standard output or error on a full disk, lines are lost and the agent continues."""
    running = RunningAgent(tmp_path)
    running.configure()
    arguments = [*RUN, str(running.config), "--root", str(running.root)]
    with Path("/dev/full").open("wb") as full, Path(os.devnull).open("wb") as nowhere:
        streams = {"stdout": full, "stderr": nowhere} if number == 1 else {"stdout": nowhere, "stderr": full}
        process = subprocess.Popen(arguments, **streams)
        try:
            age = 'steadytok_collector_age_seconds{collector="meminfo"}'
            processes.wait_until(lambda: (running.read_value(age) or 9.0) < 9.0, 20, "readings")
            processes.wait_until(lambda: "steadytok_tick_seconds" in running.fetch_metrics(), 20, "ticks")

            assert process.poll() is None
        finally:
            process.kill()
            process.wait()


def test_a_folder_of_our_rooms_names_is_not_run(tmp_path: Path) -> None:
    """Started in a folder that has an `agent` package, the eye still runs the installed one."""
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent/__init__.py").write_text("")
    running = RunningAgent(tmp_path)
    running.configure()
    start = "import sys; from agent.__main__ import main; sys.argv[0] = 'steadytok'; main()"
    arguments = [
        sys.executable,
        "-P",
        "-c",
        start,
        *RUN[3:],
        str(running.config),
        "--root",
        str(running.root),
    ]
    with running.log.open("wb") as log:
        process = subprocess.Popen(arguments, cwd=tmp_path, stdout=log, stderr=log)
        try:
            processes.wait_until(
                lambda: "steadytok_hwmon_temperature_celsius{" in running.fetch_metrics(),
                15,
                "hwmon is read",
            )
        finally:
            process.terminate()
            process.wait(10)


def test_an_agent_without_collectors_runs(tmp_path: Path) -> None:
    """With every collector disabled, rules and self-metrics continue."""
    from agent.sampling.plugins import load_collectors

    off = ", ".join(f"{name}: {{enabled: false}}" for name in load_collectors())
    with run_agent(tmp_path, f"collectors: {{{off}}}") as running:
        processes.wait_until(lambda: "steadytok_build_info" in running.fetch_metrics(), 10, "ticks")

        assert running.process is not None
        assert running.process.poll() is None


def test_a_third_partys_collector_in_the_eye(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A third party's isolated collector is read; text that it prints is ignored, and hwmon is read beside it."""
    package = tmp_path / "lib"
    (package / "acme-1.dist-info").mkdir(parents=True)
    (package / "acme-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1\n")
    (package / "acme-1.dist-info/entry_points.txt").write_text("[steadytok.collectors]\nacme = acme_collector\n")
    (package / "acme_collector.py").write_text(
        '"""Acme."""\nfrom collectors import gauge\nVALUE = gauge("steadytok_acme_value", "A value.")\n'
        "METRICS = (VALUE,)\nISOLATED = True\n\n"
        'def collect(host):\n    print("hello")\n    yield VALUE.sample(1.0)\n'
    )
    monkeypatch.setenv("PYTHONPATH", f"{package}:{os.environ.get('PYTHONPATH', '')}")
    with run_agent(tmp_path, "collectors: {acme: {enabled: true}}") as running:
        processes.wait_until(lambda: running.read_value("steadytok_acme_value") == 1.0, 15, "acme is read")
        processes.wait_until(
            lambda: "steadytok_hwmon_temperature_celsius{" in running.fetch_metrics(),
            15,
            "hwmon is read",
        )


@pytest.mark.deep
def test_a_process_without_file_descriptors_ticks_on(tmp_path: Path) -> None:
    """While nothing can be opened (EMFILE), the agent ticks and says which step fails; afterwards it reads again."""
    with run_agent(tmp_path) as running, contextlib.closing(http.client.HTTPConnection(running.address)) as connection:
        assert running.process is not None

        def ask(path: str) -> str:
            connection.request("GET", path)  # the connection of before the shortage: a new one needs a descriptor
            return connection.getresponse().read().decode()

        processes.wait_until(lambda: 'resident_bytes{process="agent"}' in ask("/metrics"), 60, "the agent's memory")
        limits = resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (1, limits[1]))
        processes.wait_until(lambda: "measure processes (OSError)" in ask("/-/healthy"), 60, "the step is named")
        processes.wait_until(lambda: 'step_faults_total{step="measure"} 2' in ask("/metrics"), 60, "it is counted")
        processes.wait_until(lambda: 'resident_bytes{process="agent"}' not in ask("/metrics"), 60, "it is missing")
        status = running.process.poll()
        resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, limits)
        processes.wait_until(lambda: ask("/-/healthy") == "steadytok is healthy.\n", 60, "it is healthy again")
        processes.wait_until(lambda: 'resident_bytes{process="agent"}' in ask("/metrics"), 60, "the agent's memory")

        assert status is None
        log = running.log.read_text()
        assert log.count('"part":"processes"') == 2, log  # it failed, it works again
        assert "Traceback" not in log
