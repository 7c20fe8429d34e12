"""The HTTP client of `steadytok top`: reads the overview of a running agent through its API."""

from __future__ import annotations

import ssl
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from agent.console.overview import SPAN, STEP, AlertRecord, InstantSample, Overview, Trail, read_overview
from agent.console.panels import Panel
from agent.runtime.errors import describe_reason
from collectors import HttpAnswer, request_http

REQUEST_TIMEOUT = 10.0  # seconds for one answer
MAX_ANSWER_BYTES = 16 << 20  # of one answer: the remedies and the audit of a large host are some MB
MAX_ENTRIES = 100  # lines of the audit that are read


class NoAnswerError(Exception):
    """The agent does not answer, or not as an agent does; the message says why, where and what to do."""


class AgentRefusedError(NoAnswerError):
    """The agent answers with a refusal."""


class AgentClient:
    """Answers queries by asking the agent at a URL."""

    def __init__(self, url: str, tls: ssl.SSLContext | None = None, headers: Mapping[str, str] | None = None) -> None:
        self.url = url.rstrip("/")
        self._tls = tls
        self._headers = dict(headers or {})

    def fetch_overview(self, panels: Iterable[Panel]) -> Overview:
        """Fetches everything; raises NoAnswerError."""
        try:
            return self._fetch_overview(panels)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise NoAnswerError(f"{self.url} does not answer as this version of steadytok does: {error!r}") from error

    def _fetch_overview(self, panels: Iterable[Panel]) -> Overview:
        build_info = self.query_instant("timestamp(steadytok_build_info)")
        if not build_info:
            raise NoAnswerError(f"the agent at {self.url} has read nothing yet; ask again in a second")
        labels, now, sampled_at = build_info[0]
        host, version = labels.get("instance", ""), labels.get("version", "")
        overview = read_overview(self, panels, now=now, age=now - sampled_at, host=host, version=version)
        remedies = self._get_json("api/v1/remedies")
        audit, fault = self._fetch_audit()
        sentences = dict.fromkeys(sentence for remedy in remedies["remedies"] for sentence in remedy["now"])
        return replace(overview, pacing=tuple(sentences), remedies=remedies, audit=audit, audit_fault=fault)

    def _fetch_audit(self) -> tuple[Sequence[Mapping[str, Any]], str]:
        try:
            return self._get_json(f"api/v1/remedies/audit?limit={MAX_ENTRIES}"), ""
        except AgentRefusedError as error:
            return (), str(error)

    def query_instant(self, query: str) -> list[InstantSample]:
        """Asks for the series of a query, now."""
        result = self._get_data("query", {"query": query})["result"]
        return [InstantSample(each["metric"], float(each["value"][0]), float(each["value"][1])) for each in result]

    def query_range(self, query: str, now: float) -> list[tuple[Mapping[str, str], Trail]]:
        """Asks for the series of a query over the last five minutes."""
        params = {"query": query, "start": now - SPAN, "end": now, "step": STEP}
        series = self._get_data("query_range", params)["result"]
        return [(each["metric"], _build_trail(each["values"], now)) for each in series]

    def list_alerts(self) -> list[AlertRecord]:
        """Asks for the pending and firing alerts."""
        return [
            AlertRecord(
                alert["labels"],
                alert["annotations"],
                alert["state"],
                datetime.fromisoformat(alert["activeAt"]).timestamp(),
            )
            for alert in self._get_data("alerts")["alerts"]
        ]

    def _get_data(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        return self._get_json(f"api/v1/{path}?{urllib.parse.urlencode(params or {})}")["data"]

    def _get_json(self, path: str) -> Any:
        try:
            answer = request_http(
                "GET",
                f"{self.url}/{path}",
                headers=self._headers,
                timeout=REQUEST_TIMEOUT,
                limit=MAX_ANSWER_BYTES,
                tls=self._tls,
                follow=True,
            )
        except OSError as error:
            raise NoAnswerError(explain_no_answer(self.url, error)) from error
        if answer.status // 100 != 2:
            raise AgentRefusedError(_explain_refusal(self.url, answer))
        return answer.parse_json()


def explain_no_answer(url: str, error: Exception) -> str:
    """Returns a sentence: why no answer came, and what to do."""
    cause = describe_reason(error)
    # A client with an insufficient certificate gets no reason: the connection ends without an answer.
    may_need_certificate = url.startswith("https:") and isinstance(
        error, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
    )
    hint = "if it asks for a certificate, set web.client_certificate to one that its client_ca_file signed"
    return f"no agent answers at {url}/: {cause}; {hint if may_need_certificate else 'is it running?'}"


def _explain_refusal(url: str, answer: HttpAnswer) -> str:
    try:
        return f"{url} refuses: {answer.parse_json()['error']}"
    except (ValueError, KeyError, TypeError):
        return f"{url} answers HTTP {answer.status}: not an agent that `top` can read"


def _build_trail(values: Iterable[Sequence[Any]], now: float) -> Trail:
    points: list[float | None] = [None] * (SPAN // STEP + 1)
    for at, text in values:
        index, value = round((float(at) - now + SPAN) / STEP), float(text)
        if 0 <= index < len(points) and value - value == 0:  # neither NaN nor infinite
            points[index] = value
    return tuple(points)
