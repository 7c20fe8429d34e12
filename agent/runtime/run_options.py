"""Where an agent runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


class StartError(Exception):
    """The agent cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class RunOptions:
    """Where this agent runs: the machine's root, the configuration file and the hand it was told of."""

    root: str
    config_path: Path | None
    hand: str | None = None
    """What the command line says in place of `remediation.hand`."""

    @property
    def config_name(self) -> str:
        """How messages call the configuration."""
        return str(self.config_path or "configuration")

    @property
    def is_this_machine(self) -> bool:
        """Whether the machine is this one and not a picture of one."""
        return os.path.abspath(self.root) == "/"
