"""What clients ask of a Prometheus besides queries: forms, other origins, status, targets, formatted queries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from agent.web.query_api import QueryApi
from agent.web.remedies_api import RemediesApi
from agent.web.server import WebServer
from collectors import Sample, gauge
from tests.agent.web.served_api import NOW_MS, ServedApi

ORIGIN = {"Origin": "https://grafana.example"}
ALLOWED = "Access-Control-Allow-Origin"
Session = Callable[[aiohttp.ClientSession, str], Awaitable[Any]]


@pytest.fixture(name="api")
def _serve_api(tmp_path: Path) -> ServedApi:
    return ServedApi(tmp_path)


def run_session(api: ServedApi, session: Session) -> Any:
    """Runs a function with a client and the address of the served API."""

    async def run() -> Any:
        context = api.build_context()
        routes = [
            *QueryApi(context).routes(),
            *RemediesApi(context.remedies, context.now_ms, context.tick_number).routes(),
        ]
        server = WebServer(metrics=lambda: bytes, tick_number=int, since_tick=lambda: None, interval=1.0, routes=routes)
        port = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as client:
                return await session(client, f"http://127.0.0.1:{port}/api/v1")
        finally:
            await server.close()

    return asyncio.run(run())


@pytest.mark.parametrize("value", ["max(heat_celsius)", 'max({__name__=~"heat.+",dimm!=`é\r\n--x`})'])
def test_a_form_is_read_in_either_encoding(api: ServedApi, value: str) -> None:
    """A POST with multipart/form-data, as curl -F sends it, is answered like one with the form of a browser."""

    async def ask(client: aiohttp.ClientSession, base: str) -> list[Any]:
        multipart = aiohttp.FormData({"query": value, "time": str(NOW_MS / 1000)}, default_to_multipart=True)
        plain = aiohttp.FormData({"query": value, "time": str(NOW_MS / 1000)})
        return [await (await client.post(f"{base}/query", data=form)).json() for form in (multipart, plain)]

    first, second = run_session(api, ask)
    assert first == second
    assert first["data"]["result"][0]["value"][1] == "42"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is not the multipart form"),
        (b"nonsense", "is not the multipart form"),
        (b"--b\r\n\r\nno name\r\n--b--", "no expression found"),
        (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n' * 1500 + b"--b--", "more than 1000 fields"),
    ],
)
def test_a_bad_multipart_form_gets_a_sentence(api: ServedApi, body: bytes, reason: str) -> None:
    """A body that is no form, has no named field or too many is bad data."""

    async def ask(client: aiohttp.ClientSession, base: str) -> Any:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        return await (await client.post(f"{base}/query", data=body, headers=headers)).json()

    answer = run_session(api, ask)
    assert answer["errorType"] == "bad_data"
    assert reason in answer["error"]


def test_pages_of_other_origins_read_and_change_nothing(api: ServedApi) -> None:
    """
    Reads of the query API, errors too, and their preflights allow every origin without credentials; remedies allow
    none.
    """

    async def ask(client: aiohttp.ClientSession, base: str) -> tuple[list[str | None], list[str | None]]:
        requests = [
            ("GET", "query?query=1"),
            ("GET", "query?query=("),
            ("POST", "query"),
            ("OPTIONS", "query"),
            ("OPTIONS", "label/job/values"),
            ("GET", "status/tsdb"),
        ]
        answers = [await client.request(method, f"{base}/{path}", headers=ORIGIN) for method, path in requests]
        assert [answer.headers.get("Access-Control-Allow-Credentials") for answer in answers] == [None] * len(answers)
        assert all("Origin" in answer.headers["Vary"] for answer in answers)
        assert answers[3].status == 204
        closed = [("GET", "remedies"), ("POST", "remedies/pause"), ("OPTIONS", "remedies/pause")]
        refused = [await client.request(method, f"{base}/{path}", headers=ORIGIN) for method, path in closed]
        plain = await client.get(f"{base}/query?query=1")
        return [each.headers.get(ALLOWED) for each in answers], [
            each.headers.get(ALLOWED) for each in (*refused, plain)
        ]

    opened, closed = run_session(api, ask)
    assert opened == ["*"] * len(opened)
    assert closed == [None] * len(closed)


@pytest.mark.parametrize(
    ("query", "formatted"),
    [
        ("sum by(dimm)(rate(x[5m]))/on()y", "sum by (dimm) (rate(x[5m])) / on () y"),
        (r'x{a=~"\\Q10.0.0.1\\E:\\d+",b!~"c|\"d\""}', r'x{a=~"\\Q10.0.0.1\\E:\\d+",b!~"c|\"d\""}'),
        (r'label_replace(x,"a",`=~"0"`,"b","")', r'label_replace(x, "a", "=~\"0\"", "b", "")'),
    ],
)
def test_a_query_is_formatted(api: ServedApi, query: str, formatted: str) -> None:
    """/api/v1/format_query spaces an expression as Prometheus does, and changes no pattern."""
    assert api.get_data("format_query", query=query) == formatted


def test_a_bad_query_is_not_formatted(api: ServedApi) -> None:
    """The refusal has its place."""
    reason = 'invalid parameter "query": 1:5: parse error: unclosed left parenthesis'
    assert api.get_error("format_query", query="sum(") == (400, "bad_data", reason)


def test_the_status_is_what_the_agent_knows(api: ServedApi) -> None:
    """Retention, limits, rule files and the series by name are the real ones; no field has a number nobody measured."""
    config = yaml.safe_load(api.get_data("status/config")["yaml"])
    flags = api.get_data("status/flags")
    series = api.get_data("status/tsdb", limit=1)

    assert api.get_data("status/runtimeinfo").keys() == {"startTime", "serverTime", "hostname", "storageRetention"}
    assert api.get_data("status/walreplay") == {"min": 0, "max": 0, "current": 0}
    assert config["global"]["evaluation_interval"] == "1s"
    assert [Path(file).name for file in config["rule_files"]] == ["rules.yml"]
    assert flags["storage.tsdb.retention.time"] == "1h"
    assert flags["query.lookback-delta"] == "5m"
    assert series["headStats"]["numSeries"] == len(api.get_data("series", match='{__name__!=""}'))
    assert series["seriesCountByMetricName"] == [{"name": "ALERTS", "value": 2}]
    assert api.get_data("targets")["activeTargets"][0]["labels"] == {"instance": "box", "job": "steadytok"}


def test_labels_with_utf8_names_are_listed(api: ServedApi) -> None:
    """A label that no identifier can name is found as it is and in the escaped form of Prometheus 3."""
    api.history.record("more", NOW_MS, [Sample(gauge("http.size", "Size."), (("a.b_c", "x"),), 1.0)])

    assert api.get_data("label/a.b_c/values") == ["x"]
    assert api.get_data("label/U__a_2e_b__c/values") == ["x"]
    assert api.get_data("query", query='{"http.size","a.b_c"="x"}')["result"][0]["metric"]["a.b_c"] == "x"
