"""The overview of a running agent for a terminal: as plain lines for scripts, as a rich table for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.console.live_table import COLOURS, Row, draw_sparkline
from agent.console.panels import Panel
from agent.console.top_client import STEP, AlertSummary, CollectorSummary, Overview, PanelLine
from agent.text.printable import escape_line

if TYPE_CHECKING:
    from rich.console import RenderableType

STALLED_AFTER = 10.0  # seconds without a sample after which an agent that answers is said to stand still
MOST_ACTS = 5
# What the audit's words mean, for whoever does not know them.
_OUTCOME_WORDS = {
    "did": "done",
    "useless": "did not help",
    "unknown": "nobody knows what became of it",
    "unjudged": "nobody can say whether it helped",
    "changed": "changed by someone else",
    "restored": "put back",
    "interrupted": "the agent ended meanwhile",
    "refused": "refused by its own plan",
    "failed": "failed",
    "helped": "helped",
}


def format_lines(overview: Overview) -> Iterator[str]:
    """Everything as lines of text: what it is, a tab, how it is."""
    for row in build_rows(overview):
        yield "\t".join(filter(None, (row.label, row.text)))


def build_rows(overview: Overview) -> Iterator[Row]:
    """What is shown, one thing a row; nothing in it can steer a terminal."""
    for row in _build_rows(overview):
        yield Row(escape_line(row.label), escape_line(row.text), row.colour, row.drawing)


def _build_rows(overview: Overview) -> Iterator[Row]:
    yield Row("host", f"{overview.host}, steadytok {overview.version}, {_format_clock(overview.now)}")
    if overview.age > STALLED_AFTER:
        yield Row("agent", f"answers, but has read nothing for {_format_span(overview.age)}", "bold red")
    yield from _build_alert_rows(
        overview.alerts, overview.now
    )  # first, since a small terminal shows the beginning alone
    for panel, panel_lines in overview.panels:
        yield from _build_panel_rows(panel, panel_lines)
    yield from _build_remedy_rows(overview.remedies)
    if overview.audit_fault:
        yield Row("audit", overview.audit_fault, "red")
    yield from _build_act_rows(overview.audit, overview.now)
    yield from map(_build_collector_row, overview.collectors)


def _build_panel_rows(panel: Panel, panel_lines: Sequence[PanelLine]) -> Iterator[Row]:
    title = panel.title.lower()
    drawn_lines = [line for line in panel_lines if any(value is not None for value in line.trail)]
    if not drawn_lines:
        yield Row(title, panel.none, "dim")
    limits = [line.value for line in panel_lines if line.style == "limit" and line.value is not None]
    for line in drawn_lines:
        # The newest step may have come before its reading; that is no gap yet.
        value = line.value if line.value is not None else line.trail[-2]
        text = "no reading" if value is None else f"{value:.{panel.digits}f} {panel.unit}"
        over = value is not None and line.style == "line" and any(value >= limit for limit in limits)
        colour = "bold red" if over else "dim" if line.style != "line" else ""
        drawing = draw_sparkline(line.trail) if line.style == "line" else ""
        yield Row(f"{title}: {line.name}", ", ".join(filter(None, (text, line.note))), colour, drawing)


def _build_alert_rows(alerts: Sequence[AlertSummary], now: float) -> Iterator[Row]:
    if not alerts:
        yield Row("alerts", "none", "green")
    for alert in alerts:
        state = alert.severity if alert.state == "firing" else alert.state
        colour = COLOURS.get(alert.severity, "") if alert.state == "firing" else "dim"
        yield Row(f"alert {alert.name}", f"{state} for {_format_span(now - alert.since)}: {alert.summary}", colour)


def _build_remedy_rows(status: Mapping[str, Any]) -> Iterator[Row]:
    mode = "observing: nothing is touched" if status["mode"] == "observe" else "enforcing"
    yield Row("remedies", mode, "dim" if status["mode"] == "observe" else "")
    reasons = [status["halted"], "the kill-switch file is there" if status["killed"] else ""]
    reasons += [f"paused by {name}" for name in status["pauses"]]
    reasons += [f"all given up: {latch['why']}" for latch in status["latches"]]
    for reason in filter(None, reasons):
        yield Row("remedies", reason, "yellow")
    for remedy in status["remedies"]:
        if remedy["state"] not in ("ready", "disabled") or remedy["waiting"]:
            text = ", ".join(filter(None, (remedy["state"], remedy["why"], *remedy["waiting"])))
            yield Row(f"remedy {remedy['name']}", text, "red" if remedy["state"] == "given up" else "")


def _build_act_rows(audit: Sequence[Mapping[str, Any]], now: float) -> Iterator[Row]:
    """The newest acts: what each did, what became of it."""
    acts: dict[int, list[Mapping[str, Any]]] = {}
    for entry in audit:
        if entry["act"]:
            acts.setdefault(entry["act"], []).append(entry)
    for entries in list(acts.values())[: -MOST_ACTS - 1 : -1]:
        yield _build_act_row(entries, now)


def _build_act_row(entries: Sequence[Mapping[str, Any]], now: float) -> Row:
    first, observed, events = entries[0], entries[0]["observed"], [entry["what"] for entry in entries]
    plan = next((entry["says"] for entry in entries if entry["what"] == "intended"), "")
    outcomes = [
        _OUTCOME_WORDS[event] for event in events if event in _OUTCOME_WORDS and not (observed and event == "did")
    ]
    text = " → ".join([f"would have: {plan}" if observed and plan else plan or "no plan", *outcomes])
    failures = {"failed", "unknown", "useless", "changed"} & set(events)
    age = f"{_format_span(now - first['at_ms'] / 1000)} ago"
    alert = first["labels"].get("alertname", "")
    return Row(f"act of {first['remedy']}", f"{age}, for {alert}: {text}", "red" if failures else "")


def _build_collector_row(collector: CollectorSummary) -> Row:
    age = "never read" if collector.age is None else f"{collector.age:.1f} s old"
    duration = "" if collector.duration is None else f"takes {collector.duration * 1000:.1f} ms"
    cores = "" if collector.cores is None else f"{collector.cores:.2%} of a core"
    colour = "red" if collector.fault == "failing" else "yellow" if collector.fault else "dim"
    return Row(f"collector {collector.name}", ", ".join(filter(None, (collector.fault, age, duration, cores))), colour)


def _format_span(seconds: float) -> str:
    rounded = max(0, round(seconds))
    if rounded < 90:
        return f"{rounded} s"
    return f"{round(rounded / 60)} min" if rounded < 5400 else f"{rounded / 3600:.1f} h"


def _format_clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def build_table(overview: Overview, notice: str = "") -> RenderableType:
    """The rows as a rich table, with what is wrong with the answer itself above them."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_column(no_wrap=True)
    for row in build_rows(overview):
        grid.add_row(Text(row.label), Text(row.text, style=row.colour), Text(row.drawing))
    above = [Text(escape_line(notice), style="bold red")] if notice else []
    hint = Text(f"drawings: the last five minutes, {STEP} s each   Ctrl-C ends", style="dim")
    return Group(*above, grid, hint)
