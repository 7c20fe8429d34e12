"""What goes where: the list that installing and taking away share, and that a package would be made from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

OPT = "/opt/steadytok"
CURRENT = f"{OPT}/current"
COMMAND = "/usr/local/bin/steadytok"
UNITS = "/usr/local/lib/systemd/system"
OPERATOR_UNITS = "/etc/systemd/system"
CONFIG = "/etc/steadytok"
STATE = ("/var/lib/steadytok", "/var/lib/steadytok-eye", "/var/lib/steadytok-engine")
RUNTIME = ("/run/steadytok", "/run/steadytok-hand")
USERS = ("steadytok", "steadytok-eye", "steadytok-engine")

DAEMON = "steadytok.service"
SOCKETS = ("steadytok-eye.socket", "steadytok-look.socket", "steadytok-hand.socket")
CONFINED = (DAEMON, "steadytok-eye@.service")
"""Units whose interpreter is all that they may execute."""


class InstalledFile(NamedTuple):
    """One file of ours: its name in systemd/, its place on the host, and whether an operator's edits are kept."""

    name: str
    path: str
    is_editable: bool = False


INSTALLED_FILES = (
    *(
        InstalledFile(name, f"{UNITS}/{name}")
        for name in (
            DAEMON,
            "steadytok-eye.socket",
            "steadytok-eye@.service",
            "steadytok-look.socket",
            "steadytok-look@.service",
            "steadytok-hand.socket",
            "steadytok-hand.service",
            "steadytok-engine@.service",
        )
    ),
    InstalledFile("sysusers.conf", "/usr/local/lib/sysusers.d/steadytok.conf"),
    InstalledFile("tmpfiles.conf", "/usr/local/lib/tmpfiles.d/steadytok.conf"),
    InstalledFile("udev.rules", "/usr/local/lib/udev/rules.d/60-steadytok.rules"),
    InstalledFile("steadytok.yml", f"{CONFIG}/steadytok.yml", is_editable=True),
    InstalledFile("hand.toml", f"{CONFIG}/hand.toml", is_editable=True),
)


def dropin_path(unit: str, name: str) -> str:
    """The path of a file that adds lines to a unit."""
    return f"{UNITS}/{unit}.d/{name}"


GENERATED = tuple(dropin_path(unit, name) for unit in CONFINED for name in ("10-interpreter.conf", "20-network.conf"))
"""What is written for this host alone."""


def is_our_link(link: Path) -> bool:
    """Whether the command is the link that we made: another installer (pipx --global) puts its own there."""
    return link.is_symlink() and os.readlink(link).startswith(f"{OPT}/")


def find_sources() -> Path:
    """The folder `systemd` of this version: in the package, or in the checkout that runs."""
    packaged = Path(__file__).parent / "systemd"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "systemd"
