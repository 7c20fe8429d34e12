"""Draws the view: a live table on a terminal, one plain line now and then where there is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TextIO

from agent.console.host_view import EngineView, HostView, NodeView
from agent.text.printable import escape_line
from agent.text.units import format_bytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PLAIN_INTERVAL = 10.0  # seconds between plain lines
_BLOCKS = "▁▂▃▄▅▆▇█"
COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


class Screen(Protocol):
    """Something that shows views."""

    def is_due(self) -> bool:
        """Whether it would show a view now; making one costs."""

    def show(self, view: HostView) -> None:
        """Shows the view in place of the one before."""

    def is_open(self) -> bool:
        """Whether there is still somebody to show it to."""

    def close(self) -> None:
        """Leaves the terminal as it was."""


def open_screen(stream: TextIO, url: str) -> Screen:
    """The best screen there is for the stream; `where` is the address of the web page."""
    if stream.isatty():
        try:
            return LiveTable(url)
        except ImportError:
            stream.write("For a live table: pip install 'steadytok[tui]'\n")
    return PlainLines(stream)


class PlainLines:
    """A line every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_due = 0.0

    def is_due(self) -> bool:
        """Every ten seconds."""
        return time.monotonic() >= self._next_due

    def show(self, view: HostView) -> None:
        """Writes a line."""
        self._next_due = time.monotonic() + PLAIN_INTERVAL
        try:
            self._stream.write(format_plain(view) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise  # whoever read this has left, and with `run | head` wants the end
        except (OSError, UnicodeEncodeError):
            return  # a full disk, or a terminal that has gone, costs a line and not the agent

    def is_open(self) -> bool:
        """Always: lines are for whoever reads them later."""
        return True

    def close(self) -> None:
        """Nothing to put back."""


def format_plain(view: HostView) -> str:
    """The view in one line."""
    return escape_line(" | ".join(f"{row.label} {row.text}" for row in build_rows(view)))


class Row(NamedTuple):
    """One line of the table: what, how it is, its colour, and a drawing of it."""

    label: str
    text: str
    colour: str = ""
    drawing: str = ""


def build_rows(view: HostView) -> Iterator[Row]:
    """What is shown, one thing a row."""
    for engine in view.engines:
        yield Row(
            f"engine {engine.name}",
            _describe_engine(engine),
            _choose_engine_colour(engine),
            draw_sparkline(engine.trail),
        )
    if view.canary_starting:
        yield Row("engine canary", "starting", "dim")
    elif not view.engines:
        yield Row("engine", "none: name one under engines: in the configuration", "dim")
    yield Row("hottest", f"{view.hottest[1]:.0f} °C {view.hottest[0]}" if view.hottest else "no sensor here")
    yield Row("frequency", _describe_frequency(view))
    yield Row("remote", f"{view.remote:.1%} of allocations" if view.remote is not None else "no data yet")
    for node in view.nodes:
        colour = "red" if node.available < 0.04 * node.total else ""
        yield Row(
            f"node {node.node}",
            _describe_node(node),
            colour,
            draw_bar(1 - node.available / node.total if node.total else 0),
        )
    if view.canary_memory is not None:
        share = f"{view.canary_cpu:.1%} of a core, " if view.canary_cpu is not None else ""
        yield Row("canary", f"takes {share}{format_bytes(view.canary_memory)}", "dim")
    for sentence in view.pacing:
        yield Row("pacing", sentence, "yellow")
    if view.failing:
        yield Row("failing", ", ".join(view.failing), "yellow")
    yield Row("alerts", _list_alerts(view), "" if view.alerts else "green")


def _describe_engine(engine: EngineView) -> str:
    if not engine.up:
        return "DOWN"
    speed = f"{engine.speed:.1f} tokens/s" if engine.speed is not None else "idle"
    if engine.baseline is not None:
        return f"{speed}, baseline {engine.baseline:.1f}"
    return f"{speed}, baseline {engine.baseline_progress:.0%} learnt"


def _choose_engine_colour(engine: EngineView) -> str:
    if not engine.up:
        return "bold red"
    if engine.speed is not None and engine.baseline is not None and engine.speed < 0.8 * engine.baseline:
        return "yellow"
    return "green"


def _describe_frequency(view: HostView) -> str:
    if view.frequency is None:
        return "no cpufreq here"
    highest = f" of {view.frequency_max / 1e9:.2f}" if view.frequency_max else ""
    return f"{view.frequency / 1e9:.2f}{highest} GHz mean"


def _describe_node(node: NodeView) -> str:
    return f"{format_bytes(node.available)} available of {format_bytes(node.total)}"


def draw_bar(share: float) -> str:
    """A share from 0 to 1 as a bar of ten characters."""
    full = round(min(max(share, 0.0), 1.0) * 10)
    return "█" * full + "░" * (10 - full)


def draw_sparkline(trail: Sequence[float | None]) -> str:
    """Values over time as one character each, from nothing to the largest; a gap where there was none."""
    highest = max((value for value in trail if value is not None), default=0.0)
    if highest <= 0:
        return ""
    return "".join(" " if value is None else _BLOCKS[min(7, int(value / highest * 7.999))] for value in trail)


def _list_alerts(view: HostView) -> str:
    return ", ".join(alert.name for alert in view.alerts) or "none"


class LiveTable:
    """A table that is drawn again at each view; needs rich (`steadytok[tui]`)."""

    def __init__(self, url: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._url = url
        self._console: Console = Console(file=sys.stdout)
        self._live = Live(console=self._console, auto_refresh=False, transient=False)
        self._live.start()

    def is_due(self) -> bool:
        """Always."""
        return True

    def show(self, view: HostView) -> None:
        """Draws the view."""
        with contextlib.suppress(OSError):  # the terminal has gone; `present` says so
            self._live.update(build_table(view, self._url), refresh=True)

    def is_open(self) -> bool:
        """Whether the terminal is still there."""
        return self._console.file.isatty()

    def close(self) -> None:
        """Leaves the last table standing."""
        with contextlib.suppress(OSError):  # the terminal has gone
            self._live.stop()


def build_table(view: HostView, url: str) -> RenderableType:
    """The view as a rich table, with the alerts' own sentences below and where to look next."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, title=f"steadytok: {view.series} series", title_justify="left", show_header=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(no_wrap=True)
    for row in build_rows(view):
        grid.add_row(
            Text(row.label), Text(escape_line(row.text), style=row.colour), Text(row.drawing, style=row.colour)
        )
    lines = []
    for alert in view.alerts:
        severity = dict(alert.labels).get("severity", "")
        summary = dict(alert.annotations).get("summary", "")
        lines.append(Text(escape_line(f"{severity:>8}  {alert.name}: {summary}"), style=COLOURS.get(severity, "")))
    hint = Text(f"{url}   {url}metrics   steadytok check   Ctrl-C ends", style="dim")
    return Group(grid, *lines, hint)
