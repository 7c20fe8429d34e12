"""The venv: complete or absent, one for each version, and switched atomically."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from agent.commands import _install
from agent.install import InstallError, InstallTarget, environment, stages
from agent.install.layout import OPT


def test_a_venv_is_whole_and_knows_its_place_on_the_host(target: InstallTarget, wheel: Path) -> None:
    """It has the package, compiled, and pip; its script names the interpreter's path on the host."""
    folder = environment.make_venv(target, str(wheel))

    assert folder == target.resolve(f"{OPT}/venv-1")
    assert environment.find_version(folder) == "9.9"
    assert (folder / "bin/steadytok").read_text().startswith(f"#!{OPT}/venv-1/bin/python")
    assert list(folder.glob("lib/python*/site-packages/__pycache__/tiny*.pyc"))
    assert subprocess.run([folder / "bin/python", "-I", "-m", "pip", "--version"], check=False).returncode == 0


@pytest.mark.deep
def test_what_cannot_be_installed_leaves_nothing(target: InstallTarget, wheel: Path) -> None:
    """The error has pip's own reason, and the unfinished venv is removed."""
    with pytest.raises(InstallError, match="No matching distribution found for steadytok==404"):
        environment.make_venv(target, "steadytok==404")

    assert list(target.resolve(OPT).iterdir()) == []


def test_a_disk_that_is_full_is_named(target: InstallTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence has the step, the reason, and what to do."""

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28), "/opt/steadytok")

    with pytest.raises(InstallError, match="cannot write it: /opt/steadytok: No space left on device; free some space"):
        target.run_step("write it", full)


def test_one_venv_is_in_use_and_the_others_are_swept(target: InstallTarget) -> None:
    """`current` moves at once from one to the next, and only the newest stays."""
    for name in ("venv-1", "venv-2"):
        target.resolve(f"{OPT}/{name}").mkdir(parents=True)
        environment.switch_current(target, target.resolve(f"{OPT}/{name}"))
    newest = environment.find_current(target)
    assert newest == target.resolve(f"{OPT}/venv-2")
    environment.remove_unused(target, newest)

    assert sorted(path.name for path in target.resolve(OPT).iterdir()) == ["current", "venv-2"]


def test_a_python_that_services_do_not_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ProtectHome= hides it, so the installation fails now rather than the first start."""
    monkeypatch.setattr("sys._base_executable", "/home/ann/.local/bin/python3.12")

    with pytest.raises(InstallError, match=r"this Python is /home/ann/\.local/bin/python3\.12"):
        environment.check_interpreter()


def test_without_root_or_systemd_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes before the first step; a dry run needs neither."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert stages.resolve_target(Path("/"), is_dry=True).is_dry
    with pytest.raises(InstallError, match="this needs root"):
        stages.resolve_target(Path("/"), is_dry=False)

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "is_dir", lambda path: False)
    with pytest.raises(InstallError, match="not started by systemd"):
        stages.resolve_target(Path("/"), is_dry=False)


@pytest.mark.deep
def test_a_version_that_cannot_be_settled_leaves_the_one_before(target: InstallTarget, wheel: Path) -> None:
    """The new venv is removed, and `current` points at the old one; this wheel has no second stage."""
    before = target.resolve(f"{OPT}/venv-1")
    before.mkdir(parents=True)
    environment.switch_current(target, before)
    with pytest.raises(InstallError, match="installation not finished; see the error above"):
        stages.install(target, str(wheel))

    assert environment.find_current(target) == before
    assert sorted(path.name for path in target.resolve(OPT).iterdir()) == ["current", "venv-1"]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "steadytok==1.2"),
        ({"url": "file:///gone/steadytok.whl"}, "steadytok==1.2"),
        ({"url": "file:///usr"}, "/usr"),
        ({"url": "https://a.example/s.whl"}, "steadytok @ https://a.example/s.whl"),
        (
            {"url": "https://a.example/s.git", "vcs_info": {"vcs": "git", "commit_id": "0123ab"}},
            "steadytok @ git+https://a.example/s.git@0123ab",
        ),
    ],
)
def test_what_is_installed_is_what_runs(origin: object, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is the origin of this version while it exists; else this version, from the index."""

    class Distribution:
        def read_text(self, name: str) -> str | None:
            return None if origin is None else json.dumps(origin)

    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    monkeypatch.setattr(environment, "version", lambda: "1.2")

    assert environment.find_install_source() == expected


def test_a_strict_umask_does_not_lock_the_service_out(tmp_path: Path) -> None:
    """Files that root installs with umask 077 are readable."""
    before = os.umask(0o077)
    try:
        with _install.exit_on_error():
            (tmp_path / "file").touch()
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_an_upgrade_needs_something_to_upgrade(target: InstallTarget) -> None:
    """Without an installation, the error names the command that makes one."""
    with pytest.raises(InstallError, match="`steadytok install` does that"):
        stages.require_installed(target)
