"""The webhook: the payloads it accepts and refuses, with text that anybody may have written."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alerting import webhook_inbox
from agent.alerting.webhook_inbox import Inbox
from agent.config.loader import parse
from agent.remediation import evidence
from agent.remediation.catalog import bind_remedies
from agent.remediation.model import AlertInput, Remedy
from agent.web.server import WebServer
from agent.web.webhook_api import PATH, WebhookApi
from rules.alerts import Alert, AlertState
from tests.agent.web.contexts import build_context

NOW = 1_700_000_000_000
LABELS = {"alertname": "RackHot", "instance": "box:9100", "rack": "r7"}
OWN = Alert("DimmHot", (("alertname", "DimmHot"), ("dimm", "A1")), (), AlertState.FIRING, 1.0, NOW, "up", 1000)
EXTERNAL = {"instance": "box", "job": "steadytok"}
POSTED = {
    "status": "firing",
    "labels": LABELS,
    "annotations": {"summary": "hot"},
    "startsAt": "2023-11-14T22:13:20.123456789Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus:9090/graph?g0.expr=up",
    "fingerprint": "5ef77f1f8a3ecf8d",
    "notification_reason": "something new",
}


def build_remedy(**more: Any) -> Remedy:
    """Returns a remedy for posted alerts, bound as from a configuration."""
    settings = {"name": "cool", "match": ['alertname=~".*Hot"'], "action": "webhook", "target": {"url": "http://h/"}}
    document = {
        "external_labels": {"instance": "box"},
        "remediation": {"builtin": False},
        "remedies": [{**settings, "sources": ["webhook"], **more}],
    }
    (bound,) = bind_remedies(parse(document, "f", {}), "f")
    return bound


@dataclass
class RemedyMatcher:
    """Matches alerts against one remedy, in place of the Remediator."""

    remedy: Remedy = field(default_factory=build_remedy)

    def matches_alert(self, alert: Alert) -> bool:
        return evidence.matches(self.remedy, AlertInput(alert, source="webhook"))


def post(folder: Path, *bodies: Any, matcher: RemedyMatcher | None = None) -> list[tuple[int, Any]]:
    """Posts the bodies one after another, and returns the data or the error of each answer."""
    answers = post_and_read(folder, *bodies, matcher=matcher)
    return [(status, document.get("data", document.get("error"))) for status, document in answers]


def post_and_read(folder: Path, *bodies: Any, matcher: RemedyMatcher | None = None) -> list[tuple[int, dict[str, Any]]]:
    """Posts the bodies one after another, and returns the whole answers."""

    async def run() -> list[tuple[int, dict[str, Any]]]:
        box = Inbox(folder, NOW)
        context = build_context(
            remedies=matcher or RemedyMatcher(),
            inbox=box,
            rules=lambda: SimpleNamespace(list_alerts=lambda: [OWN]),
            external_labels=EXTERNAL,
            external_url="http://box:9817",
            now_ms=lambda: NOW,
        )
        routes = WebhookApi(context).routes()
        server = WebServer(metrics=lambda: bytes, tick_number=int, since_tick=lambda: 0.0, interval=1.0, routes=routes)
        port = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as session:
                return [await _post_once(session, port, body) for body in bodies]
        finally:
            await server.close()
            box.close()

    return asyncio.run(run())


async def _post_once(session: aiohttp.ClientSession, port: int, body: Any) -> tuple[int, dict[str, Any]]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with session.post(f"http://127.0.0.1:{port}{PATH}", data=data) as answer:
        return answer.status, await answer.json()


def build_payload(*alerts: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "4", "status": "firing", "groupKey": "{}", "routeLabels": {}, "alerts": list(alerts), **more}


def test_alertmanagers_payload_is_taken(tmp_path: Path) -> None:
    """A payload with unknown fields is accepted; a repeated alert is counted as repeated."""
    assert post(tmp_path, build_payload(POSTED), build_payload(POSTED), build_payload()) == [
        (200, {"taken": 1}),
        (200, {"repeated": 1}),
        (200, {}),
    ]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({}, "taken"),
        ({"status": "resolved"}, "resolved"),
        ({"labels": {**LABELS, "instance": "box"}}, "taken"),
        ({"labels": {**LABELS, "instance": "boxx"}}, "unwanted"),
        ({"labels": {**LABELS, "instance": "box:9100x"}}, "unwanted"),
        ({"labels": {**LABELS, "instance": "box:9100\n"}}, "unwanted"),
        ({"labels": {"alertname": "RackHot"}}, "unwanted"),
        ({"labels": {**LABELS, "alertname": "Other"}}, "unwanted"),
        ({"labels": {**LABELS, "alertname": "$(reboot) Hot"}}, "unwanted"),
        ({"labels": {**LABELS, "alertname": "RemedyFailed"}}, "unwanted"),
        ({"labels": {**dict(OWN.labels), **EXTERNAL}}, "echo"),
        ({"labels": {**LABELS, **EXTERNAL}, "generatorURL": "http://box:9817/graph?g0.expr=x"}, "echo"),
        ({"labels": {**LABELS, **EXTERNAL}, "generatorURL": "http://box:9817.evil/graph?g0.expr=x"}, "taken"),
    ],
)
def test_what_becomes_of_an_alert(tmp_path: Path, change: dict[str, Any], outcome: str) -> None:
    """Only this host's matching alerts that are not echoes are accepted; the others are counted."""
    assert post(tmp_path, build_payload({**POSTED, **change})) == [(200, {outcome: 1})]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"version":"4","alerts":' + b"[" * 100_000,
        {"version": "3", "alerts": []},
        {"alerts": []},
        {"version": 4, "alerts": []},
        build_payload({**POSTED, "status": "pending"}),
        build_payload({**POSTED, "labels": {}}),
        build_payload({**POSTED, "labels": {"alertname": 1}}),
        build_payload({**POSTED, "startsAt": "yesterday"}),
        build_payload({**POSTED, "fingerprint": "'; DROP TABLE inbox"}),
        build_payload({**POSTED, "labels": {"alertname": "\ud83d"}}),
    ],
)
def test_garbage_is_refused_whole(tmp_path: Path, body: Any) -> None:
    """Garbage gets a 400 with a sentence, and none of its alerts is accepted."""
    (rejected, accepted) = post(tmp_path, body, build_payload(POSTED))

    assert rejected[0] == 400
    assert isinstance(rejected[1], str)
    assert accepted == (200, {"taken": 1})


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {**LABELS, "a\nb": "x"}},
        {"labels": {**LABELS, "": "x"}},
        {"labels": {**LABELS, "n" * 129: "x"}},
        {"labels": LABELS | {f"l{number}": "x" for number in range(65)}},
        {"labels": {**LABELS, "note": "x" * 1025}},
        {"startsAt": "2023-99-99T00:00:00Z"},
        {"startsAt": "0000-01-01T00:00:00Z"},
        {"status": "suppressed"},
        {"status": None},
        {"labels": {**LABELS, "code": 500}},
        {"labels": {}},
        {"fingerprint": "'; DROP TABLE inbox"},
    ],
)
def test_an_odd_alert_costs_no_other(tmp_path: Path, change: dict[str, Any]) -> None:
    """An odd alert is counted as refused, with its reason; the rest of its group is accepted."""
    ((status, answer),) = post_and_read(tmp_path, build_payload({**POSTED, **change}, POSTED))

    assert (status, answer["data"]) == (200, {"refused": 1, "taken": 1})
    assert len(answer["warnings"]) == 1


