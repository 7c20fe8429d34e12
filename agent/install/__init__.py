"""
Installs steadytok as a service of systemd, from whatever environment it was fetched into, and takes it away again.

Two stages. The environment (environment.py): a venv of its own in /opt/steadytok, a folder for each version, `current`
pointing at the one in use. The rest (settle.py): carried out by the new version's own code, since an upgrade is started
by the old one. With a prefix the same files go below that folder and nothing of this machine is started, which is what
the build of a package needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.text.terminal import say


class InstallError(Exception):
    """It cannot be installed, or no further; the message says what, why, and what to do."""


@dataclass(frozen=True)
class InstallTarget:
    """Where the host's root is, and whether anything is to be done or only told."""

    prefix: Path = Path("/")
    is_dry: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it is this machine, with users to be made and units to be started."""
        return self.prefix == Path("/")

    def resolve(self, path: str) -> Path:
        """The place of an absolute path of the host."""
        return self.prefix / path.lstrip("/")

    def run_step(self, sentence: str, action: Callable[[], object]) -> None:
        """Tells a step, and takes it unless this is a rehearsal. What the system refuses becomes an InstallError."""
        say(f"  would {sentence}" if self.is_dry else f"  {sentence}")
        if self.is_dry:
            return
        try:
            action()
        except OSError as error:
            raise InstallError(
                f"cannot {sentence}: {error.filename or ''}: {error.strerror}{_describe_remedy(error)}"
            ) from error


def _describe_remedy(error: OSError) -> str:
    return "; make room and run it again, what is done is not done twice" if error.errno == 28 else ""
