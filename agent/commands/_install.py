"""What install, upgrade and uninstall share."""

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
    help="Put the files below this folder and start nothing: for a package or an image.",
)
dry_run = click.option("--dry-run", is_flag=True, help="Only say what would be done.")
source = click.option("--from", "what", metavar="WHAT", help="What pip installs: a wheel, a folder, steadytok==1.2.3.")


@contextlib.contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the command with the reason where a step cannot be taken."""
    from agent.install import InstallError

    os.umask(0o022)  # whatever root's is: the service's users must be able to read what is installed
    try:
        yield
    except InstallError as error:
        _options.die([str(error)], 1)


def print_heading(sentence: str) -> None:
    """The line above the steps."""
    say(sentence)


def print_next_steps(prefix: Path, is_dry: bool) -> None:
    """What comes next."""
    if not is_dry and prefix == Path("/"):
        say("done; `systemctl status steadytok` says how it is, /etc/steadytok/steadytok.yml is its configuration")
