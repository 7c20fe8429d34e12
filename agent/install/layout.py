"""The paths of all installed files, shared by install and uninstall."""

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
"""Units that may execute nothing but their interpreter."""


class InstalledFile(NamedTuple):
    """One installed file: its name in systemd/, its path on the host, and whether an operator's edits stay."""

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


def build_dropin_path(unit: str, name: str) -> str:
    """Returns the path of a drop-in, a file that adds lines to a unit."""
    return f"{UNITS}/{unit}.d/{name}"


GENERATED = tuple(
    build_dropin_path(unit, name) for unit in CONFINED for name in ("10-interpreter.conf", "20-network.conf")
)
"""Files that are generated for this host."""


def is_our_link(link: Path) -> bool:
    """True if this installer made the link: another one (pipx --global) puts its own at the same path."""
    return link.is_symlink() and os.readlink(link).startswith(f"{OPT}/")


def find_sources() -> Path:
    """Returns the folder `systemd` of this version, in the package or in the checkout."""
    packaged = Path(__file__).parent / "systemd"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "systemd"
