"""The commands, run as a person or a script runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

DIMM_ROOT = Path(__file__).parents[2] / "collectors/dimm/root"  # a machine with every source of DIMM temperatures


def run_steadytok(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def test_collect_gives_every_value_and_nothing_else(two_nodes: Path, two_nodes_expected: dict[str, float]) -> None:
    """The JSON of a whole machine has every series of its files, with the exact value."""
    result = run_steadytok("collect", "--root", two_nodes, "--json")
    rows = json.loads(result.stdout)
    values = {(row["name"], tuple(sorted(row["labels"].items()))): row["value"] for row in rows}
    expected = {
        (sample.name, tuple(sorted(sample.labels.items()))): value
        for series, value in two_nodes_expected.items()
        for family in text_string_to_metric_families(f"{series} 1\n")
        for sample in family.samples
    }

    assert result.returncode == 0, result.stderr
    assert values.keys() == expected.keys()
    assert values == pytest.approx(expected)
    assert len(values) == len(rows)
    assert all(row["timestamp"] > 1_700_000_000 for row in rows)


def test_the_machine_of_the_tests_can_be_had_as_a_folder(tmp_path: Path, two_nodes: Path) -> None:
    """The script writes the machine that the tests read, and never into a folder with files."""
    script = Path(__file__).parents[2] / "machines" / "two_nodes.py"
    command = [sys.executable, str(script), str(tmp_path / "machine")]
    first = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    paths = {str(path.relative_to(tmp_path / "machine")) for path in (tmp_path / "machine").rglob("*")}

    assert first.returncode == 0, first.stderr
    assert paths == {str(path.relative_to(two_nodes)) for path in two_nodes.rglob("*")}
    assert second.returncode == 2
    assert "is not empty" in second.stderr


def test_collect_prints_prometheus_text(two_nodes: Path) -> None:
    """Named collectors alone are read, and the text parses."""
    result = run_steadytok("collect", "numastat", "meminfo", "--root", two_nodes)
    families = [family.name for family in text_string_to_metric_families(result.stdout)]

    assert "steadytok_numastat_numa_hit" in families
    assert {name.split("_")[1] for name in families} == {"numastat", "meminfo"}
    assert result.stderr == ""


def test_a_joined_collector_brings_its_sources(two_nodes: Path) -> None:
    """`collect dimm` reads hwmon too, and prints dimm alone."""
    result = run_steadytok("collect", "dimm", "--root", two_nodes)

    assert "steadytok_dimm_headroom_celsius" in result.stdout
    assert "steadytok_hwmon_temperature" not in result.stdout


def test_a_collector_that_is_not_there(two_nodes: Path) -> None:
    """The message names the unknown collector and lists the available ones; exit status 2."""
    result = run_steadytok("collect", "meminfoo", "--root", two_nodes)

    assert result.returncode == 2
    assert result.stderr.startswith("steadytok: no collector is named 'meminfoo'; there are: ")


def test_what_is_missing_is_told(two_nodes: Path) -> None:
    """An unreadable file is one line on standard error; the other readings are printed."""
    (two_nodes / "sys/devices/system/node/node1/numastat").write_bytes(b"")
    result = run_steadytok("collect", "numastat", "--root", two_nodes)

    assert "missing: sys/devices/system/node/node1/numastat: empty" in result.stderr
    assert 'steadytok_numastat_numa_hit_total{node="0"}' in result.stdout
    assert result.returncode == 0


@pytest.mark.deep
def test_a_stuck_read_costs_its_patience_only(two_nodes: Path) -> None:
    """`collect` names the collector whose read never returns, and ends."""
    (two_nodes / "proc/meminfo").unlink()
    os.mkfifo(two_nodes / "proc/meminfo")
    result = run_steadytok("collect", "meminfo", "numastat", "--root", two_nodes)

    assert result.returncode == 1
    assert "proc/meminfo: a read has not returned; the file is skipped meanwhile" in result.stderr
    assert "steadytok_numastat_numa_hit_total" in result.stdout


def test_check_reports_each_collector(two_nodes: Path) -> None:
    """Each collector has a line with its outcome and its cost; absent hardware has a hint."""
    result = run_steadytok("check", "--root", two_nodes)
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}

    assert result.returncode == 0, result.stdout
    assert "ok" in lines["numastat"]
    assert "series" in lines["numastat"]
    assert "engines: in the configuration" in lines["engine"]


def test_check_lists_what_fits_no_slot() -> None:
    """A DIMM sensor without a slot is listed under its name for the configuration, with the reason."""
    result = run_steadytok("check", "--root", DIMM_ROOT)

    assert "unplaced  hwmon/3-0052: no serial number can be read from its SPD\n" in result.stdout
    assert "collectors.dimm.names in the configuration can assign each to its slot" in result.stdout
    assert "hwmon/3-0050" not in result.stdout


def test_the_operators_map_names_a_module(tmp_path: Path) -> None:
    """The configuration of a sensor gives its module the name, the node and the limit."""
    config = tmp_path / "steadytok.yml"
    dimm = {"names": {"hwmon/3-0052": "front"}, "nodes": {"front": 1}, "limits": {"front": 60}}
    config.write_text(json.dumps({"collectors": {"dimm": dimm}}))
    result = run_steadytok("collect", "dimm", "--root", DIMM_ROOT, "--config", config)

    assert 'steadytok_dimm_limit_celsius{dimm="front",node="1",source="hwmon"} 60' in result.stdout
    assert 'steadytok_dimm_headroom_celsius{dimm="front",node="1",source="hwmon"} 20' in result.stdout
    assert 'sensor="3-0052",source="hwmon"} 1' in result.stdout
    assert result.stderr == ""


def test_check_names_a_failing_collector(two_nodes: Path) -> None:
    """A file that cannot be read is reported, and check exits with 1."""
    (two_nodes / "proc/vmstat").write_bytes(b"\xff\xfe")
    result = run_steadytok("check", "--root", two_nodes)

    assert result.returncode == 1
    assert "proc/vmstat: not text" in result.stdout


def test_rules_check_tells_every_fault(tmp_path: Path) -> None:
    """A good file's rules are counted, a bad one's faults have file and position; the exit status tells them apart."""
    good, bad = tmp_path / "good.yml", tmp_path / "bad.yml"
    good.write_text("groups: [{name: g, rules: [{alert: A, expr: up == 0}]}]")
    bad.write_text("groups: [{name: g, rules: [{alert: A, expr: 'up ==', fro: 1m}]}]")

    assert run_steadytok("rules", "check", good).stdout == f"{good}: 1 rules found, no faults\n"
    result = run_steadytok("rules", "check", good, bad)
    assert result.returncode == 1
    assert "bad.yml" in result.stderr
    assert "Traceback" not in result.stderr


def test_no_alertmanager_is_said() -> None:
    """`alert test` without an address names the option to give."""
    result = run_steadytok("alert", "test")

    assert result.returncode == 2
    assert "give --alertmanager HOST:PORT" in result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["collect", "--help"], ["engine", "--help"]])
def test_help_is_help(arguments: list[str]) -> None:
    """Every command explains itself and exits with 0."""
    result = run_steadytok(*arguments)

    assert result.returncode == 0
    assert "usage" in result.stdout.lower()


def test_the_commands_are_those_of_the_folder() -> None:
    """The list of the help text and the files of commands/ agree."""
    from agent.__main__ import COMMANDS

    files = {path.stem for path in (Path(__file__).parents[3] / "agent/commands").glob("[!_]*.py")}

    assert set(COMMANDS) == files


def test_collect_imports_no_heavy_room() -> None:
    """Reading one collector imports neither the web server nor NumPy: it starts in a fraction of a second."""
    code = (
        "import sys; from agent.commands import collect; "
        "print([name for name in ('aiohttp', 'numpy', 'apscheduler', 'rich', 'pyghmi') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50)

    assert result.stdout == "[]\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_hand_of_our_own_is_for_root() -> None:
    """`--hand direct` by another user than root ends with a hint; the hand could do nothing."""
    # Imported before setuid, since the interpreter's files may be readable by root only.
    program = "import os, agent.commands.run, agent.__main__ as a; os.setuid(65534); a.main(prog_name='steadytok')"
    command = [sys.executable, "-c", program, "run", "--hand", "direct"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)

    assert result.returncode == 1
    assert result.stderr.startswith("steadytok: --hand direct: only root may do what a hand does: run as root, or")
    assert result.stderr.count("\n") == 1


def test_a_hand_that_is_none_is_a_fault() -> None:
    """The option is checked as the key of the configuration is."""
    result = run_steadytok("run", "--hand", "left")

    assert result.returncode == 2
    assert "remediation.hand: expected socket, direct or an absolute path, found 'left'" in result.stderr
