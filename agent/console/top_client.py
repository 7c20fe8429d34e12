"""
What the page shows, asked of a running agent over HTTP and as frozen values; drawing it is `overview_table.py`'s.

The questions are those of `panels.py`, put to the query API: nothing here knows History.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.console.panels import Line, Panel
from collectors import Labels

SPAN, STEP = 300, 10  # seconds that a trail covers, and between two of its points
PATIENCE = 10.0  # seconds for one answer
SEVERITIES = ("critical", "warning", "info")
MOST_ENTRIES = 100  # lines of the audit that are looked at
_COLLECTOR = "steadytok_collector_"


class NoAnswerError(Exception):
    """The agent does not answer, or not as an agent does; the message says what, where and what to do."""


class RefusedError(NoAnswerError):
    """The agent answers, and does not want to."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One line of a panel: its newest value (None: missing), what is told beside it, and its last five minutes."""

    name: str
    style: str
    value: float | None
    beside: str
    trail: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class AlertSeen:
    """An alert that is pending or firing, and since when (Unix seconds)."""

    name: str
    state: str
    severity: str
    summary: str
    since: float


@dataclass(frozen=True, slots=True)
class CollectorSeen:
    """A collector: age of its newest good reading (s), how long a pass takes (s), its cost (cores), what is wrong."""

    name: str
    age: float | None
    takes: float | None
    costs: float | None
    fault: str


@dataclass(frozen=True, slots=True)
class Overview:
    """A host at one moment (Unix seconds, by the agent's clock); `age` is how old the agent's newest sample is."""

    now: float
    age: float
    host: str
    version: str
    panels: tuple[tuple[Panel, tuple[Shown, ...]], ...]
    alerts: tuple[AlertSeen, ...]
    remedies: Mapping[str, Any]
    """As GET /api/v1/remedies tells it."""
    audit: Sequence[Mapping[str, Any]]
    collectors: tuple[CollectorSeen, ...]
    audit_fault: str = ""
    """Why the audit cannot be read: its journal may be broken, and the rest is to be seen all the same."""


