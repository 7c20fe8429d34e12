"""The real agent as a process, on recorded files of machines: what it serves, survives, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import processes
from tests.depths import keep_fast


class RunningAgent:
    """An agent process, its configuration, its log and its address."""

    def __init__(self, home: Path, root: Path) -> None:
        self.home = home
        self.root = root
        self.config = home / "steadytok.yml"
        self.log = home / "log"
        self.address = f"127.0.0.1:{processes.find_free_port()}"
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, more: str = "") -> None:
        state = f'state: {{dir: "{self.home}/state"}}'
        self.config.write_text(f'web: {{listen: "{self.address}"}}\nengine: {{enabled: false}}\n{state}\n{more}')

    def build_arguments(self) -> list[str]:
        run = [sys.executable, "-m", "agent", "run", "--plain"]
        return [*run, "--config", str(self.config), "--root", str(self.root)]

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def read_values(self) -> dict[str, float]:
        text = processes.fetch(f"http://{self.address}/metrics") or ""
        return {
            _format_series(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def has_logged(self, text: str) -> bool:
        return text in self.log.read_text()


def _format_series(name: str, labels: dict[str, str]) -> str:
    pairs = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}}" if pairs else name


@contextlib.contextmanager
def run_agent(home: Path, root: Path, more: str = "") -> Iterator[RunningAgent]:
    running = RunningAgent(home, root)
    running.configure(more)
    with processes.run_process(running.build_arguments(), running.log) as process:
        running.process = process
        processes.wait_until(lambda: processes.fetch(f"http://{running.address}/-/ready") is not None, 30, "ready")
        yield running


def test_the_metrics_are_the_machines(tmp_path: Path, two_nodes: Path, two_nodes_expected: dict[str, float]) -> None:
    """Every value in the files of a two-node machine is on /metrics, also those that the eye reads."""
    with run_agent(tmp_path, two_nodes) as running:
        expected_series = two_nodes_expected.keys()
        processes.wait_until(lambda: expected_series <= running.read_values().keys(), 20, "every series is there")
        values = running.read_values()

        assert {series: values[series] for series in expected_series} == pytest.approx(two_nodes_expected)
        assert values['steadytok_collector_success{collector="hwmon"}'] == 1.0
        assert processes.fetch(f"http://{running.address}/-/healthy") == "steadytok is healthy.\n"
        assert "<title>steadytok</title>" in (processes.fetch(f"http://{running.address}/") or "")


@pytest.mark.parametrize("damage", keep_fast(["empty", "binary", "huge", "vanished", "a folder"], "binary"))
def test_damaged_files_are_missing_and_counted(tmp_path: Path, two_nodes: Path, damage: str) -> None:
    """A file that becomes unreadable loses only its own values, and is counted as missing."""
    with run_agent(tmp_path, two_nodes) as running:
        series = 'steadytok_numastat_numa_hit_total{node="1"}'
        processes.wait_until(lambda: series in running.read_values(), 20, "the node is there")
        _damage(two_nodes / "sys/devices/system/node/node1/numastat", damage)
        processes.wait_until(lambda: series not in running.read_values(), 20, "its values are gone")
        values = running.read_values()

        assert values['steadytok_collector_missing_readings{collector="numastat"}'] >= 1
        assert 'steadytok_numastat_numa_hit_total{node="0"}' in values
        assert 'steadytok_node_meminfo_mem_total_bytes{node="1"}' in values


def _damage(path: Path, damage: str) -> None:
    path.unlink()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "binary":
        path.write_bytes(bytes(range(256)))
    elif damage == "huge":
        path.write_bytes(b"9" * (5 << 20))
    elif damage == "a folder":
        path.mkdir()


@pytest.mark.deep
def test_a_read_that_never_returns_hides_nobody(tmp_path: Path, two_nodes: Path) -> None:
    """With a FIFO in place of a file, its collector fails with a growing age; all others go on."""
    with run_agent(tmp_path, two_nodes) as running:
        processes.wait_until(lambda: "steadytok_meminfo_mem_total_bytes" in running.read_values(), 20, "readings")
        (two_nodes / "proc/meminfo").unlink()
        os.mkfifo(two_nodes / "proc/meminfo")
        age = 'steadytok_collector_age_seconds{collector="meminfo"}'
        overruns = 'steadytok_collector_overruns_total{collector="meminfo"}'
        processes.wait_until(lambda: running.read_values().get(age, 0) > 4, 20, "its age grows")
        processes.wait_until(lambda: running.read_values().get(overruns, 0) >= 2, 20, "its passes are left out")
        values = running.read_values()

        assert values['steadytok_collector_success{collector="meminfo"}'] == 0.0
        assert "steadytok_meminfo_mem_total_bytes" not in values
        assert values['steadytok_collector_success{collector="numastat"}'] == 1.0
        assert values['steadytok_collector_age_seconds{collector="numastat"}'] < values[age]
        assert values['steadytok_collector_success{collector="hwmon"}'] == 1.0


@pytest.mark.deep
def test_hanging_up_reads_the_configuration_again(tmp_path: Path, two_nodes: Path) -> None:
    """On SIGHUP a valid file is applied; an invalid one is refused with its fault and changes nothing."""
    with run_agent(tmp_path, two_nodes) as running:
        series = "steadytok_meminfo_mem_total_bytes"
        processes.wait_until(lambda: series in running.read_values(), 20, "readings")
        running.configure("collectors: {meminfo: {intervall: 2s}}")
        running.send_signal(signal.SIGHUP)
        processes.wait_until(lambda: running.has_logged("did you mean 'interval'?"), 10, "the fault is logged")
        assert series in running.read_values()

        running.configure("collectors: {meminfo: {enabled: false}}")
        running.send_signal(signal.SIGHUP)
        processes.wait_until(lambda: series not in running.read_values(), 10, "the collector is gone")
        assert 'steadytok_numastat_numa_hit_total{node="0"}' in running.read_values()


@pytest.mark.deep
def test_hanging_up_can_begin_what_was_off_and_slow_what_was_fast(tmp_path: Path, two_nodes: Path) -> None:
    """A reload may enable a collector in the eye, and may make one slow: both continue to read."""
    off = "collectors: {hwmon: {enabled: false}, cpufreq: {enabled: false}}"
    with run_agent(tmp_path, two_nodes, off) as running:
        processes.wait_until(lambda: "steadytok_meminfo_mem_total_bytes" in running.read_values(), 20, "readings")
        assert 'steadytok_collector_success{collector="hwmon"}' not in running.read_values()
        running.configure("collectors: {meminfo: {interval: 6s}}")
        running.send_signal(signal.SIGHUP)
        success = 'steadytok_collector_success{collector="hwmon"}'
        processes.wait_until(lambda: running.read_values().get(success) == 1.0, 30, "the eye reads hwmon")
        interval = 'steadytok_collector_interval_seconds{collector="meminfo"}'
        processes.wait_until(lambda: running.read_values().get(interval) == 6.0, 10, "meminfo has its new interval")
        age = 'steadytok_collector_age_seconds{collector="meminfo"}'
        processes.wait_until(lambda: running.read_values()[age] > 4, 15, "meminfo waits for the schedule")
        processes.wait_until(lambda: running.read_values()[age] < 2, 15, "meminfo is read again")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(tmp_path: Path, two_nodes: Path, number: int) -> None:
    """Ctrl-C and SIGTERM end the agent and its children with status 0 and without a traceback."""
    with run_agent(tmp_path, two_nodes) as running:
        running.send_signal(number)
        assert running.process is not None

        assert running.process.wait(15) == 0
        assert "Traceback" not in running.log.read_text()


@pytest.mark.deep
def test_what_history_will_take_is_said(tmp_path: Path, two_nodes: Path) -> None:
    """Once the first readings have arrived, one line logs the series, their retention and the memory for them."""
    with run_agent(tmp_path, two_nodes) as running:
        processes.wait_until(lambda: running.has_logged('"event":"history memory estimate"'), 15, "the line is there")
        (line,) = [line for line in running.log.read_text().splitlines() if '"event":"history memory estimate"' in line]
        event = json.loads(line)

    assert event["keep"] == "1h"
    assert event["series"] > 300
    assert event["memory"].endswith("MiB")


def test_on_a_terminal_there_is_a_live_table(tmp_path: Path, two_nodes: Path) -> None:
    """On a terminal the table is drawn with memory by node, and Ctrl-C ends it cleanly with status 0."""
    running = RunningAgent(tmp_path, two_nodes)
    running.configure()
    primary, secondary = pty.openpty()
    arguments = [argument for argument in running.build_arguments() if argument != "--plain"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        arguments, stdin=secondary, stdout=secondary, stderr=secondary, env=environment, start_new_session=True
    )
    os.close(secondary)
    output = ""
    while "Ctrl-C ends" not in output.partition("GiB left")[2]:
        output += os.read(primary, 65536).decode("utf-8", "replace")
    process.send_signal(signal.SIGINT)
    status = _wait_and_drain(process, primary)
    os.close(primary)

    assert "node 1" in output
    assert "Ctrl-C ends" in output
    assert status == 0


def _wait_and_drain(process: subprocess.Popen[bytes], primary: int) -> int:
    """Waits for the exit status, and reads the terminal meanwhile: a full one would block its writer."""
    while process.poll() is None:
        if select.select([primary], [], [], 0.1)[0]:
            try:
                os.read(primary, 65536)
            except OSError:
                break  # the other end has closed
    return process.wait(15)


def run_to_end(arguments: list[str]) -> tuple[int, str]:
    result = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=50)
    return result.returncode, result.stderr


def test_a_bad_configuration_is_told_and_ends_with_2(tmp_path: Path, two_nodes: Path) -> None:
    """The message names the file, the path in it and the expected value; nothing is started."""
    running = RunningAgent(tmp_path, two_nodes)
    running.configure("sample: {interval: fast}")
    status, errors = run_to_end(running.build_arguments())

    assert status == 2
    expected = "$.sample.interval: expected a duration such as 1s, 500ms or 1h30m, found 'fast'"
    assert errors == f"steadytok: {running.config}: {expected}\n"


def test_a_taken_port_is_told_and_ends_with_1(tmp_path: Path, two_nodes: Path) -> None:
    """Where another program uses the address, the error says so, and which setting to change."""
    with run_agent(tmp_path, two_nodes) as first:
        second = RunningAgent(tmp_path / "second", two_nodes)
        second.home.mkdir()
        second.address = first.address
        second.configure()
        status, errors = run_to_end(second.build_arguments())

    assert status == 1
    assert "set web.listen to a free address" in errors
    assert "Traceback" not in errors


def test_a_second_agent_with_the_same_state_is_refused(tmp_path: Path, two_nodes: Path) -> None:
    """Only one agent at a time can use a state folder."""
    with run_agent(tmp_path, two_nodes) as first:
        second = RunningAgent(tmp_path, two_nodes)
        second.config = tmp_path / "second.yml"
        second.configure()
        status, errors = run_to_end(second.build_arguments())

    assert first.process is not None
    assert status == 1
    assert "another steadytok runs with the state folder" in errors
