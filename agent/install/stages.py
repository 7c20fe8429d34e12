"""The order of things: what must be so before anything is begun, and the two stages."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from agent.install import InstallError, Target, environment
from agent.install.subprocesses import call


def target(prefix: Path, dry: bool) -> Target:
    """Where to install; InstallError where this user, or this host, cannot have it there."""
    found = Target(prefix.absolute(), dry)
    if not found.live or dry:
        return found
    if os.geteuid() != 0:
        raise InstallError("this needs root: run it with sudo, or see what it would do with --dry-run")
    if not Path("/run/systemd/system").is_dir():
        raise InstallError(
            "this host was not started by systemd (a container?): run `steadytok run` under what starts services here,"
            " or put the files into an image with --prefix"
        )
    return found


def install(target: Target, what: str) -> None:
    """A new venv, and everything around it."""
    if target.live:
        environment.check_interpreter()
    folder = environment.made(target, what)
    try:
        settle_with(target, folder)
    except InstallError:
        if environment.current(target) != folder:  # what was in use is so still, and this one is nobody's
            shutil.rmtree(folder, ignore_errors=True)
        raise


def settle_with(target: Target, folder: Path) -> None:
    """The second stage, by the code in that venv; in a rehearsal there is none, and ours tells what it would do."""
    if target.dry:
        from agent.install.settle import settle

        return settle(target, folder)
    try:
        call([folder / "bin/python", "-I", "-m", "agent.install.settle", target.prefix, folder], loud=True)
    except InstallError:
        raise InstallError("not finished, for the reason above") from None  # which that stage has told itself
    return None


def installed(target: Target) -> Path:
    """The venv in use; InstallError where there is none."""
    found = environment.current(target)
    if found is None:
        raise InstallError("steadytok is not installed here: `steadytok install` does that")
    return found


def newest(target: Target) -> str:
    """What an upgrade installs: run by the service's own venv, the newest there is; else the version that runs."""
    own = environment.current(target)
    return "steadytok" if own is not None and Path(sys.prefix) == own.resolve() else environment.source()
