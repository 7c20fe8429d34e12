"""What was learnt outlives a fault of the disk, and damage to its file costs no more than it must."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.engines.baseline import BaselineKey
from agent.learning import Learning
from agent.runtime.clock import Clock
from agent.storage.state_dir import StateDir
from rules.history.history import History

HOUSE = Path(__file__).parents[2]
NAMES = ("baseline.json", "pacing.json")
DAMAGES: dict[str, Callable[[Path], object]] = {
    "garbage": lambda path: path.write_bytes(b"\xff\x00{"),
    "empty": lambda path: path.write_bytes(b""),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "endless": lambda path: os.truncate(path, 1 << 40),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def build_learning(state: StateDir) -> Learning:
    return Learning(state, History(60_000), Clock(), dict)


def write_files(folder: Path) -> None:
    state = StateDir(folder)
    learning = build_learning(state)
    learning.baseline.set_measured(BaselineKey("r1", "", "1"), 50.0)
    learning.close()
    state.close()


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_moved_aside(tmp_path: Path, name: str, harm: str) -> None:
    """It is not waited for and not replaced, and the agent starts; what the other file holds is restored."""
    write_files(tmp_path)
    DAMAGES[harm](tmp_path / name)
    state = StateDir(tmp_path)
    with capture_logs() as lines:
        learning = build_learning(state)
        learning.close()
    state.close()

    assert (tmp_path / f"{name}.unreadable").exists() or (tmp_path / f"{name}.unreadable").is_symlink()
    assert "a damaged file was moved aside; learning anew" in [line["event"] for line in lines]
    assert (tmp_path / name).is_file()
    assert (learning.baseline.expected_speed("r1") is not None) == (name != "baseline.json")


FAULT_IN_PASSING = """
import asyncio, os, resource, sys
from pathlib import Path
from tests.agent.test_learning import StateDir, build_learning

state = StateDir(Path(sys.argv[1]))
loop = asyncio.new_event_loop()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
learning = build_learning(state)
loop.run_until_complete(learning.retry_and_save())
assert learning.baseline.expected_speed("r1") is None
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
assert "r1" in (state.path / "baseline.json").read_text()
loop.run_until_complete(learning.retry_and_save())
assert learning.baseline.expected_speed("r1") is not None
learning.close()
loop.close()
assert "r1" in (state.path / "baseline.json").read_text()
assert not list(state.path.glob("*.unreadable"))
"""


def test_a_fault_in_passing_costs_nothing(tmp_path: Path) -> None:
    """Without a free descriptor nothing is read and nothing replaced; the next save restores what the files hold."""
    write_files(tmp_path)
    program = [sys.executable, "-c", FAULT_IN_PASSING, str(tmp_path)]
    done = subprocess.run(program, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=50)

    assert done.returncode == 0, done.stderr
