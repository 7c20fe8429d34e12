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

from agent.console.panels import Panel, PanelQuery
from collectors import Labels

SPAN, STEP = 300, 10  # seconds that a trail covers, and between two of its points
REQUEST_TIMEOUT = 10.0  # seconds for one answer
SEVERITIES = ("critical", "warning", "info")
MOST_ENTRIES = 100  # lines of the audit that are looked at
_COLLECTOR_PREFIX = "steadytok_collector_"


class NoAnswerError(Exception):
    """The agent does not answer, or not as an agent does; the message says what, where and what to do."""


class AgentRefusedError(NoAnswerError):
    """The agent answers, and does not want to."""


@dataclass(frozen=True, slots=True)
class PanelLine:
    """One line of a panel: its newest value (None: missing), what is told beside it, and its last five minutes."""

    name: str
    style: str
    value: float | None
    note: str
    trail: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class AlertSummary:
    """An alert that is pending or firing, and since when (Unix seconds)."""

    name: str
    state: str
    severity: str
    summary: str
    since: float


@dataclass(frozen=True, slots=True)
class CollectorSummary:
    """A collector: age of its newest good reading (s), how long a pass takes (s), its cost (cores), what is wrong."""

    name: str
    age: float | None
    duration: float | None
    cores: float | None
    fault: str


@dataclass(frozen=True, slots=True)
class Overview:
    """A host at one moment (Unix seconds, by the agent's clock); `age` is how old the agent's newest sample is."""

    now: float
    age: float
    host: str
    version: str
    panels: tuple[tuple[Panel, tuple[PanelLine, ...]], ...]
    alerts: tuple[AlertSummary, ...]
    remedies: Mapping[str, Any]
    """As GET /api/v1/remedies tells it."""
    audit: Sequence[Mapping[str, Any]]
    collectors: tuple[CollectorSummary, ...]
    audit_fault: str = ""
    """Why the audit cannot be read: its journal may be broken, and the rest is to be seen all the same."""


