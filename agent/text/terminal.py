"""
Prints the output of commands; foreign text in it (labels, process names, answers of servers) is escaped.

No other file prints; `tests/test_doors.py` enforces this.
"""

from __future__ import annotations

import sys

import click

from agent.text.printable import escape_line, escape_lines


def say(*lines: str, err: bool = False, colour: str | None = None, end: str = "\n") -> None:
    """Prints lines for people. Each stays one line and is escaped, also in a pipe, which may end at a terminal."""
    for line in lines:
        text = escape_line(line)
        click.echo((click.style(text, fg=colour) if colour else text) + end, err=err, nl=False)


def write(text: str) -> None:
    """
    Prints text for programs. All but line ends and tabs is escaped, also in a pipe, which may end at a terminal.

    JSON escapes all but the DEL by itself, and takes only this form of it.
    """
    sys.stdout.write(escape_lines(text.replace("\x7f", r"\u007f")))
    sys.stdout.flush()