def test_reserved_labels_are_ours() -> None:
    """An alert from outside cannot choose its source label: the agent sets it."""
    alert = webhook_inbox.PostedAlert("a", NOW, True, (("alertname", "RackHot"),))

    assert webhook_inbox.to_alert(alert).labels == (("__source__", "webhook"), ("alertname", "RackHot"))


@pytest.mark.parametrize(
    ("rack", "matches"),
    [("r7", True), ("r77", False), ("xr7", False), ("r7\n", False), ("r7; reboot", False), ("", False)],
)
def test_patterns_are_of_the_whole_value(rack: str, matches: bool) -> None:
    """A label's pattern must match the whole value, or the remedy does not match the alert."""
    bound_remedy = build_remedy(labels={"rack": "r[0-9]"})
    alert = webhook_inbox.to_alert(
        webhook_inbox.PostedAlert("a", NOW, True, tuple(sorted({**LABELS, "rack": rack}.items())))
    )

    assert evidence.matches(bound_remedy, AlertInput(alert, source="webhook")) is matches


def test_a_full_inbox_is_a_503(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full inbox answers 503, so that Alertmanager retries."""
    monkeypatch.setattr(webhook_inbox, "MAX_FIRING", 0)

    ((status, message),) = post(tmp_path, build_payload(POSTED))

    assert (status, message) == (503, "0 posted alerts fire already")


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(), lambda c: st.dictionaries(st.text(), c)))
def test_nothing_that_is_posted_is_a_fault(body: Any) -> None:
    """Any bytes get a 200 or a 400."""
    from agent.web.webhook_payload import decode_payload

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ValueError, match="expected"):
        decode_payload(data, "peer")
