"""The rows that `run` and `top` show of an overview: label, text, colour and drawing, one subject a row."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from agent.console.overview import AlertSummary, CollectorSummary, Overview, PanelLine
from agent.console.panels import Panel
from agent.text.event_words import describe_event
from agent.text.printable import escape_line
from agent.text.sparkline import draw_sparkline
from agent.text.units import format_bytes, format_span

STALLED_AFTER = 10.0  # seconds without a sample after which the rows report a stalled agent
MAX_ACTS = 5
SLOW_SHARE = 0.8  # of its baseline, below which an engine is slow
FULL_PERCENT = 96.0  # of a node's memory
_SEVERITY_COLOURS = {"critical": "bold red", "warning": "yellow", "info": "cyan"}
# The events that are an outcome of an act
_OUTCOMES = frozenset(
    {"did", "useless", "unknown", "unjudged", "changed", "restored", "interrupted", "refused", "failed", "helped"}
)


class Row(NamedTuple):
    """One line of the table."""

    label: str
    text: str
    colour: str = ""
    drawing: str = ""
    is_detail: bool = False
    """True for a row that `top` shows and `run` leaves out."""


def format_lines(overview: Overview) -> Iterator[str]:
    """Returns every row as a line for scripts: label, tab, text."""
    for row in build_rows(overview):
        yield "\t".join(filter(None, (row.label, row.text)))


def build_rows(overview: Overview) -> Iterator[Row]:
    """Builds the rows of an overview; nothing in their texts can control a terminal."""
    for row in _build_rows(overview):
        yield row._replace(label=escape_line(row.label), text=escape_line(row.text))


def _build_rows(overview: Overview) -> Iterator[Row]:
    series = "" if overview.series is None else f", {overview.series:,} series"
    yield Row("host", f"{overview.host}, steadytok {overview.version}, {_format_clock(overview.now)}{series}")
    if overview.age > STALLED_AFTER:
        yield Row("agent", f"stalled: no samples for {format_span(overview.age)}", "bold red")
    yield from _build_alert_rows(overview.alerts, overview.now)  # first: a small terminal shows only the beginning
    yield from _build_engine_rows(overview)
    for panel, panel_lines in overview.panels:
        yield from _build_panel_rows(panel, panel_lines)
    yield from _build_canary_rows(overview)
    for sentence in overview.pacing:
        yield Row("pacing", sentence, "yellow")
    failing = [collector.name for collector in overview.collectors if collector.fault == "failing"]
    if failing:
        yield Row("failing", ", ".join(failing), "yellow")
    if overview.remedies is not None:
        yield from _build_remedy_rows(overview.remedies)
    if overview.audit_fault:
        yield Row("audit", overview.audit_fault, "red")
    yield from _build_act_rows(overview.audit, overview.now)
    yield from map(_build_collector_row, overview.collectors)


def _build_engine_rows(overview: Overview) -> Iterator[Row]:
    """Builds a row for each engine whose state the panel of speeds does not show."""
    lines = [line for panel, panel_lines in overview.panels if panel.id == "speed" for line in panel_lines]
    generating = {line.name for line in lines if line.style == "line" and _newest_value(line) is not None}
    if overview.canary_starting:
        yield Row("engine canary", "starting", "dim")
    for engine in overview.engines:
        label = f"engine {engine.name}"
        if not engine.up:
            yield Row(label, "DOWN", "bold red")
        elif engine.answer != "metrics":
            yield Row(label, f"no metrics ({engine.answer}): steadytok check says what to do", "yellow")
        elif engine.learnt is not None and engine.learnt < 1:
            state = "" if engine.name in generating else "idle, "
            yield Row(label, f"{state}baseline {engine.learnt:.0%} learnt", "dim")
        elif engine.name not in generating:
            yield Row(label, "idle", "dim")


def _build_panel_rows(panel: Panel, panel_lines: Sequence[PanelLine]) -> Iterator[Row]:
    title = panel.title.lower()
    drawn_lines = [line for line in panel_lines if any(value is not None for value in line.trail)]
    if not drawn_lines:
        yield Row(title, panel.none, "dim")
    for line in drawn_lines:
        value = _newest_value(line)
        text = "no reading" if value is None else f"{value:.{panel.digits}f} {panel.unit}"
        yield Row(
            f"{title}: {line.name}",
            ", ".join(filter(None, (text, line.note))),
            _choose_line_colour(panel, line, value, panel_lines),
            _draw_trail(line),
            is_detail=line.style != "line" and not line.owner,
        )


def _newest_value(line: PanelLine) -> float | None:
    """Returns the newest value, or the one before: the newest step may be earlier than its reading."""
    return line.value if line.value is not None else line.trail[-2]


def _choose_line_colour(panel: Panel, line: PanelLine, value: float | None, panel_lines: Sequence[PanelLine]) -> str:
    if line.style != "line":
        return "dim"
    if value is None:
        return ""
    limits = [other.value for other in panel_lines if other.style == "limit" and other.value is not None]
    if any(value >= limit for limit in limits):
        return "bold red"
    if panel.id == "memory" and value > FULL_PERCENT:
        return "red"
    references = [other.value for other in panel_lines if other.owner == line.name and other.value is not None]
    if not references:
        return ""
    return "yellow" if value < SLOW_SHARE * references[0] else "green"


def _draw_trail(line: PanelLine) -> str:
    is_drawn = line.style == "line" and any(value is not None and value > 0 for value in line.trail)
    return draw_sparkline(line.trail) if is_drawn else ""


def _build_canary_rows(overview: Overview) -> Iterator[Row]:
    if overview.canary is not None:
        share = "" if overview.canary.cores is None else f"{overview.canary.cores:.1%} of a core, "
        yield Row("canary", f"takes {share}{format_bytes(overview.canary.resident_bytes)}", "dim")


def _build_alert_rows(alerts: Sequence[AlertSummary], now: float) -> Iterator[Row]:
    if not any(alert.state == "firing" for alert in alerts):
        yield Row("alerts", "none firing" if alerts else "none", "green")
    for alert in alerts:
        state = alert.severity if alert.state == "firing" else alert.state
        colour = _SEVERITY_COLOURS.get(alert.severity, "") if alert.state == "firing" else "dim"
        yield Row(
            f"alert {alert.name}",
            f"{state} for {format_span(now - alert.since)}: {alert.summary}",
            colour,
            "",
            alert.state != "firing",
        )


def _build_remedy_rows(status: Mapping[str, Any]) -> Iterator[Row]:
    mode = "observing: nothing is touched" if status["mode"] == "observe" else "enforcing"
    yield Row("remedies", mode, "dim" if status["mode"] == "observe" else "")
    reasons = [status["halted"], "the kill-switch file exists" if status["killed"] else ""]
    reasons += [f"paused by {name}" for name in status["pauses"]]
    reasons += [f"all remedies are off: {latch['why']}" for latch in status["latches"]]
    for reason in filter(None, reasons):
        yield Row("remedies", reason, "yellow")
    for remedy in status["remedies"]:
        if remedy["state"] not in ("ready", "disabled") or remedy["waiting"]:
            text = ", ".join(filter(None, (remedy["state"], remedy["why"], *remedy["waiting"])))
            yield Row(f"remedy {remedy['name']}", text, "red" if remedy["state"] == "given up" else "")


def _build_act_rows(audit: Sequence[Mapping[str, Any]], now: float) -> Iterator[Row]:
    """Builds a row for each of the newest acts: its plan and its outcome."""
    acts: dict[int, list[Mapping[str, Any]]] = {}
    for entry in audit:
        if entry["act"]:
            acts.setdefault(entry["act"], []).append(entry)
    for entries in list(acts.values())[: -MAX_ACTS - 1 : -1]:
        yield _build_act_row(entries, now)


def _build_act_row(entries: Sequence[Mapping[str, Any]], now: float) -> Row:
    first, observed, events = entries[0], entries[0]["observed"], [entry["what"] for entry in entries]
    plan = next((entry["says"] for entry in entries if entry["what"] == "intended"), "")
    outcomes = [describe_event(event) for event in events if event in _OUTCOMES and not (observed and event == "did")]
    text = " → ".join([f"observe only: {plan}" if observed and plan else plan or "no plan", *outcomes])
    failures = {"failed", "unknown", "useless", "changed"} & set(events)
    age = f"{format_span(now - first['at_ms'] / 1000)} ago"
    alert = first["labels"].get("alertname", "")
    return Row(f"act of {first['remedy']}", f"{age}, for {alert}: {text}", "red" if failures else "")


def _build_collector_row(collector: CollectorSummary) -> Row:
    age = "never read" if collector.age is None else f"{collector.age:.1f} s old"
    duration = "" if collector.duration is None else f"takes {collector.duration * 1000:.1f} ms"
    cores = "" if collector.cores is None else f"{collector.cores:.2%} of a core"
    colour = "red" if collector.fault == "failing" else "yellow" if collector.fault else "dim"
    text = ", ".join(filter(None, (collector.fault, age, duration, cores)))
    return Row(f"collector {collector.name}", text, colour, is_detail=True)


def _format_clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
