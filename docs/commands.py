"""Renders the page of every command from the help texts."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import click

from agent.__main__ import main

HEAD = """# Command reference

Exit status: 0 success, 1 something failed, 2 bad usage or configuration. `steadytok --version` prints the version.

"""


def render_page() -> str:
    """Returns the whole page as Markdown."""
    return HEAD + "\n".join(_render_command(main, ["steadytok"], None))


def _render_command(command: click.Command, path: list[str], parent: click.Context | None) -> Iterator[str]:
    settings = {"max_content_width": 100, "terminal_width": 100, **command.context_settings}
    context = click.Context(command, info_name=path[-1], parent=parent, **settings)
    # A command caches its help option under the names of the context that asked first, which may have had no parent.
    uncached = copy.copy(command)
    uncached._help_option = None
    yield f"## {' '.join(path)}\n\n```text\n{uncached.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            if subcommand is not None and not subcommand.hidden:
                yield from _render_command(subcommand, [*path, name], context)