class RunningAgent:
    """An agent that answers at a URL."""

    def __init__(
        self, url: str, opener: urllib.request.OpenerDirector | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url = url.rstrip("/")
        # No proxies unless told: mostly the agent is on this host.
        self._opener = opener or urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._headers = dict(headers or {})

    def overview(self, panels: Iterable[Panel]) -> Overview:
        """Everything, now; NoAnswerError."""
        try:
            return self._overview(panels)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise NoAnswerError(f"{self.url} does not answer as this version of steadytok does: {error!r}") from error

    def _overview(self, panels: Iterable[Panel]) -> Overview:
        itself = self._now("timestamp(steadytok_build_info)")
        if not itself:
            raise NoAnswerError(f"the agent at {self.url} has read nothing yet; ask again in a second")
        labels, now, sampled = itself[0]
        audit, fault = self._audit()
        return Overview(
            now=now,
            age=now - sampled,
            host=labels.get("instance", ""),
            version=labels.get("version", ""),
            panels=tuple((panel, self._panel(panel, now)) for panel in panels),
            alerts=_alerts(self._data("alerts")["alerts"]),
            remedies=self._get("api/v1/remedies"),
            audit=audit,
            audit_fault=fault,
            collectors=_collectors(self._now(f'{{__name__=~"{_COLLECTOR}.+"}}')),
        )

    def _audit(self) -> tuple[Sequence[Mapping[str, Any]], str]:
        try:
            return self._get(f"api/v1/remedies/audit?limit={MOST_ENTRIES}"), ""
        except RefusedError as error:
            return (), str(error)

    def _panel(self, panel: Panel, now: float) -> tuple[Shown, ...]:
        answers = [(line, self._over(line, now)) for line in panel.lines]
        told = {
            name: f"{trail[-1]:.{line.digits or 0}f} {line.unit}"
            for line, found in answers
            if line.style == "told"
            for name, trail in found
            if trail[-1] is not None
        }
        return tuple(
            Shown(name, line.style, trail[-1], told.get(name, ""), trail)
            for line, found in answers
            if line.style != "told"
            for name, trail in found
        )

    def _over(self, line: Line, now: float) -> list[tuple[str, tuple[float | None, ...]]]:
        """Each line's name and its points, the newest last; the newest step ends now."""
        asked = {"query": line.query, "start": now - SPAN, "end": now, "step": STEP}
        series = self._data("query_range", asked)["result"]
        trails = [(_filled(line.name, each["metric"]), _trail(each["values"], now)) for each in series]
        return [_merged(trails)] if line.one and trails else trails

    def _now(self, query: str) -> list[tuple[dict[str, str], float, float]]:
        """Labels, the time of asking and the value of each series."""
        result = self._data("query", {"query": query})["result"]
        return [(each["metric"], float(each["value"][0]), float(each["value"][1])) for each in result]

    def _data(self, path: str, asked: Mapping[str, Any] | None = None) -> Any:
        return self._get(f"api/v1/{path}?{urllib.parse.urlencode(asked or {})}")["data"]

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", headers=self._headers)
        try:
            with self._opener.open(request, timeout=PATIENCE) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise RefusedError(_refusal(self.url, error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(unanswered(self.url, error)) from error
        return json.loads(body)


def unanswered(url: str, error: Exception) -> str:
    """Why there is no answer, and what to do."""
    reason = getattr(error, "reason", error)
    why = getattr(reason, "strerror", None) or reason or type(error).__name__
    # A certificate that does not suffice is not told to the client: the connection ends without an answer.
    ended = url.startswith("https:") and isinstance(reason, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError))
    hint = "if it asks for a certificate, set web.client_certificate to one that its client_ca_file signed"
    return f"no agent answers at {url}/: {why}; {hint if ended else 'is it running?'}"


def _refusal(url: str, error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return f"{url} refuses: {json.load(error)['error']}"
        except (ValueError, KeyError, TypeError):
            return f"{url} answers HTTP {error.code}: this is no agent that `top` can ask"


def _filled(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda found: labels.get(found[1], "?"), template)


def _trail(values: Iterable[Sequence[Any]], now: float) -> tuple[float | None, ...]:
    points: list[float | None] = [None] * (SPAN // STEP + 1)
    for at, text in values:
        index, value = round((float(at) - now + SPAN) / STEP), float(text)
        if 0 <= index < len(points) and value - value == 0:  # neither NaN nor infinite
            points[index] = value
    return tuple(points)


def _merged(trails: list[tuple[str, tuple[float | None, ...]]]) -> tuple[str, tuple[float | None, ...]]:
    """One line of several, of which one has a value at a time: named by the newest."""
    named = next((name for name, trail in trails if trail[-1] is not None), trails[0][0])
    columns = zip(*(trail for _, trail in trails), strict=True)
    return named, tuple(max((value for value in column if value is not None), default=None) for column in columns)


def _alerts(found: Iterable[Mapping[str, Any]]) -> tuple[AlertSeen, ...]:
    """The worst first; without the one that always fires, and without a warning of what is critical already."""
    worst: dict[Labels, AlertSeen] = {}
    for each in found:
        labels, notes = each["labels"], each["annotations"]
        summary = notes.get("summary") or notes.get("description", "")
        since = datetime.fromisoformat(each["activeAt"]).timestamp()
        seen = AlertSeen(labels["alertname"], each["state"], labels.get("severity", ""), summary, since)
        about = tuple(sorted((name, value) for name, value in labels.items() if name != "severity"))
        if seen.severity != "none":
            worst[about] = min(seen, worst.get(about, seen), key=_urgency)
    return tuple(sorted(worst.values(), key=_urgency))


def _urgency(alert: AlertSeen) -> tuple[bool, int, str]:
    rank = SEVERITIES.index(alert.severity) if alert.severity in SEVERITIES else len(SEVERITIES)
    return (alert.state != "firing", rank, alert.name)


def _collectors(found: Iterable[tuple[Mapping[str, str], float, float]]) -> tuple[CollectorSeen, ...]:
    measures: dict[str, dict[str, float]] = {}
    for labels, _, value in found:
        if "collector" in labels:
            measures.setdefault(labels["collector"], {})[labels["__name__"].removeprefix(_COLLECTOR)] = value
    return tuple(_collector(name, measures[name]) for name in sorted(measures))


def _collector(name: str, measured: Mapping[str, float]) -> CollectorSeen:
    cpu, interval = measured.get("cpu_seconds"), measured.get("interval_seconds")
    missing = measured.get("missing_readings", 0.0)
    fault = "failing" if measured.get("success") == 0 else f"{missing:.0f} missing" if missing else ""
    costs = cpu / interval if cpu is not None and interval else None
    return CollectorSeen(name, measured.get("age_seconds"), measured.get("duration_seconds"), costs, fault)
