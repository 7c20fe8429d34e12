"""The overview of a running agent for a terminal: as plain lines for scripts, as a rich table for people."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.console.live_table import COLOURS, Row, sparkline
from agent.console.panels import Panel
from agent.console.top_client import STEP, AlertSeen, CollectorSeen, Overview, Shown
from agent.text.printable import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

STANDS_STILL = 10.0  # seconds without a sample after which an agent that answers is said to stand still
MOST_ACTS = 5
# What the audit's words mean, for whoever does not know them.
_WORDS = {
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


def lines(seen: Overview) -> Iterator[str]:
    """Everything as lines of text: what it is, a tab, how it is."""
    for row in rows(seen):
        yield "\t".join(filter(None, (row.label, row.text)))


def rows(seen: Overview) -> Iterator[Row]:
    """What is shown, one thing a row; nothing in it can steer a terminal."""
    for row in _rows(seen):
        yield Row(printable(row.label), printable(row.text), row.colour, row.drawing)


def _rows(seen: Overview) -> Iterator[Row]:
    yield Row("host", f"{seen.host}, steadytok {seen.version}, {_clock(seen.now)}")
    if seen.age > STANDS_STILL:
        yield Row("agent", f"answers, but has read nothing for {_span(seen.age)}", "bold red")
    yield from _alerts(seen.alerts, seen.now)  # first, since a small terminal shows the beginning alone
    for panel, shown in seen.panels:
        yield from _panel(panel, shown)
    yield from _remedies(seen.remedies)
    if seen.audit_fault:
        yield Row("audit", seen.audit_fault, "red")
    yield from _acts(seen.audit, seen.now)
    yield from map(_collector, seen.collectors)


def _panel(panel: Panel, shown: Sequence[Shown]) -> Iterator[Row]:
    title = panel.title.lower()
    drawn = [each for each in shown if any(value is not None for value in each.trail)]
    if not drawn:
        yield Row(title, panel.none, "dim")
    limits = [each.value for each in shown if each.style == "limit" and each.value is not None]
    for each in drawn:
        # The newest step may have come before its reading; that is no gap yet.
        value = each.value if each.value is not None else each.trail[-2]
        text = "no reading" if value is None else f"{value:.{panel.digits}f} {panel.unit}"
        over = value is not None and each.style == "line" and any(value >= limit for limit in limits)
        colour = "bold red" if over else "dim" if each.style != "line" else ""
        drawing = sparkline(each.trail) if each.style == "line" else ""
        yield Row(f"{title}: {each.name}", ", ".join(filter(None, (text, each.beside))), colour, drawing)


def _alerts(alerts: Sequence[AlertSeen], now: float) -> Iterator[Row]:
    if not alerts:
        yield Row("alerts", "none", "green")
    for alert in alerts:
        state = alert.severity if alert.state == "firing" else alert.state
        colour = COLOURS.get(alert.severity, "") if alert.state == "firing" else "dim"
        yield Row(f"alert {alert.name}", f"{state} for {_span(now - alert.since)}: {alert.summary}", colour)


def _remedies(told: Mapping[str, Any]) -> Iterator[Row]:
    word = "observing: nothing is touched" if told["mode"] == "observe" else "enforcing"
    yield Row("remedies", word, "dim" if told["mode"] == "observe" else "")
    stopped = [told["halted"], "the kill-switch file is there" if told["killed"] else ""]
    stopped += [f"paused by {name}" for name in told["pauses"]]
    stopped += [f"all given up: {latch['why']}" for latch in told["latches"]]
    for why in filter(None, stopped):
        yield Row("remedies", why, "yellow")
    for each in told["remedies"]:
        if each["state"] not in ("ready", "disabled") or each["waiting"]:
            says = ", ".join(filter(None, (each["state"], each["why"], *each["waiting"])))
            yield Row(f"remedy {each['name']}", says, "red" if each["state"] == "given up" else "")


def _acts(audit: Sequence[Mapping[str, Any]], now: float) -> Iterator[Row]:
    """The newest acts: what each did, what became of it."""
    acts: dict[int, list[Mapping[str, Any]]] = {}
    for entry in audit:
        if entry["act"]:
            acts.setdefault(entry["act"], []).append(entry)
    for entries in list(acts.values())[: -MOST_ACTS - 1 : -1]:
        yield _act(entries, now)


def _act(entries: Sequence[Mapping[str, Any]], now: float) -> Row:
    first, observed, whats = entries[0], entries[0]["observed"], [entry["what"] for entry in entries]
    plan = next((entry["says"] for entry in entries if entry["what"] == "intended"), "")
    became = [_WORDS[what] for what in whats if what in _WORDS and not (observed and what == "did")]
    says = " → ".join([f"would have: {plan}" if observed and plan else plan or "no plan", *became])
    ill = {"failed", "unknown", "useless", "changed"} & set(whats)
    when = f"{_span(now - first['at_ms'] / 1000)} ago"
    alert = first["labels"].get("alertname", "")
    return Row(f"act of {first['remedy']}", f"{when}, for {alert}: {says}", "red" if ill else "")


def _collector(each: CollectorSeen) -> Row:
    age = "never read" if each.age is None else f"{each.age:.1f} s old"
    takes = "" if each.takes is None else f"takes {each.takes * 1000:.1f} ms"
    costs = "" if each.costs is None else f"{each.costs:.2%} of a core"
    colour = "red" if each.fault == "failing" else "yellow" if each.fault else "dim"
    return Row(f"collector {each.name}", ", ".join(filter(None, (each.fault, age, takes, costs))), colour)


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    return f"{round(whole / 60)} min" if whole < 5400 else f"{whole / 3600:.1f} h"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def table(seen: Overview, notice: str = "") -> RenderableType:
    """The rows as a rich table, with what is wrong with the answer itself above them."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold", ratio=1)
    grid.add_column(no_wrap=True)
    for row in rows(seen):
        grid.add_row(Text(row.label), Text(row.text, style=row.colour), Text(row.drawing))
    above = [Text(printable(notice), style="bold red")] if notice else []
    hint = Text(f"drawings: the last five minutes, {STEP} s each   Ctrl-C ends", style="dim")
    return Group(*above, grid, hint)
