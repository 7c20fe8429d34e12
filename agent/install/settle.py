"""
The second stage, in the new version's own code: installs files, makes users and starts units.

The first stage runs `python -m agent.install.settle PREFIX FOLDER` in the venv that it has made.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from agent.install import InstallError, InstallTarget, environment
from agent.install.layout import (
    COMMAND,
    CONFIG,
    CURRENT,
    DAEMON,
    INSTALLED_FILES,
    SOCKETS,
    InstalledFile,
    build_dropin_path,
    find_sources,
    is_our_link,
)
from agent.install.sandbox import SandboxLines
from agent.install.subprocesses import run_program
from agent.storage.atomic_file import write_atomically
from agent.text.terminal import say

_GENERATED_HEADER = (
    "# Made by `steadytok install` for this host and its configuration; run it again rather than edit this.\n"
)


def settle(target: InstallTarget, folder: Path) -> None:
    """Installs everything but the venv. If a step fails, restores the previous version and raises InstallError."""
    previous = environment.find_current(target)
    # First of all, so that an unusable configuration changes nothing.
    sandbox = None if target.is_dry else _query_sandbox(target, folder)
    try:
        _install_files(target, folder, sandbox)
        if target.is_live:
            _register_units(target)
            _start_units(target)
    except InstallError:
        if target.is_live and previous is not None and previous != folder:
            _roll_back(target, previous)
        raise
    if target.is_live:
        target.run_step("remove old versions", lambda: environment.remove_unused(target, folder))


def _roll_back(target: InstallTarget, previous: Path) -> None:
    """Restores the previous version by its own code: units and venv of two versions were never tested together."""
    target.run_step(f"use {previous} again", lambda: environment.switch_current(target, previous))
    try:
        run_program(
            [previous / "bin/python", "-I", "-m", "agent.install.settle", target.prefix, previous], shows_output=True
        )
    except InstallError as error:
        say(*f"steadytok: and {previous} could not be restored: {error}".split("\n"), err=True)


def _install_files(target: InstallTarget, folder: Path, sandbox: SandboxLines | None) -> None:
    for file in INSTALLED_FILES:
        _install_file(target, file)
    _write_sandbox(target, sandbox)
    target.run_step(f"use {folder} as {CURRENT}", lambda: environment.switch_current(target, folder))
    target.run_step(f"make {COMMAND} a link to it", lambda: _link_command(target))


def _install_file(target: InstallTarget, file: InstalledFile) -> None:
    path = target.resolve(file.path)
    text = (find_sources() / file.name).read_text(encoding="utf-8")
    existing = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    if existing == text:
        return
    if existing is not None and file.is_editable:
        say(f"  keep {path}, which has been edited")
        return
    target.run_step(f"write {path}", lambda: _write_file(path, text))


def _write_file(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    path.chmod(0o644)


def _query_sandbox(target: InstallTarget, folder: Path) -> SandboxLines:
    """Returns the sandbox lines that the new venv computes for the installed configuration, or for the shipped one."""
    # Below a prefix there may be no configuration yet.
    installed_config = target.resolve(f"{CONFIG}/steadytok.yml")
    config = installed_config if installed_config.is_file() else find_sources() / "steadytok.yml"
    output = run_program([folder / "bin/python", "-I", "-m", "agent.install.sandbox", config])
    return msgspec.json.decode(output, type=SandboxLines)


def _write_sandbox(target: InstallTarget, sandbox: SandboxLines | None) -> None:
    if sandbox is None:
        return target.run_step(
            "write which files the service may execute on this host, and which addresses it may reach", lambda: None
        )
    for sentence in sandbox.notes:
        say(f"  note: {sentence}")
    execute = "".join(f"ExecPaths={path}\n" for path in sandbox.execute)
    execute += "".join(f"NoExecPaths=-{path}\n" for path in sandbox.excluded)
    for unit, network_lines in ((DAEMON, sandbox.agent), ("steadytok-eye@.service", sandbox.eye)):
        network = "".join(f"{line}\n" for line in network_lines)
        for name, lines in (("10-interpreter.conf", execute), ("20-network.conf", network)):
            _write_dropin(target, target.resolve(build_dropin_path(unit, name)), lines)
    return None


def _write_dropin(target: InstallTarget, path: Path, lines: str) -> None:
    text = f"{_GENERATED_HEADER}[Service]\n{lines}"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        target.run_step(f"write {path}", lambda: _write_file(path, text))


def _link_command(target: InstallTarget) -> None:
    link = target.resolve(COMMAND)
    if (link.exists() or link.is_symlink()) and not is_our_link(link):
        raise InstallError(f"{link} belongs to another installer: move it away")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(f"{CURRENT}/bin/steadytok")


def _register_units(target: InstallTarget) -> None:
    target.run_step("make the users", lambda: run_program(["systemd-sysusers", "steadytok.conf"]))
    # Some paths in tmpfiles.d do not exist on every host (no RAPL, no DMI): systemd-tmpfiles does not fail on them.
    target.run_step(
        "make /run/steadytok, and give the eye its read rights",
        lambda: run_program(["systemd-tmpfiles", "--create", "steadytok.conf"]),
    )
    target.run_step("give the eye access to devices", _trigger_udev)
    target.run_step("reload the units", lambda: run_program(["systemctl", "daemon-reload"]))


def _trigger_udev() -> None:
    if not Path("/run/udev/control").exists():
        return  # a host without udevd: the operator manages the devices
    run_program(["udevadm", "control", "--reload"])
    run_program(["udevadm", "trigger", "--action=change", "--subsystem-match=ipmi", "--subsystem-match=misc"])


def _start_units(target: InstallTarget) -> None:
    target.run_step("start the sockets", lambda: run_program(["systemctl", "enable", "--now", "--quiet", *SOCKETS]))
    target.run_step("start the service", lambda: run_program(["systemctl", "enable", "--quiet", DAEMON]))
    target.run_step("wait until it is ready", _restart_units)


def _restart_units() -> None:
    """Restarts the daemon and all running parts of the previous version, whose folder is removed next."""
    run_program(["systemctl", "try-restart", "steadytok-hand.service"])
    run_program(["systemctl", "reset-failed", DAEMON])  # earlier failed starts no longer count
    try:
        run_program(["systemctl", "restart", DAEMON])
    except InstallError as error:
        raise InstallError(f"{error}\n  see the service's log: journalctl --unit {DAEMON} --lines 20") from error
    # After the daemon, which makes the token that systemd gives them, when an older version has made none.
    run_program(["systemctl", "try-restart", "steadytok-engine@*.service"])


def main() -> int:
    """Runs the stage; returns 1, after printing the reason, if it fails."""
    prefix, folder = Path(sys.argv[1]), Path(sys.argv[2])
    try:
        settle(InstallTarget(prefix), folder)
    except InstallError as error:
        say(*f"steadytok: {error}".split("\n"), err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
