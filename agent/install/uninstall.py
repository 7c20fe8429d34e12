"""Takes steadytok away again: the service and its files; with purge also what it has learnt, its users and /etc."""

from __future__ import annotations

import pwd
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from agent.install import Target
from agent.install.layout import (
    COMMAND,
    CONFIG,
    DAEMON,
    GENERATED,
    OPERATORS,
    OPT,
    PIECES,
    RUNTIME,
    SOCKETS,
    STATE,
    USERS,
    ours,
)
from agent.install.subprocesses import call

_MADE_FOR = (
    "/usr/local/lib/systemd",
    "/usr/local/lib/sysusers.d",
    "/usr/local/lib/tmpfiles.d",
    "/usr/local/lib/udev",
    CONFIG,
)


def remove(target: Target, *, purge: bool) -> bool:
    """False where there was nothing to remove."""
    found = [path for path in map(target.at, _paths(purge)) if path.exists() or path.is_symlink()]
    found = [path for path in found if path != target.at(COMMAND) or ours(path)]
    found += _enabled(target, purge)
    if not found:
        return False
    if target.live and target.at(PIECES[0].path).exists():
        _stop(target)
    for path in found:
        target.step(f"remove {path}", partial(_remove, path))
    _remove_empty(target)
    if target.live:
        target.step("read the units again", lambda: call(["systemctl", "daemon-reload"]))
        if purge:
            for user in USERS:
                target.step(f"remove the user {user}", partial(_remove_user, user))
    return True


def _paths(purge: bool) -> list[str]:
    pieces = [piece.path for piece in PIECES if purge or not piece.edited]
    learnt = [*STATE, CONFIG] if purge else []
    return [*GENERATED, *pieces, COMMAND, *RUNTIME, *learnt, OPT]


def _enabled(target: Target, purge: bool) -> Iterator[Path]:
    """What systemctl enable has linked (an engine's instance), and with purge what systemctl edit has written."""
    system = target.at(OPERATORS)
    yield from sorted(system.glob("*.wants/steadytok*"))
    if purge:
        yield from sorted(system.glob("steadytok*.d"))


def _stop(target: Target) -> None:
    """The doors first, so that nobody comes back in; the hand puts back what it holds when it ends."""
    target.step("stop the service and its doors", lambda: _systemctl("disable", "--now", "--quiet", DAEMON, *SOCKETS))
    others = (
        "steadytok-hand.service",
        "steadytok-eye@*.service",
        "steadytok-look@*.service",
        "steadytok-engine@*.service",
    )
    target.step("stop hand, eyes and engines", lambda: _systemctl("stop", *others))


def _systemctl(*arguments: str) -> str:
    return call(["systemctl", *arguments])


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_empty(target: Target) -> None:
    """Folders that were made for files of ours, where nobody else has put anything."""
    files = (*GENERATED, *(piece.path for piece in PIECES))
    folders = {folder for file in files for folder in Path(file).parents if str(folder).startswith(_MADE_FOR)}
    for folder in sorted(map(str, folders), reverse=True):  # the inner ones first
        path = target.at(folder)
        if not target.dry and path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _remove_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return  # removed before, or never made
    call(["userdel", user])
