"""Draws the view: a live table on a terminal, one plain line now and then where there is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

from agent.console.host_view import EngineView, NodeView, View
from agent.text.printable import printable
from agent.text.units import bytes_written

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_EVERY = 10.0  # seconds between plain lines
_STEPS = "▁▂▃▄▅▆▇█"
COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


class Screen(Protocol):
    """Something that shows views."""

    def wants(self) -> bool:
        """Whether it would show a view now; making one costs."""

    def show(self, view: View) -> None:
        """Shows the view in place of the one before."""

    def present(self) -> bool:
        """Whether there is still somebody to show it to."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


def open_screen(stream: TextIO, where: str) -> Screen:
    """The best screen there is for the stream; `where` is the address of the web page."""
    if stream.isatty():
        try:
            return LiveTable(where)
        except ImportError:
            stream.write("For a live table: pip install 'steadytok[tui]'\n")
    return PlainLines(stream)


class PlainLines:
    """A line every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next = 0.0

    def wants(self) -> bool:
        """Every ten seconds."""
        return time.monotonic() >= self._next

    def show(self, view: View) -> None:
        """Writes a line."""
        self._next = time.monotonic() + PLAIN_EVERY
        try:
            self._stream.write(plain(view) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise  # whoever read this has left, and with `run | head` wants the end
        except (OSError, UnicodeEncodeError):
            return  # a full disk, or a terminal that has gone, costs a line and not the agent

    def present(self) -> bool:
        """Always: lines are for whoever reads them later."""
        return True

    def close(self) -> None:
        """Nothing to put back."""


def plain(view: View) -> str:
    """The view in one line."""
    return printable(" | ".join(f"{row.label} {row.text}" for row in rows(view)))


class Row(NamedTuple):
    """One line of the table: what, how it is, its colour, and a drawing of it."""

    label: str
    text: str
    colour: str = ""
    drawing: str = ""


def rows(view: View) -> Iterator[Row]:
    """What is shown, one thing a row."""
    for engine in view.engines:
        yield Row(f"engine {engine.name}", _engine(engine), _engine_colour(engine), sparkline(engine.trail))
    if view.starting:
        yield Row("engine canary", "starting", "dim")
    elif not view.engines:
        yield Row("engine", "none: name one under engines: in the configuration", "dim")
    yield Row("hottest", f"{view.hottest[1]:.0f} °C {view.hottest[0]}" if view.hottest else "no sensor here")
    yield Row("frequency", _frequency(view))
    yield Row("remote", f"{view.remote:.1%} of allocations" if view.remote is not None else "no data yet")
    for node in view.nodes:
        colour = "red" if node.available < 0.04 * node.total else ""
        yield Row(f"node {node.node}", _node(node), colour, bar(1 - node.available / node.total if node.total else 0))
    if view.canary_memory is not None:
        share = f"{view.canary_cpu:.1%} of a core, " if view.canary_cpu is not None else ""
        yield Row("canary", f"takes {share}{bytes_written(view.canary_memory)}", "dim")
    for says in view.pacing:
        yield Row("pacing", says, "yellow")
    if view.failing:
        yield Row("failing", ", ".join(view.failing), "yellow")
    yield Row("alerts", _alerts(view), "" if view.alerts else "green")


def _engine(engine: EngineView) -> str:
    if not engine.up:
        return "DOWN"
    speed = f"{engine.speed:.1f} tokens/s" if engine.speed is not None else "idle"
    if engine.baseline is not None:
        return f"{speed}, baseline {engine.baseline:.1f}"
    return f"{speed}, baseline {engine.learnt:.0%} learnt"


def _engine_colour(engine: EngineView) -> str:
    if not engine.up:
        return "bold red"
    if engine.speed is not None and engine.baseline is not None and engine.speed < 0.8 * engine.baseline:
        return "yellow"
    return "green"


def _frequency(view: View) -> str:
    if view.frequency is None:
        return "no cpufreq here"
    most = f" of {view.frequency_max / 1e9:.2f}" if view.frequency_max else ""
    return f"{view.frequency / 1e9:.2f}{most} GHz mean"


def _node(node: NodeView) -> str:
    return f"{bytes_written(node.available)} available of {bytes_written(node.total)}"


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar of ten characters."""
    full = round(min(max(share, 0.0), 1.0) * 10)
    return "█" * full + "░" * (10 - full)


def sparkline(trail: Sequence[float | None]) -> str:
    """Values over time as one character each, from nothing to the largest; a gap where there was none."""
    most = max((value for value in trail if value is not None), default=0.0)
    if most <= 0:
        return ""
    return "".join(" " if value is None else _STEPS[min(7, int(value / most * 7.999))] for value in trail)


def _alerts(view: View) -> str:
    return ", ".join(alert.name for alert in view.alerts) or "none"


class LiveTable:
    """A table that is drawn again at each view; needs rich (`steadytok[tui]`)."""

    def __init__(self, where: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._where = where
        self._console: Console = Console(file=sys.stdout)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def wants(self) -> bool:
        """Always."""
        return True

    def show(self, view: View) -> None:
        """Draws the view."""
        with contextlib.suppress(OSError):  # the terminal has gone; `present` says so
            self._live.update(table(view, self._where), refresh=True)

    def present(self) -> bool:
        """Whether the terminal is still there."""
        return self._console.file.isatty()

    def close(self) -> None:
        """Leaves the last table standing."""
        with contextlib.suppress(OSError):  # the terminal has gone
            self._live.stop()


def table(view: View, where: str) -> RenderableType:
    """The view as a rich table, with the alerts' own sentences below and where to look next."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, title=f"steadytok: {view.series} series", title_justify="left", show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(no_wrap=True)
    for row in rows(view):
        grid.add_row(Text(row.label), Text(printable(row.text), style=row.colour), Text(row.drawing, style=row.colour))
    lines = []
    for alert in view.alerts:
        severity = dict(alert.labels).get("severity", "")
        summary = dict(alert.annotations).get("summary", "")
        lines.append(Text(printable(f"{severity:>8}  {alert.name}: {summary}"), style=COLOURS.get(severity, "")))
    hint = Text(f"{where}   {where}metrics   steadytok check   Ctrl-C ends", style="dim")
    return Group(grid, *lines, hint)
