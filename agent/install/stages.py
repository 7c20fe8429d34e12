"""Checks the requirements of an installation, and runs its two stages in order."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from agent.install import InstallError, InstallTarget, environment
from agent.install.subprocesses import run_program


def resolve_target(prefix: Path, is_dry: bool) -> InstallTarget:
    """Returns the target. Raises InstallError if this user or this host cannot install there."""
    resolved = InstallTarget(prefix.absolute(), is_dry)
    if not resolved.is_live or is_dry:
        return resolved
    if os.geteuid() != 0:
        raise InstallError("this needs root: run it with sudo, or see its steps with --dry-run")
    if not Path("/run/systemd/system").is_dir():
        raise InstallError(
            "this host was not started by systemd (a container?): run `steadytok run` under its service manager,"
            " or put the files into an image with --prefix"
        )
    return resolved


def install(target: InstallTarget, requirement: str) -> None:
    """Makes a new venv and settles it."""
    if target.is_live:
        environment.check_interpreter()
    folder = environment.make_venv(target, requirement)
    try:
        run_settle_stage(target, folder)
    except InstallError:
        if environment.find_current(target) != folder:  # the previous version is in use, this venv is not
            shutil.rmtree(folder, ignore_errors=True)
        raise


def run_settle_stage(target: InstallTarget, folder: Path) -> None:
    """Runs the second stage by the code in that venv; a dry run has no venv, so our own code prints the steps."""
    if target.is_dry:
        from agent.install.settle import settle

        return settle(target, folder)
    try:
        run_program(
            [folder / "bin/python", "-I", "-m", "agent.install.settle", target.prefix, folder], shows_output=True
        )
    except InstallError:
        raise InstallError("installation not finished; see the error above") from None  # the stage has printed it
    return None


def require_installed(target: InstallTarget) -> Path:
    """Returns the venv in use. Raises InstallError if there is none."""
    folder = environment.find_current(target)
    if folder is None:
        raise InstallError("steadytok is not installed here: `steadytok install` does that")
    return folder


def find_upgrade_source(target: InstallTarget) -> str:
    """Returns the source of an upgrade: the newest release if the service's venv runs this, else this version."""
    folder = environment.find_current(target)
    return (
        "steadytok"
        if folder is not None and Path(sys.prefix) == folder.resolve()
        else environment.find_install_source()
    )
