"""The order of things: what must be so before anything is begun, and the two stages."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from agent.install import InstallError, InstallTarget, environment
from agent.install.subprocesses import run_program


def resolve_target(prefix: Path, is_dry: bool) -> InstallTarget:
    """Where to install; InstallError where this user, or this host, cannot have it there."""
    resolved = InstallTarget(prefix.absolute(), is_dry)
    if not resolved.is_live or is_dry:
        return resolved
    if os.geteuid() != 0:
        raise InstallError("this needs root: run it with sudo, or see what it would do with --dry-run")
    if not Path("/run/systemd/system").is_dir():
        raise InstallError(
            "this host was not started by systemd (a container?): run `steadytok run` under what starts services here,"
            " or put the files into an image with --prefix"
        )
    return resolved


def install(target: InstallTarget, requirement: str) -> None:
    """A new venv, and everything around it."""
    if target.is_live:
        environment.check_interpreter()
    folder = environment.make_venv(target, requirement)
    try:
        run_settle_stage(target, folder)
    except InstallError:
        if environment.find_current(target) != folder:  # what was in use is so still, and this one is nobody's
            shutil.rmtree(folder, ignore_errors=True)
        raise


def run_settle_stage(target: InstallTarget, folder: Path) -> None:
    """The second stage, by the code in that venv; in a rehearsal there is none, and ours tells what it would do."""
    if target.is_dry:
        from agent.install.settle import settle

        return settle(target, folder)
    try:
        run_program(
            [folder / "bin/python", "-I", "-m", "agent.install.settle", target.prefix, folder], shows_output=True
        )
    except InstallError:
        raise InstallError("not finished, for the reason above") from None  # which that stage has told itself
    return None


def require_installed(target: InstallTarget) -> Path:
    """The venv in use; InstallError where there is none."""
    folder = environment.find_current(target)
    if folder is None:
        raise InstallError("steadytok is not installed here: `steadytok install` does that")
    return folder


def find_upgrade_source(target: InstallTarget) -> str:
    """What an upgrade installs: run by the service's own venv, the newest there is; else the version that runs."""
    folder = environment.find_current(target)
    return (
        "steadytok"
        if folder is not None and Path(sys.prefix) == folder.resolve()
        else environment.find_install_source()
    )
