"""
Installs steadytok as a systemd service, from the environment that runs this code, and removes it again.
It works through pip, systemctl and files, and never talks to the running agent.

There are two stages. The first (environment.py) makes a venv in /opt/steadytok, one folder for each version, with
`current` as a link to the one in use. The second (settle.py) does the rest with the new version's own code, since the
old version starts an upgrade. With a prefix the files go below that folder and nothing is started, as the build of a
package needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.text.terminal import say


class InstallError(Exception):
    """The installation cannot start or go on; the message says what failed, why, and what to do."""


@dataclass(frozen=True)
class InstallTarget:
    """The root folder of the host to install on, and whether this is a dry run, which only prints its steps."""

    prefix: Path = Path("/")
    is_dry: bool = False

    @property
    def is_live(self) -> bool:
        """True on this machine, where users are made and units are started."""
        return self.prefix == Path("/")

    def resolve(self, path: str) -> Path:
        """Returns where an absolute path of the host is."""
        return self.prefix / path.lstrip("/")

    def run_step(self, sentence: str, action: Callable[[], object]) -> None:
        """Prints a step, and runs it unless this is a dry run. Turns an OSError into an InstallError."""
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
    return "; free some space and run it again: finished steps are not repeated" if error.errno == 28 else ""
