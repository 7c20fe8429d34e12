"""Lists the commands in the code blocks of the pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.docs.pages import PAGES, format_path, list_blocks

# Commands that no test runs, with the reason; the fast test still checks their syntax and options.
NOT_RUN = {
    r"^sudo |\| sudo ": (
        "changes or reads this machine as root, and needs hardware or a Grafana that a test machine lacks"
    ),
    r"^(systemctl|journalctl|systemd-cgtop)\b": "needs a machine that systemd has booted",
    r"^(turbostat|sensors|cpupower|ras-mc-ctl|perf|iostat|fincore|numactl|numastat|lscpu)\b": (
        "another package's program, which changes nothing"
    ),
    r"^(cat|grep|ls|cd|tr|free|ps|ss|vmstat|sysctl|for) ": (
        "shows files of the kernel or of a process, and a test machine has only some of them"
    ),
    r"^(docker|kubectl) ": "needs a container engine or a cluster, and a test machine has neither",
    r"^make ": "CI itself runs these; a test checks that make has the target",
    r"^curl -sS -m 2 URL": "needs an engine of the reader",
    r"^kill -HUP PID": "the agent's own tests send it SIGHUP",
    r"^amtool alert query": "needs the Alertmanager of the reader's amtool configuration",
    r"^python3 -m venv|^build/try/": "installs from an index or as a service; make does the first, the lab the second",
    r"^steadytok engine$": "serves until Ctrl-C; the engine's tests start it the same way",
    r"^python tests/collectors/regenerate": "writes files that a person has to review",
}


class Command(NamedTuple):
    """One command of a page, without its explanation."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{format_path(self.page)}:{self.line} {self.text[:60]}"

    @property
    def reason(self) -> str | None:
        """The reason why no test runs the command, or None when a test runs it."""
        return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, self.text)), None)


def list_commands() -> Iterator[Command]:
    """Yields every command of every page; in README's lists an explanation follows after two spaces."""
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