class AgentClient:
    """An agent that answers at a URL."""

    def __init__(
        self, url: str, opener: urllib.request.OpenerDirector | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        self.url = url.rstrip("/")
        # No proxies unless told: mostly the agent is on this host.
        self._opener = opener or urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self._headers = dict(headers or {})

    def fetch_overview(self, panels: Iterable[Panel]) -> Overview:
        """Everything, now; NoAnswerError."""
        try:
            return self._fetch_overview(panels)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise NoAnswerError(f"{self.url} does not answer as this version of steadytok does: {error!r}") from error

    def _fetch_overview(self, panels: Iterable[Panel]) -> Overview:
        build_info = self._query_instant("timestamp(steadytok_build_info)")
        if not build_info:
            raise NoAnswerError(f"the agent at {self.url} has read nothing yet; ask again in a second")
        labels, now, sampled_at = build_info[0]
        audit, fault = self._fetch_audit()
        return Overview(
            now=now,
            age=now - sampled_at,
            host=labels.get("instance", ""),
            version=labels.get("version", ""),
            panels=tuple((panel, self._fetch_panel(panel, now)) for panel in panels),
            alerts=_summarise_alerts(self._get_data("alerts")["alerts"]),
            remedies=self._get_json("api/v1/remedies"),
            audit=audit,
            audit_fault=fault,
            collectors=_summarise_collectors(self._query_instant(f'{{__name__=~"{_COLLECTOR_PREFIX}.+"}}')),
        )

    def _fetch_audit(self) -> tuple[Sequence[Mapping[str, Any]], str]:
        try:
            return self._get_json(f"api/v1/remedies/audit?limit={MOST_ENTRIES}"), ""
        except AgentRefusedError as error:
            return (), str(error)

    def _fetch_panel(self, panel: Panel, now: float) -> tuple[PanelLine, ...]:
        line_trails = [(line, self._query_range(line, now)) for line in panel.lines]
        notes = {
            name: f"{trail[-1]:.{line.digits or 0}f} {line.unit}"
            for line, trails in line_trails
            if line.style == "note"
            for name, trail in trails
            if trail[-1] is not None
        }
        return tuple(
            PanelLine(name, line.style, trail[-1], notes.get(name, ""), trail)
            for line, trails in line_trails
            if line.style != "note"
            for name, trail in trails
        )

    def _query_range(self, line: PanelQuery, now: float) -> list[tuple[str, tuple[float | None, ...]]]:
        """Each line's name and its points, the newest last; the newest step ends now."""
        params = {"query": line.query, "start": now - SPAN, "end": now, "step": STEP}
        series = self._get_data("query_range", params)["result"]
        trails = [(_fill_template(line.name, each["metric"]), _build_trail(each["values"], now)) for each in series]
        return [_merge_trails(trails)] if line.one and trails else trails

    def _query_instant(self, query: str) -> list[tuple[dict[str, str], float, float]]:
        """Labels, the time of asking and the value of each series."""
        result = self._get_data("query", {"query": query})["result"]
        return [(each["metric"], float(each["value"][0]), float(each["value"][1])) for each in result]

    def _get_data(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._get_json(f"api/v1/{path}?{urllib.parse.urlencode(params or {})}")["data"]

    def _get_json(self, path: str) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", headers=self._headers)
        try:
            with self._opener.open(request, timeout=REQUEST_TIMEOUT) as response:
                body = response.read()
        except urllib.error.HTTPError as error:
            raise AgentRefusedError(_explain_refusal(self.url, error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(explain_no_answer(self.url, error)) from error
        return json.loads(body)


def explain_no_answer(url: str, error: Exception) -> str:
    """Why there is no answer, and what to do."""
    reason = getattr(error, "reason", error)
    cause = getattr(reason, "strerror", None) or reason or type(error).__name__
    # A certificate that does not suffice is not told to the client: the connection ends without an answer.
    may_need_certificate = url.startswith("https:") and isinstance(
        reason, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
    )
    hint = "if it asks for a certificate, set web.client_certificate to one that its client_ca_file signed"
    return f"no agent answers at {url}/: {cause}; {hint if may_need_certificate else 'is it running?'}"


def _explain_refusal(url: str, error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return f"{url} refuses: {json.load(error)['error']}"
        except (ValueError, KeyError, TypeError):
            return f"{url} answers HTTP {error.code}: this is no agent that `top` can ask"


def _fill_template(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: labels.get(match[1], "?"), template)


def _build_trail(values: Iterable[Sequence[Any]], now: float) -> tuple[float | None, ...]:
    points: list[float | None] = [None] * (SPAN // STEP + 1)
    for at, text in values:
        index, value = round((float(at) - now + SPAN) / STEP), float(text)
        if 0 <= index < len(points) and value - value == 0:  # neither NaN nor infinite
            points[index] = value
    return tuple(points)


def _merge_trails(trails: list[tuple[str, tuple[float | None, ...]]]) -> tuple[str, tuple[float | None, ...]]:
    """One line of several, of which one has a value at a time: named by the newest."""
    newest_name = next((name for name, trail in trails if trail[-1] is not None), trails[0][0])
    columns = zip(*(trail for _, trail in trails), strict=True)
    return newest_name, tuple(max((value for value in column if value is not None), default=None) for column in columns)


def _summarise_alerts(alerts: Iterable[Mapping[str, Any]]) -> tuple[AlertSummary, ...]:
    """The worst first; without the one that always fires, and without a warning of what is critical already."""
    worst: dict[Labels, AlertSummary] = {}
    for alert in alerts:
        labels, annotations = alert["labels"], alert["annotations"]
        summary = annotations.get("summary") or annotations.get("description", "")
        since = datetime.fromisoformat(alert["activeAt"]).timestamp()
        candidate = AlertSummary(labels["alertname"], alert["state"], labels.get("severity", ""), summary, since)
        identity = tuple(sorted((name, value) for name, value in labels.items() if name != "severity"))
        if candidate.severity != "none":
            worst[identity] = min(candidate, worst.get(identity, candidate), key=_urgency_key)
    return tuple(sorted(worst.values(), key=_urgency_key))


def _urgency_key(alert: AlertSummary) -> tuple[bool, int, str]:
    rank = SEVERITIES.index(alert.severity) if alert.severity in SEVERITIES else len(SEVERITIES)
    return (alert.state != "firing", rank, alert.name)


def _summarise_collectors(series: Iterable[tuple[Mapping[str, str], float, float]]) -> tuple[CollectorSummary, ...]:
    measures: dict[str, dict[str, float]] = {}
    for labels, _, value in series:
        if "collector" in labels:
            measures.setdefault(labels["collector"], {})[labels["__name__"].removeprefix(_COLLECTOR_PREFIX)] = value
    return tuple(_summarise_collector(name, measures[name]) for name in sorted(measures))


def _summarise_collector(name: str, measures: Mapping[str, float]) -> CollectorSummary:
    cpu, interval = measures.get("cpu_seconds"), measures.get("interval_seconds")
    missing = measures.get("missing_readings", 0.0)
    fault = "failing" if measures.get("success") == 0 else f"{missing:.0f} missing" if missing else ""
    cores = cpu / interval if cpu is not None and interval else None
    return CollectorSummary(name, measures.get("age_seconds"), measures.get("duration_seconds"), cores, fault)
