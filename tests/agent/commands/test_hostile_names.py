"""Names on a host that hold commands for a terminal: every command that prints them makes them visible."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[3]
PROCESS_ROOT = HOUSE / "tests/collectors/process/root"
EVIL = "\x1b]0;title\x07\rfaked\x7f\u202e\x9b2J"


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    """A machine whose processes, sensor and memory module have such names."""
    root = Path(shutil.copytree(PROCESS_ROOT, tmp_path / "root", symlinks=True))
    for stat in (root / "proc").glob("*/stat"):
        text = stat.read_text()
        stat.write_text(f"{text[: text.index('(')]}({EVIL}{text[text.rindex(')') :]}")
    hwmon, module = root / "sys/class/hwmon/hwmon0", root / "sys/devices/system/edac/mc/mc0/dimm0"
    for folder, files in (
        (hwmon, {"name": "k10temp", "temp1_input": "45000", "temp1_label": f"T{EVIL}l", "temp2_input": EVIL}),
        (module, {"dimm_label": f"P1{EVIL}A1", "dimm_ce_count": "1", "dimm_ue_count": "0"}),
        (module.parent, {"ce_count": "1", "ue_count": f"many {EVIL}"}),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("arguments", "visible"),
    [
        (["collect"], r"\\x1b]0;title\\x07\\rfaked\\x7f\\u202e\\x9b2J"),
        (["collect", "--json"], r"\u001b]0;title\u0007\rfaked\u007f\u202e\u009b2J"),
        (["collect", "edac", "hwmon"], r"\\x1b"),
        (["check"], r"\x1b"),
        (["placement"], r"\x1b"),
        (["placement", "--json"], r"\u001b"),
        (["placement", "--exact", "--yes"], r"\x1b"),
        (["placement", EVIL], r"\x1b"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_name_cannot_command_the_terminal(root: Path, arguments: list[str], visible: str) -> None:
    """Neither output, through a pipe, has a control character but line ends and tabs; the names stay visible."""
    command = [sys.executable, "-m", "agent", *arguments, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=50, cwd=HOUSE)
    output = (done.stdout + done.stderr).decode()

    assert visible in output
    assert [line for line in output.replace("\t", " ").split("\n") if not line.isprintable()] == []
