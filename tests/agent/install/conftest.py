"""An installation target below a folder, and a package that installs in a second."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from agent.install import InstallTarget


@pytest.fixture(name="target")
def _make_target(tmp_path: Path) -> InstallTarget:
    return InstallTarget(tmp_path / "host")


@pytest.fixture(name="wheel")
def _make_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a wheel named steadytok with one module and one script, and keeps pip off the index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    metadata_folder = "steadytok-9.9.dist-info"
    path = tmp_path / "steadytok-9.9-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "def main(): print('tiny')\n")
        wheel.writestr(f"{metadata_folder}/METADATA", "Metadata-Version: 2.1\nName: steadytok\nVersion: 9.9\n")
        wheel.writestr(f"{metadata_folder}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{metadata_folder}/entry_points.txt", "[console_scripts]\nsteadytok = tiny:main\n")
        wheel.writestr(f"{metadata_folder}/RECORD", "")
    return path
