"""The options of one run: the machine's root, the configuration file and the hand."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


class StartError(Exception):
    """The agent cannot start; the message says why and what to do."""


@dataclass(frozen=True)
class RunOptions:
    """The options that the command line gave to this agent."""

    root: str
    config_path: Path | None
    hand: str | None = None
    """Replaces `remediation.hand` of the configuration."""

    @property
    def config_name(self) -> str:
        """The name of the configuration in messages."""
        return str(self.config_path or "configuration")

    @property
    def is_this_machine(self) -> bool:
        """True where the root is this host's own, and not the recorded files of a machine."""
        return os.path.abspath(self.root) == "/"
