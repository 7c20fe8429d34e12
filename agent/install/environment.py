"""The first stage: makes a venv for each version, and finishes it before `current` points at it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

from agent.install import InstallError, InstallTarget
from agent.install.layout import CURRENT, OPT
from agent.install.subprocesses import run_program
from agent.runtime.version import version

_HIDDEN_FOLDERS = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
"""Folders that are hidden from a service with ProtectHome= and PrivateTmp=."""


def find_install_source() -> str:
    """
    Returns the source for pip: the origin of this version if it still exists, else this version by its number.

    https://packaging.python.org/en/latest/specifications/direct-url/
    """
    try:
        direct_url = importlib.metadata.distribution("steadytok").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        direct_url = None
    origin = json.loads(direct_url) if direct_url else {}
    url = origin.get("url", "")
    if vcs := origin.get("vcs_info"):
        return f"steadytok @ {vcs['vcs']}+{url}@{vcs['commit_id']}"
    path = Path(url.removeprefix("file://"))
    if not url or (url.startswith("file://") and not path.exists()):
        return f"steadytok=={version()}"
    return str(path) if url.startswith("file://") else f"steadytok @ {url}"


def check_interpreter() -> None:
    """Raises InstallError if this Python is hidden from the service."""
    base = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    if base.startswith(tuple(f"{folder}/" for folder in _HIDDEN_FOLDERS)):
        raise InstallError(
            f"this Python is {base}, in a folder that is hidden from services; use a venv of the system's, such as"
            " /usr/bin/python3 -m venv"
        )


def make_venv(target: InstallTarget, requirement: str) -> Path:
    """
    Makes a venv with `requirement` in it and returns its folder. A failure leaves no folder behind.

    After pip, compileall compiles it on all processors, without the packages' tests: the service cannot write compiled
    files, so it would compile again at each start.
    """
    folder = _choose_folder(target)
    try:
        target.run_step(f"make a venv in {folder}", lambda: _create_venv(folder))
        target.run_step(f"install {requirement} into it", lambda: _install_package(folder, requirement))
        target.run_step("compile it", lambda: _compile_packages(folder))
        if not target.is_live and not target.is_dry:
            _rewrite_scripts(folder, target.prefix)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def _choose_folder(target: InstallTarget) -> Path:
    """Returns a new folder; it has a number, since the version is known only after pip has installed it."""
    opt = target.resolve(OPT)
    used_names = {entry.name for entry in opt.iterdir()} if opt.is_dir() else set()
    return opt / next(name for number in range(1, 10_000) if (name := f"venv-{number}") not in used_names)


def _create_venv(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_program([sys.executable, "-m", "venv", "--without-pip" if _has_pip() else "--clear", folder])
    if _has_pip():
        _copy_pip(folder)


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _copy_pip(folder: Path) -> None:
    """
    Copies the running pip: a host may have none for new venvs (Debian without python3-venv), or reach no index.

    It runs from the venv, isolated, so that it sees only the venv's packages. The next upgrade uses it again.
    """
    (site,) = folder.glob("lib/python*/site-packages")
    pip = importlib.metadata.distribution("pip")
    for file in pip.files or ():
        if ".." not in file.parts and file.suffix != ".pyc":
            destination = site / file
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(pip.locate_file(file)), destination)


def _install_package(folder: Path, requirement: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--no-cache-dir"]
    run_program([folder / "bin/python", "-I", "-m", "pip", "install", *options, requirement])


def _compile_packages(folder: Path) -> None:
    run_program(
        [folder / "bin/python", "-I", "-m", "compileall", "-q", "-j", "0", "-x", "/(tests?|pip)/", folder / "lib"]
    )


def _rewrite_scripts(folder: Path, prefix: Path) -> None:
    """Replaces the interpreter's path in scripts, which below a prefix must be its path on the host."""
    for script in (folder / "bin").iterdir():
        if script.is_symlink() or not script.read_bytes().startswith(b"#!"):
            continue
        text = script.read_text(encoding="utf-8")
        script.write_text(text.replace(f"{prefix}{OPT}", OPT), encoding="utf-8")


def find_current(target: InstallTarget) -> Path | None:
    """Returns the venv in use, or None if nothing is installed."""
    link = target.resolve(CURRENT)
    return link.parent / os.readlink(link) if link.is_symlink() else None


def find_version(folder: Path) -> str:
    """Returns the version of steadytok in a venv; empty if it has none."""
    for distribution in importlib.metadata.distributions(
        path=[str(path) for path in folder.glob("lib/python*/site-packages")]
    ):
        if distribution.name == "steadytok":
            return distribution.version
    return ""


def switch_current(target: InstallTarget, folder: Path) -> None:
    """Points `current` at a venv, atomically."""
    link = target.resolve(CURRENT)
    link.parent.mkdir(parents=True, exist_ok=True)
    new_link = link.with_name(".current")
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(folder.name)
    new_link.replace(link)


def remove_unused(target: InstallTarget, current_folder: Path) -> None:
    """Removes every venv but the one in use."""
    for entry in target.resolve(OPT).glob("venv-*"):
        if entry != current_folder:
            shutil.rmtree(entry)
