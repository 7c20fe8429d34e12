"""Options and messages that install, upgrade and uninstall share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click

from agent.commands import _options
from agent.text.terminal import say

prefix = click.option(
    "--prefix",
    default="/",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write the files below this folder and start nothing: for a package or an image.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Only print the steps.")
source = click.option(
    "--from", "source", metavar="SOURCE", help="The source for pip: a wheel, a folder, steadytok==1.2.3."
)


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the command with the reason if a step fails."""
    from agent.install import InstallError

    os.umask(0o022)  # root's may be strict, but the service's users must be able to read the installed files
    try:
        yield
    except InstallError as error:
        _options.exit_with_errors([str(error)], 1)


def print_heading(sentence: str) -> None:
    """Prints the line above the steps."""
    say(sentence)


def print_next_steps(prefix: Path, is_dry: bool) -> None:
    """Prints what the operator can do next."""
    if not is_dry and prefix == Path("/"):
        say("done; `systemctl status steadytok` shows its state, /etc/steadytok/steadytok.yml is its configuration")
