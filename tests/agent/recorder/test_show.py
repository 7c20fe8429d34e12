"""`steadytok recorder show`."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from agent.commands.recorder import command
from tests.recorded_host import (
    START,
    RecordedHost,
)


def run_show(folder: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, ["show", "--state", str(folder), *options])
    return result.exit_code, result.output


def test_show_prints_a_line_for_each_series(tmp_path: Path) -> None:
    """A line has first, last, count, least, most and newest, within `--since` before the newest reading."""
    host = RecordedHost(tmp_path / "recorder")
    host.tick(61)
    host.close()
    status, output = run_show(tmp_path, "--since", "10s")
    heading, *lines = output.splitlines()

    assert status == 0
    assert heading.split() == ["first", "(UTC)", "last", "(UTC)", "readings", "least", "most", "newest", "series"]
    assert lines[1].split() == [
        "2023-11-14",
        "22:14:12.000",
        "2023-11-14",
        "22:14:21.000",
        "10",
        "104",
        "122",
        "122",
        "work_total",
    ]
    assert lines[0].endswith('hot{dimm="1"}')


def test_show_prints_every_reading_of_a_metric(tmp_path: Path) -> None:
    """With --metric each of its readings has a line, and no other metric; --json has the values as text."""
    host = RecordedHost(tmp_path / "recorder")
    host.tick(3)
    host.close()
    _, output = run_show(tmp_path, "--metric", "work_total")
    _, text = run_show(tmp_path, "--metric", "work_total", "--json")

    assert [line.split()[2:] for line in output.splitlines()[1:]] == [[f"{n}", "work_total"] for n in (2, 4, 6)]
    values = [[START // 1000 + n + 1, str(2 * n + 2)] for n in range(3)]
    assert json.loads(text) == [{"metric": {"__name__": "work_total"}, "values": values}]


def test_show_says_why_there_is_nothing(tmp_path: Path) -> None:
    """A missing folder, an unknown metric and an invalid time each give one sentence and a status."""
    status, output = run_show(tmp_path / "none")
    assert (status, "give the agent's state folder with --state" in output) == (1, True)

    host = RecordedHost(tmp_path / "recorder")
    host.tick(3)
    host.close()
    assert run_show(tmp_path, "--metric", "cold") == (1, "steadytok: nothing is recorded of cold within 1h\n")
    assert run_show(tmp_path, "--since", "soon")[0] == 2
