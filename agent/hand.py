"""Which hand the agent has: the system's, one at a path, or its own where it runs as root (`hand: direct`)."""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from agent.remediation.hand import SOCKET
from agent.runtime.child_process import ChildProcess


class HandProcess:
    """The way to the hand; a process of ours only where it is `direct`."""

    def __init__(self, setting: str, folder: Path) -> None:
        self._direct = setting == "direct"
        own_socket = str(folder / "hand.sock")
        self.path = {"socket": SOCKET, "direct": own_socket}.get(setting, setting)
        self._log = structlog.get_logger()
        path_options = ("--socket", own_socket, "--state", str(folder / "hand"))
        arguments = ("hand", "--direct", *path_options, "--until-stdin-closes")
        self._child = ChildProcess("hand", arguments, on_line=self._log_line, on_end=lambda: None)

    def _log_line(self, line: bytes) -> None:
        self._log.info("hand", line=line.decode("utf-8", "replace").strip())

    def start(self) -> None:
        """Starts our own, where it is to be ours."""
        if not self._direct:
            return
        if os.geteuid() != 0:
            self._log.warning("remediation.hand: direct needs root; what needs the hand will be refused")
            return
        self._child.start()

    async def close(self) -> None:
        """Ends our own, which puts back what it holds."""
        if self._child.is_started:
            await self._child.close()
