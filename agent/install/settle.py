"""
The second stage, by the new version's own code: files in place, users made, units started.

`python -m agent.install.settle PREFIX FOLDER` is what the first stage runs in the venv that it has made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from agent.install import InstallError, Target, environment
from agent.install.layout import (
    COMMAND,
    CONFIG,
    CURRENT,
    DAEMON,
    PIECES,
    SOCKETS,
    Piece,
    dropin,
    ours,
    sources,
)
from agent.install.sandbox import Walls
from agent.install.subprocesses import call
from agent.storage.state_dir import written
from agent.text.terminal import say

_MADE = "# Made by `steadytok install` for this host and its configuration; run it again rather than edit this.\n"


def settle(target: Target, folder: Path) -> None:
    """Everything but the venv. InstallError where a step cannot be taken; what was in use before is in use again."""
    before = environment.current(target)
    walls = None if target.dry else _walls(target, folder)  # first: a configuration that is no good changes nothing
    try:
        _put(target, folder, walls)
        if target.live:
            _tell_the_system(target)
            _start(target)
    except InstallError:
        if target.live and before is not None and before != folder:
            _go_back(target, before)
        raise
    if target.live:
        target.step("remove what is no longer used", lambda: environment.sweep(target, folder))


def _go_back(target: Target, before: Path) -> None:
    """To the version before, by its own code: units of one version around the venv of another were never tried."""
    target.step(f"use {before} again", lambda: environment.point(target, before))
    try:
        call([before / "bin/python", "-I", "-m", "agent.install.settle", target.prefix, before], loud=True)
    except InstallError as error:
        say(*f"steadytok: and {before} could not be put back: {error}".split("\n"), err=True)


def _put(target: Target, folder: Path, walls: Walls | None) -> None:
    for piece in PIECES:
        _place(target, piece)
    _write_walls(target, walls)
    target.step(f"use {folder} as {CURRENT}", lambda: environment.point(target, folder))
    target.step(f"make {COMMAND} a link to it", lambda: _link(target))


def _place(target: Target, piece: Piece) -> None:
    path = target.at(piece.path)
    text = (sources() / piece.name).read_text(encoding="utf-8")
    there = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if there == text:
        return
    if there is not None and piece.edited:
        say(f"  keep {path}, which has been edited")
        return
    target.step(f"write {path}", lambda: _write(path, text))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written(path, text)
    path.chmod(0o644)


def _walls(target: Target, folder: Path) -> Walls:
    """What may be executed and reached, as the new venv sees this host and its configuration, or the one it brings."""
    # Below a prefix it is another host's configuration, which nobody has written yet.
    there = target.at(f"{CONFIG}/steadytok.yml")
    config = there if there.is_file() else sources() / "steadytok.yml"
    told = call([folder / "bin/python", "-I", "-m", "agent.install.sandbox", config])
    return msgspec.json.decode(told, type=Walls)


def _write_walls(target: Target, walls: Walls | None) -> None:
    if walls is None:
        return target.step(
            "write for this host which files the service may execute, and whom it may reach", lambda: None
        )
    for sentence in walls.told:
        say(f"  note: {sentence}")
    execute = "".join(f"ExecPaths={path}\n" for path in walls.execute)
    execute += "".join(f"NoExecPaths=-{path}\n" for path in walls.leave)
    for unit, reached in ((DAEMON, walls.agent), ("steadytok-eye@.service", walls.eye)):
        network = "".join(f"{line}\n" for line in reached)
        for name, lines in (("10-interpreter.conf", execute), ("20-network.conf", network)):
            _write_dropin(target, target.at(dropin(unit, name)), lines)
    return None


def _write_dropin(target: Target, path: Path, lines: str) -> None:
    text = f"{_MADE}[Service]\n{lines}"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        target.step(f"write {path}", lambda: _write(path, text))


def _link(target: Target) -> None:
    link = target.at(COMMAND)
    if (link.exists() or link.is_symlink()) and not ours(link):
        raise InstallError(f"{link} is somebody else's: move it away")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(f"{CURRENT}/bin/steadytok")


def _tell_the_system(target: Target) -> None:
    target.step("make the users", lambda: call(["systemd-sysusers", "steadytok.conf"]))
    # What tmpfiles.d names is often not there (no RAPL, no DMI): that is no failure.
    target.step(
        "make /run/steadytok, and let the eye read", lambda: call(["systemd-tmpfiles", "--create", "steadytok.conf"])
    )
    target.step("give devices to the eye", _give_devices)
    target.step("read the units", lambda: call(["systemctl", "daemon-reload"]))


def _give_devices() -> None:
    if not Path("/run/udev/control").exists():
        return  # a host without udevd: the operator's own way of making devices
    call(["udevadm", "control", "--reload"])
    call(["udevadm", "trigger", "--action=change", "--subsystem-match=ipmi", "--subsystem-match=misc"])


def _start(target: Target) -> None:
    target.step("start its doors", lambda: call(["systemctl", "enable", "--now", "--quiet", *SOCKETS]))
    target.step("start the service", lambda: call(["systemctl", "enable", "--quiet", DAEMON]))
    target.step("wait until it is ready", _restart)


def _restart() -> None:
    """The daemon, and a hand and engines that run: all are of the version before, whose folder will be swept."""
    call(["systemctl", "try-restart", "steadytok-hand.service", "steadytok-engine@*.service"])
    call(["systemctl", "reset-failed", DAEMON])  # starts that failed before count no more
    try:
        call(["systemctl", "restart", DAEMON])
    except InstallError as error:
        raise InstallError(f"{error}\n  its last words: journalctl --unit {DAEMON} --lines 20") from error


def main() -> int:
    """Settles; 1 with the reason where it cannot."""
    prefix, folder = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        settle(Target(prefix), folder)
    except InstallError as error:
        say(*f"steadytok: {error}".split("\n"), err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
