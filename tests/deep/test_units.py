"""The units as systemd itself reads them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.storage.state_dir import StateDir

pytestmark = pytest.mark.deep

UNITS = Path(__file__).parents[2] / "systemd"
# What each may expose at most, of 10, by systemd-analyze security: the daemon 2.0 by our own word. docs/security.md
# has a reason for each line that keeps the hand above 2.0.
MOST = {
    "steadytok.service": 2.0,
    "steadytok-eye@.service": 2.0,
    "steadytok-look@.service": 2.0,
    "steadytok-hand.service": 2.1,
    "steadytok-engine@.service": 2.0,
}


@pytest.fixture(name="analyze")
def _analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        sentence = "needs systemd-analyze: apt-get install --no-install-recommends systemd"
        (pytest.fail if os.environ.get("STEADYTOK_REQUIRE_PEERS") else pytest.skip)(sentence)
    return program


@pytest.mark.parametrize("unit", MOST)
def test_exposure_is_small(analyze: str, unit: str) -> None:
    """`systemd-analyze security` counts what a unit leaves open."""
    command = [analyze, "security", "--offline=true", "--no-pager", str(UNITS / unit)]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)

    assert match is not None, report
    assert float(match[1]) <= MOST[unit], report


def test_each_exposure_of_the_hand_has_its_reason(analyze: str) -> None:
    """The page names every line that systemd-analyze marks, and no other: a reason outlives what it was for."""
    command = [analyze, "security", "--offline=true", "--json=short", str(UNITS / "steadytok-hand.service")]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    page = (UNITS.parent / "docs/security.md").read_text().replace("\\|", "|")
    _, _, section = page.partition("## What the hand could still do")
    rows = re.findall(r"^\| `([^`]+)` \| .{20,} \|$", section, re.MULTILINE)

    assert sorted(rows) == sorted(line["name"] for line in report if line["exposure"])


@pytest.mark.parametrize("unit", [*MOST, "steadytok-eye.socket", "steadytok-look.socket", "steadytok-hand.socket"])
def test_systemd_understands_every_line(analyze: str, unit: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, once the programs that a unit starts are there."""
    for path in UNITS.iterdir():
        text = path.read_text().replace("/opt/steadytok/current/bin/python", sys.executable)
        (tmp_path / path.name).write_text(text)
    name = str(tmp_path / unit.replace("@.", "@r1."))
    if "@" in unit:
        (tmp_path / unit.replace("@.", "@r1.")).write_text((tmp_path / unit).read_text())
    done = subprocess.run([analyze, "verify", "--man=no", name], capture_output=True, text=True, check=False)

    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "steadytok" in line]
    assert ours == []


def test_an_engine_is_given_the_token_that_the_daemon_makes(tmp_path: Path) -> None:
    """Its unit names the file that the daemon's state folder has, where the configuration that ships has it."""
    state = StateDir(tmp_path)
    token = state.ensure_pace_token_file().name
    state.close()
    folder = yaml.safe_load((UNITS / "steadytok.yml").read_text())["state"]["dir"]

    assert f"LoadCredential=token:{folder}/{token}\n" in (UNITS / "steadytok-engine@.service").read_text()
