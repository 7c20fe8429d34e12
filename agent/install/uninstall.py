"""Removes the service and its files; with purge also its state, its users and its configuration in /etc."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from agent.install import InstallTarget
from agent.install.layout import (
    COMMAND,
    CONFIG,
    DAEMON,
    GENERATED,
    INSTALLED_FILES,
    OPERATOR_UNITS,
    OPT,
    RUNTIME,
    SOCKETS,
    STATE,
    USERS,
    is_our_link,
)
from agent.install.subprocesses import run_program

_OUR_FOLDERS = (
    "/usr/local/lib/systemd",
    "/usr/local/lib/sysusers.d",
    "/usr/local/lib/tmpfiles.d",
    "/usr/local/lib/udev",
    CONFIG,
)


def remove(target: InstallTarget, *, purge: bool) -> bool:
    """Removes the installation; returns False if there was none."""
    existing = [path for path in map(target.resolve, _list_paths(purge)) if path.exists() or path.is_symlink()]
    existing = [path for path in existing if path != target.resolve(COMMAND) or is_our_link(path)]
    existing += _find_operator_files(target, purge)
    if not existing:
        return False
    if target.is_live and target.resolve(INSTALLED_FILES[0].path).exists():
        _stop_units(target)
    for path in existing:
        target.run_step(f"remove {path}", partial(_remove_path, path))
    _remove_empty_folders(target)
    if target.is_live:
        target.run_step("reload the units", lambda: run_program(["systemctl", "daemon-reload"]))
        if purge:
            for user in USERS:
                target.run_step(f"remove the user {user}", partial(_remove_user, user))
    return True


def _list_paths(purge: bool) -> list[str]:
    files = [piece.path for piece in INSTALLED_FILES if purge or not piece.is_editable]
    state_folders = [*STATE, CONFIG] if purge else []
    return [*GENERATED, *files, COMMAND, *RUNTIME, *state_folders, OPT]


def _find_operator_files(target: InstallTarget, purge: bool) -> Iterator[Path]:
    """Yields links made by systemctl enable (an engine's instance), and with purge drop-ins of systemctl edit."""
    system = target.resolve(OPERATOR_UNITS)
    yield from sorted(system.glob("*.wants/steadytok*"))
    if purge:
        yield from sorted(system.glob("steadytok*.d"))


def _stop_units(target: InstallTarget) -> None:
    """Stops the sockets first, so that they start nothing again. The hand undoes its actions when it ends."""
    target.run_step(
        "stop the service and its sockets", lambda: _run_systemctl("disable", "--now", "--quiet", DAEMON, *SOCKETS)
    )
    others = (
        "steadytok-hand.service",
        "steadytok-eye@*.service",
        "steadytok-look@*.service",
        "steadytok-engine@*.service",
    )
    target.run_step("stop hand, eyes and engines", lambda: _run_systemctl("stop", *others))


def _run_systemctl(*arguments: str) -> str:
    return run_program(["systemctl", *arguments])


def _remove_path(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_empty_folders(target: InstallTarget) -> None:
    """Removes the folders made for our files if they are empty."""
    files = (*GENERATED, *(piece.path for piece in INSTALLED_FILES))
    folders = {folder for file in files for folder in Path(file).parents if str(folder).startswith(_OUR_FOLDERS)}
    for folder in sorted(map(str, folders), reverse=True):  # inner folders first
        path = target.resolve(folder)
        if not target.is_dry and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _remove_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return  # removed earlier, or never made
    run_program(["userdel", user])
