"""
The overview of a host that `run` and `top` show: frozen values, and how a feed's answers become them.

A feed answers the queries of `panels.py`, from inside the agent (`host_view.py`) or over HTTP (`top_client.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from agent.console.panels import Panel, PanelQuery
from collectors import Labels

SPAN, STEP = 300, 10  # seconds that a trail covers, and seconds between two of its points
SEVERITIES = ("critical", "warning", "info")
_COLLECTOR_PREFIX = "steadytok_collector_"

Trail = tuple[float | None, ...]
"""Values of the last `SPAN` seconds, one each `STEP`, oldest first; None where there was no reading."""


class InstantSample(NamedTuple):
    """One series of an instant query's answer."""

    labels: Mapping[str, str]
    at: float
    """Unix seconds of the evaluation."""
    value: float


class AlertRecord(NamedTuple):
    """A pending or firing alert as a feed gives it."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    state: str
    since: float


class Feed(Protocol):
    """Answers queries about one host."""

    def query_instant(self, query: str) -> list[InstantSample]:
        """Returns the series of a query, now."""

    def query_range(self, query: str, now: float) -> list[tuple[Mapping[str, str], Trail]]:
        """Returns labels and trail of each series of a query; the newest point is at `now` (Unix seconds)."""

    def list_alerts(self) -> list[AlertRecord]:
        """Returns the pending and firing alerts."""


@dataclass(frozen=True, slots=True)
class PanelLine:
    """One line of a panel: its newest value (None: missing), a note beside the value, and its last five minutes."""

    name: str
    style: str
    value: float | None
    note: str
    trail: Trail
    owner: str = ""
    """The name of the line that this line belongs to."""


@dataclass(frozen=True, slots=True)
class AlertSummary:
    """A pending or firing alert, and since when (Unix seconds)."""

    name: str
    state: str
    severity: str
    summary: str
    since: float


@dataclass(frozen=True, slots=True)
class CollectorSummary:
    """A collector: age of its newest good reading (s), time of one pass (s), its cost (cores), and its fault."""

    name: str
    age: float | None
    duration: float | None
    cores: float | None
    fault: str


@dataclass(frozen=True, slots=True)
class EngineSummary:
    """
    An engine: whether it answers, and the learnt share of its baseline (0 to 1; None where the feed lacks it).

    `answer` is the engine's answer to the request for its metrics; an older agent does not say it.
    """

    name: str
    up: bool
    learnt: float | None = None
    answer: str = "metrics"


@dataclass(frozen=True, slots=True)
class CanaryCost:
    """The canary's use of processor (cores; None before it has a rate) and memory (bytes)."""

    cores: float | None
    resident_bytes: float


@dataclass(frozen=True, slots=True)
class Overview:
    """A host at one moment."""

    now: float
    """Unix seconds by the agent's clock."""
    age: float
    """Seconds since the agent's newest sample."""
    host: str
    version: str
    panels: tuple[tuple[Panel, tuple[PanelLine, ...]], ...]
    alerts: tuple[AlertSummary, ...]
    collectors: tuple[CollectorSummary, ...]
    engines: tuple[EngineSummary, ...] = ()
    series: int | None = None
    """Series in History."""
    canary: CanaryCost | None = None
    canary_starting: bool = False
    pacing: tuple[str, ...] = ()
    """One sentence for each paced engine: its duty and the reason."""
    remedies: Mapping[str, Any] | None = None
    """The answer of GET /api/v1/remedies; None from inside the agent."""
    audit: Sequence[Mapping[str, Any]] = field(default=())
    audit_fault: str = ""
    """Why the audit cannot be read; a broken journal hides nothing else."""


def read_overview(feed: Feed, panels: Iterable[Panel], *, now: float, age: float, host: str, version: str) -> Overview:
    """Reads the overview from a feed, without the fields that only one of the feeds can fill."""
    return Overview(
        now=now,
        age=age,
        host=host,
        version=version,
        panels=tuple((panel, _read_panel(feed, panel, now)) for panel in panels),
        alerts=summarise_alerts(feed.list_alerts()),
        collectors=_summarise_collectors(feed.query_instant(f'{{__name__=~"{_COLLECTOR_PREFIX}.+"}}')),
        engines=_summarise_engines(
            feed.query_instant("steadytok_engine_up"), feed.query_instant("steadytok_engine_answer_info")
        ),
        series=next((round(sample.value) for sample in feed.query_instant("steadytok_history_series")), None),
        canary=_read_canary_cost(feed),
    )


