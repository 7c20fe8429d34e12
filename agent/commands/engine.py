"""`steadytok engine`: becomes the reference engine, which imports nothing of ours."""

from __future__ import annotations

import os
import sys

import click


@click.command(
    name="engine", context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Run the bundled reference engine; `steadytok engine --help` is its own help."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "engine", *arguments])
