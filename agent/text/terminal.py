"""
What commands print: whatever others wrote (labels, names of processes, answers of servers) does nothing to a terminal.

Only here is anything printed; `tests/test_house.py` holds that.
"""

from __future__ import annotations

import sys

import click

from agent.text.printable import escape_line, escape_lines


def say(*lines: str, err: bool = False, colour: str | None = None, end: str = "\n") -> None:
    """Lines for people: each stays one, and nothing in it controls, also where a pipe leads to the terminal."""
    for line in lines:
        text = escape_line(line)
        click.echo((click.style(text, fg=colour) if colour else text) + end, err=err, nl=False)


def write(text: str) -> None:
    """A text in a form for programs: as it is for them, and harmless on a terminal."""
    sys.stdout.write(escape_lines(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