def _read_panel(feed: Feed, panel: Panel, now: float) -> tuple[PanelLine, ...]:
    answers = [
        (query, name, owner, trail)
        for query in panel.lines
        for name, owner, trail in _name_trails(query, feed.query_range(query.query, now))
    ]
    notes = {
        owner: f"{trail[-1]:.{query.digits or 0}f} {query.unit}"
        for query, _, owner, trail in answers
        if query.style == "note" and trail[-1] is not None
    }
    return tuple(
        PanelLine(name, query.style, trail[-1], notes.get(name, ""), trail, owner)
        for query, name, owner, trail in answers
        if query.style != "note"
    )


def _name_trails(
    query: PanelQuery, series: Iterable[tuple[Mapping[str, str], Trail]]
) -> Sequence[tuple[str, str, Trail]]:
    """Returns for each line its name, the name of the line it belongs to, and its trail."""
    lines = [
        (_fill_template(query.name, labels), _fill_template(query.owner_label or "", labels), trail)
        for labels, trail in series
    ]
    return [_merge_trails(lines)] if query.merged_name and lines else lines


def _fill_template(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: labels.get(match[1], "?"), template)


def _merge_trails(lines: Sequence[tuple[str, str, Trail]]) -> tuple[str, str, Trail]:
    """Merges series of which one at a time has a value; the newest gives the name."""
    name, owner, _ = next((line for line in lines if line[2][-1] is not None), lines[0])
    columns = zip(*(trail for _, _, trail in lines), strict=True)
    trail = tuple(max((value for value in column if value is not None), default=None) for column in columns)
    return name, owner, trail


def summarise_alerts(records: Iterable[AlertRecord]) -> tuple[AlertSummary, ...]:
    """
    Returns the alerts, the most urgent first.

    Leaves out the alert that always fires (severity none), and a warning beside the critical alert of the same labels.
    """
    worst: dict[Labels, AlertSummary] = {}
    for record in records:
        labels, annotations = record.labels, record.annotations
        summary = annotations.get("summary") or annotations.get("description", "")
        candidate = AlertSummary(labels["alertname"], record.state, labels.get("severity", ""), summary, record.since)
        identity = tuple(sorted((name, value) for name, value in labels.items() if name != "severity"))
        if candidate.severity != "none":
            worst[identity] = min(candidate, worst.get(identity, candidate), key=_urgency_key)
    return tuple(sorted(worst.values(), key=_urgency_key))


def _urgency_key(alert: AlertSummary) -> tuple[bool, int, str]:
    rank = SEVERITIES.index(alert.severity) if alert.severity in SEVERITIES else len(SEVERITIES)
    return (alert.state != "firing", rank, alert.name)


def _summarise_engines(ups: Iterable[InstantSample], answers: Iterable[InstantSample]) -> tuple[EngineSummary, ...]:
    states = {sample.labels.get("engine", ""): sample.value == 1 for sample in ups}
    words = {sample.labels.get("engine", ""): sample.labels.get("answer", "") for sample in answers}
    return tuple(EngineSummary(name, up, answer=words.get(name, "metrics")) for name, up in sorted(states.items()))


def _read_canary_cost(feed: Feed) -> CanaryCost | None:
    memory = feed.query_instant('steadytok_engine_resident_bytes{engine="canary"}')
    if not memory:
        return None
    rate = feed.query_instant('rate(steadytok_engine_cpu_seconds_total{engine="canary"}[1m])')
    return CanaryCost(rate[0].value if rate else None, memory[0].value)


def _summarise_collectors(samples: Iterable[InstantSample]) -> tuple[CollectorSummary, ...]:
    measures: dict[str, dict[str, float]] = {}
    for labels, _, value in samples:
        if "collector" in labels:
            measures.setdefault(labels["collector"], {})[labels["__name__"].removeprefix(_COLLECTOR_PREFIX)] = value
    return tuple(_summarise_collector(name, measures[name]) for name in sorted(measures))


def _summarise_collector(name: str, measures: Mapping[str, float]) -> CollectorSummary:
    cpu, interval = measures.get("cpu_seconds"), measures.get("interval_seconds")
    missing = measures.get("missing_readings", 0.0)
    fault = "failing" if measures.get("success") == 0 else f"{missing:.0f} missing" if missing else ""
    cores = cpu / interval if cpu is not None and interval else None
    return CollectorSummary(name, measures.get("age_seconds"), measures.get("duration_seconds"), cores, fault)
