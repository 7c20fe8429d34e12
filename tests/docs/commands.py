"""The commands that the pages tell a person to type."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.docs.pages import PAGES, format_path, list_blocks

# What no test types, with the reason; the fast test still looks at its syntax and its options.
NOT_RUN = {
    r"^sudo |\| sudo ": (
        "changes or reads this machine as root, and needs hardware or a Grafana that a test machine has not"
    ),
    r"^(systemctl|journalctl|systemd-cgtop)\b": "needs a machine that systemd has booted",
    r"^(turbostat|sensors|cpupower|ras-mc-ctl|perf|iostat|fincore|numactl|numastat|lscpu)\b": (
        "another package's program, which only shows what is there"
    ),
    r"^(cat|grep|ls|cd|tr|free|ps|ss|vmstat|sysctl|for) ": (
        "shows the kernel's or a process's own files, of which a test machine has some"
    ),
    r"^make ": "CI itself runs these; that make knows them is looked at",
    r"^curl -sS -m 2 URL": "asks whatever engine the reader has",
    r"^kill -HUP PID": "the agent's own tests send it SIGHUP",
    r"^amtool alert query": "asks the Alertmanager that the reader's amtool is configured for",
    r"^python3 -m venv|^build/try/": "installs from an index or as a service; make does the first, the lab the second",
    r"^steadytok (install|upgrade|uninstall)\b": "changes the host that it is typed on; the lab types it in a machine",
    r"^steadytok engine$": "serves until Ctrl-C; the engine's own tests start it so",
    r"^python tests/collectors/regenerate": "writes what a person has to check",
}


class Command(NamedTuple):
    """One line of a page, and what it is without the words that explain it."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{format_path(self.page)}:{self.line} {self.text[:60]}"

    @property
    def reason(self) -> str | None:
        """Why it is not run, or None where it is."""
        return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, self.text)), None)


def list_commands() -> Iterator[Command]:
    """Every command of every page; README's lists have its explanation two spaces behind it."""
    for page in PAGES:
        for block in list_blocks(page):
            if block.language not in ("sh", ""):
                continue
            for number, line in enumerate(block.text.splitlines(), block.line + 1):
                text = re.sub(r"\s+#\s.*$", "", line).strip()
                text = re.split(r"\s{2,}", text)[0] if block.language == "" else text
                if text and not text.startswith("#"):
                    yield Command(page, number, text)


EVERY = list(list_commands())
