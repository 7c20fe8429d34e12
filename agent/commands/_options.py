"""Options that several commands share, and the way a command fails."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import click

from agent.text.terminal import say

config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file. Default: built-in settings.",
)
root = click.option(
    "--root",
    default="/",
    show_default=True,
    type=click.Path(exists=True, file_okay=False),
    help="The root folder of the machine to read.",
)


def exit_with_errors(messages: Iterable[str], status: int) -> NoReturn:
    """Prints each message on a line of standard error, and exits with the status."""
    for message in messages:
        say(*f"steadytok: {message}".split("\n"), err=True)
    sys.exit(status)
