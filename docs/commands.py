"""The page of every command, from what `--help` prints."""

from __future__ import annotations

from collections.abc import Iterator

import click

from agent.__main__ import main

HEAD = """# Command reference

Exit status: 0 well, 1 something failed, 2 bad usage or configuration. `steadytok --version` tells the version.

"""


def render_page() -> str:
    """The whole page, as Markdown."""
    return HEAD + "\n".join(_render_command(main, ["steadytok"], None))


def _render_command(command: click.Command, path: list[str], parent: click.Context | None) -> Iterator[str]:
    context = click.Context(command, info_name=path[-1], parent=parent, max_content_width=100, terminal_width=100)
    yield f"## {' '.join(path)}\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            subcommand = command.get_command(context, name)
            if subcommand is not None and not subcommand.hidden:
                yield from _render_command(subcommand, [*path, name], context)
