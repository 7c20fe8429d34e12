"""Draws rows: a live table on a terminal, one plain line now and then without a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, TextIO

from agent.console.rows import Row
from agent.text.printable import escape_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_INTERVAL = 10.0  # seconds between plain lines


class Screen(Protocol):
    """Shows one set of rows at a time."""

    def is_due(self) -> bool:
        """True when the screen would show rows now; building them costs."""

    def show(self, rows: Iterable[Row]) -> None:
        """Shows the rows; they replace the previous ones."""

    def is_open(self) -> bool:
        """True while the terminal is open."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


def open_screen(stream: TextIO, url: str) -> Screen:
    """Opens the best screen that the stream allows; `url` is the address of the web page."""
    if stream.isatty():
        try:
            return LiveTable(url)
        except ImportError:
            stream.write("For a live table: pip install 'steadytok[tui]'\n")
    return PlainLines(stream)


class PlainLines:
    """Writes one line every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_due = 0.0

    def is_due(self) -> bool:
        """True every ten seconds."""
        return time.monotonic() >= self._next_due

    def show(self, rows: Iterable[Row]) -> None:
        """Writes the rows as one line."""
        self._next_due = time.monotonic() + PLAIN_INTERVAL
        try:
            self._stream.write(format_plain(rows) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise  # the reader has left: `run | head` wants the end
        except (OSError, UnicodeEncodeError):
            return  # a full disk or a closed terminal costs a line, not the agent

    def is_open(self) -> bool:
        """True always: lines are for a later reader."""
        return True

    def close(self) -> None:
        """Does nothing: no terminal was changed."""


def format_plain(rows: Iterable[Row]) -> str:
    """Returns the rows of `run` in one line."""
    return " | ".join(f"{row.label} {row.text}" for row in rows if not row.is_detail)


class LiveTable:
    """Redraws a table for each set of rows; needs rich (`steadytok[tui]`)."""

    def __init__(self, url: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._hint = f"{url}   {url}metrics   steadytok check   Ctrl-C ends"
        self._console: Console = Console(file=sys.stdout)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def is_due(self) -> bool:
        """True always."""
        return True

    def show(self, rows: Iterable[Row]) -> None:
        """Draws the rows of `run`."""
        main_rows = [row for row in rows if not row.is_detail]
        with contextlib.suppress(OSError):  # the terminal was closed; `is_open` reports it
            self._live.update(build_table(main_rows, self._hint), refresh=True)

    def is_open(self) -> bool:
        """True while the terminal is open."""
        return self._console.file.isatty()

    def close(self) -> None:
        """Leaves the last table on the terminal."""
        with contextlib.suppress(OSError):  # the terminal was closed
            self._live.stop()


def build_table(rows: Iterable[Row], hint: str, notice: str = "") -> RenderableType:
    """Builds a rich table of the rows, a notice about the feed above them, and a hint below."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text  # not str, whose square brackets rich reads as markup

    grid = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_column(no_wrap=True)
    for row in rows:
        grid.add_row(Text(row.label), Text(row.text, style=row.colour), Text(row.drawing, style=row.colour))
    above = [Text(escape_line(notice), style="bold red")] if notice else []
    return Group(*above, grid, Text(hint, style="dim"))
