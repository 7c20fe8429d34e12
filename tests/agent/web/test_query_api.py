"""The query API over HTTP on loopback, on a small History: shapes, refusals, identity, bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import threading
from typing import Any

import aiohttp
import pytest

from agent.web.query_api import QueryApi
from agent.web.server import WebServer
from collectors import Sample, gauge
from tests.agent.web.served_api import IDENTITY, NOW, NOW_MS, ServedApi


def test_an_instant_query_gives_a_vector(api: ServedApi) -> None:
    """Each series has its labels, the identity included, and its value at the requested time."""
    expected = {
        "resultType": "vector",
        "result": [
            {"metric": {"__name__": "heat_celsius", "dimm": "a", **IDENTITY}, "value": [NOW, "41"]},
            {"metric": {"__name__": "heat_celsius", "dimm": "b", **IDENTITY}, "value": [NOW, "42"]},
        ],
    }

    assert api.get_data("query", query="heat_celsius") == expected
    assert api.get_data("query", query="heat_celsius", time=NOW) == expected
    assert api.get_data("query", query="heat_celsius", time="2023-11-14T22:13:20Z") == expected
    assert api.post("query", query="heat_celsius") == (200, {"status": "success", "data": expected})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1.5", "1.5"),
        ("1", "1"),
        ("1e6", "1000000"),
        ("123456789012345678", "123456789012345680"),
        ("1e21", "1e+21"),
        ("0.000001", "0.000001"),
        ("0.00000015", "1.5e-07"),
        ("-0.00001", "-0.00001"),
        ("0/0", "NaN"),
        ("1/0", "+Inf"),
        ("-1/0", "-Inf"),
        ("1/3", "0.3333333333333333"),
        ("-(0*1)", "-0"),
    ],
)
def test_a_scalar_is_written_as_prometheus_writes_it(api: ServedApi, text: str, value: str) -> None:
    """A scalar has its significant digits, and an exponent only far from 1."""
    assert api.get_data("query", query=text, time=f"{NOW}.25") == {
        "resultType": "scalar",
        "result": [NOW + 0.25, value],
    }


def test_strings_and_range_vectors_are_results_too(api: ServedApi) -> None:
    """A range vector as an instant query gives the samples themselves, with their own times."""
    assert api.get_data("query", query='"so\\n"') == {"resultType": "string", "result": [NOW, "so\n"]}
    assert api.get_data("query", query='heat_celsius{dimm="a"}[2s]', time=NOW - 0.5) == {
        "resultType": "matrix",
        "result": [
            {
                "metric": {"__name__": "heat_celsius", "dimm": "a", **IDENTITY},
                "values": [[NOW - 2, "41"], [NOW - 1, "40"]],
            }
        ],
    }


def test_a_range_query_gives_a_matrix(api: ServedApi) -> None:
    """Series are in order of their labels, with a value for each step that has one; a scalar has no labels."""
    window = {"start": NOW - 600, "end": NOW, "step": "5m"}
    series = api.get_data("query_range", query="-heat_celsius", **window)
    scalar = api.get_data("query_range", query="time()", start=NOW - 1, end=NOW, step=0.5)

    assert series["resultType"] == scalar["resultType"] == "matrix"
    assert [each["metric"] for each in series["result"]] == [{"dimm": "a", **IDENTITY}, {"dimm": "b", **IDENTITY}]
    assert series["result"][0]["values"] == [[NOW - 300, "-41"], [NOW, "-41"]]
    assert scalar["result"] == [
        {"metric": {}, "values": [[NOW - 1, str(NOW - 1)], [NOW - 0.5, f"{NOW - 1}.5"], [NOW, str(NOW)]]}
    ]


def test_the_identity_takes_part(api: ServedApi) -> None:
    """Matchers on job and instance, groupings by them and joins on them work as after a scrape."""

    def query_labels(text: str) -> list[Any]:
        return [each["metric"] for each in api.get_data("query", query=text)["result"]]

    assert query_labels('heat_celsius{job="steadytok",instance=~"b.*",dimm="a"}') == [
        {"__name__": "heat_celsius", "dimm": "a", **IDENTITY}
    ]
    assert query_labels('heat_celsius{job!="steadytok"}') == []
    assert query_labels("sum by (job, instance) (heat_celsius)") == [IDENTITY]
    assert query_labels("ops_total * on(job, instance) group_right heat_celsius") == [
        {"dimm": "a", **IDENTITY},
        {"dimm": "b", **IDENTITY},
    ]
    assert api.get_data("series", match='ops_total{instance="box"}') == [{"__name__": "ops_total", **IDENTITY}]
    assert api.get_data("label/instance/values") == ["box"]


def test_series_labels_and_values(api: ServedApi) -> None:
    """Results of all selectors are sorted and unique; labels without a selector cover everything."""
    assert api.get_data("series", match=["heat_celsius", 'heat_celsius{dimm="b"}']) == [
        {"__name__": "heat_celsius", "dimm": "a", **IDENTITY},
        {"__name__": "heat_celsius", "dimm": "b", **IDENTITY},
    ]
    everything = api.get_data("labels")
    assert everything == ["__name__", "alertname", "alertstate", "dimm", "instance", "job", "severity"]
    assert api.get_data("labels", match="ops_total") == ["__name__", "instance", "job"]
    assert api.get_data("label/dimm/values") == ["a", "b"]
    assert api.get_data("label/dimm/values", match="ops_total") == []
    assert api.get_data("label/__name__/values", start=0, end=NOW - 10_000) == []
    assert "ops_total" in api.get_data("label/__name__/values", start=NOW - 10, end="2033-01-01T00:00:00.5+01:00")


def test_metadata_says_what_metrics_mean(api: ServedApi) -> None:
    """Metadata has the type and help of all metrics or of one; the unit is empty."""
    assert api.get_data("metadata", metric="ops_total") == {
        "ops_total": [{"type": "counter", "help": "How many.", "unit": ""}]
    }
    assert api.get_data("metadata", metric="none") == {}
    assert set(api.get_data("metadata")) >= {"ops_total", "heat_celsius", "heat:max", "ALERTS"}
    assert len(api.get_data("metadata", limit=1)) == 1


def test_a_limit_truncates_and_says_so(api: ServedApi) -> None:
    """A truncated result has a warning, as in Prometheus 3; a result that fits has none."""
    requests: list[tuple[str, dict[str, Any]]] = [
        ("query", {"query": "heat_celsius"}),
        ("query", {"query": "heat_celsius[1m]"}),
        ("query_range", {"query": "heat_celsius", "start": NOW - 5, "end": NOW, "step": 1}),
        ("series", {"match": "heat_celsius"}),
        ("labels", {}),
        ("label/dimm/values", {}),
    ]
    for path, parameters in requests:
        answer = api.get(path, **parameters, limit=1)[1]
        data = answer["data"]
        assert len(data["result"] if isinstance(data, dict) else data) == 1, path
        assert answer["warnings"] == ["results truncated due to limit"]
        assert "warnings" not in api.get(path, **parameters, limit=100)[1]


@pytest.mark.parametrize(
    ("path", "parameters", "message"),
    [
        ("query", {"query": "sum("}, 'invalid parameter "query": 1:5: parse error: unclosed left parenthesis'),
        ("query", {}, 'invalid parameter "query": 1:1: parse error: no expression found in input'),
        (
            "query",
            {"query": "1", "time": "now"},
            "invalid parameter \"time\": Invalid time value for 'time': cannot parse",
        ),
        ("query", {"query": "1", "time": "2023-02-30T00:00:00Z"}, "to a valid timestamp"),
        ("query", {"query": "1", "time": "nan"}, "to a valid timestamp"),
        ("query", {"query": "1", "time": "1e400"}, "the time is out of range"),
        ("query", {"query": "1", "timeout": "soon"}, 'invalid parameter "timeout": cannot parse "soon"'),
        ("query", {"query": "1", "limit": "-1"}, "limit must be non-negative"),
        ("query", {"query": "1", "lookback_delta": "1m"}, 'invalid parameter "lookback_delta"'),
        ("query", {"query": "(" * 10_000}, "nests deeper"),
        ("query_range", {"query": "1", "end": 5, "step": 1}, 'invalid parameter "start": cannot parse ""'),
        ("query_range", {"query": "1", "start": 9, "end": 5, "step": 1}, "end timestamp must not be before start time"),
        ("query_range", {"query": "1", "start": 1, "end": 5, "step": 0}, "zero or negative query resolution step"),
        ("query_range", {"query": "1", "start": 1, "end": 5, "step": "1e30"}, "It overflows int64"),
        ("query_range", {"query": "1", "start": 0, "end": 11_001, "step": 1}, "exceeded maximum resolution of 11,000"),
        ("query_range", {"query": "ops_total[1m]", "start": 0, "end": 1, "step": 1}, 'type "range vector" for range'),
        ("query_range", {"query": "'x'", "start": 0, "end": 1, "step": 1}, 'invalid expression type "string"'),
        ("series", {}, "no match[] parameter provided"),
        ("series", {"match": "sum(x)"}, 'invalid parameter "match[]": 1:1: parse error: expected a series selector'),
        ("series", {"match": "{}"}, 'invalid parameter "match[]": 1:1: parse error: '),
        ("labels", {"match": "x", "start": "x"}, 'invalid parameter "start"'),
        ("label/U__/values", {}, 'invalid label name: ""'),
        ("rules", {"type": "both"}, 'not supported value "both"'),
        ("rules", {"group_next_token": "x"}, "group_limit needs to be set"),
    ],
)
def test_what_is_wrong_is_bad_data(api: ServedApi, path: str, parameters: dict[str, Any], message: str) -> None:
    """Status 400 and a sentence that names the parameter."""
    status, kind, error = api.get_error(path, **parameters)

    assert (status, kind) == (400, "bad_data")
    assert message in error


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("heat_celsius + on() heat_celsius", "many-to-many matching not allowed"),
        ('label_replace(heat_celsius, "dimm", "x", "", "")', "same labelset"),
        ("max_over_time(heat_celsius[1h:1ms])", "use a longer step or a shorter range"),
        ("sum_over_time(sum_over_time(vector(1)[40m:1s])[40m:1s])", None),
        ("quantile_over_time(0.5, (heat_celsius * 1)[30m:100ms])", None),
    ],
)
def test_what_cannot_be_evaluated_is_an_execution_error(api: ServedApi, query: str, message: str | None) -> None:
    """A fault in the data or too expensive a query gets a 422; a query that is only wide is answered."""
    status, answer = api.get("query", query=query)

    assert status == (200 if message is None else 422)
    assert message is None or (answer["errorType"] == "execution" and message in answer["error"])


def test_many_series_and_steps_are_refused(api: ServedApi) -> None:
    """The cells of an evaluation and the samples of an answer are bounded."""
    wide = [Sample(gauge("wide", "Wide."), (("n", str(number)),), float(number)) for number in range(1000)]
    api.history.record("wide", NOW_MS - 1000, wide)
    window = {"start": NOW - 11_000, "end": NOW, "step": 1}
    evaluated = api.get_error("query_range", query="wide + 1", **window)
    values = api.get_error("query_range", query="count_values('v', wide)", start=NOW - 10_000, end=NOW, step=1)
    api.history.record("wide", NOW_MS, wide)
    answered = api.get_error("query_range", query="wide", start=NOW, end=NOW + 290, step=0.28)

    assert evaluated[:2] == values[:2] == answered[:2] == (422, "execution")
    assert "cells" in evaluated[2]
    assert "the answer has" in answered[2]


def test_a_timeout_is_kept(api: ServedApi) -> None:
    """The query gives up when its time is over, with status 503."""
    status, kind, error = api.get_error("query", query="heat_celsius", timeout="0.000001")

    assert (status, kind) == (503, "timeout")
    assert "timed out" in error


def test_the_build_is_told(api: ServedApi) -> None:
    """Grafana requests the build; unknown fields are empty."""
    assert api.get_data("status/buildinfo")["version"] == "1.2.3"
    assert api.get_data("query_exemplars", query="x") == []


def test_a_form_may_be_long_and_an_address_too_many(api: ServedApi) -> None:
    """A POST accepts expressions too long for an address; a flood of parameters is refused."""
    text = " + ".join(["vector(0)"] * 150) + " # " + "x" * 60_000
    status, answer = api.post("query", query=text)

    assert (status, answer["data"]["result"][0]["value"][1]) == (200, "0")
    assert api.post("query", query="1", match=["x"] * 2000)[0] == 400


def test_large_answers_are_packed_where_that_is_asked(api: ServedApi) -> None:
    """A compressed answer has the same content."""

    async def ask() -> tuple[str | None, bytes]:
        server = WebServer(
            metrics=lambda: bytes,
            tick_number=int,
            since_tick=lambda: None,
            interval=1.0,
            routes=QueryApi(api.build_context()).routes(),
        )
        port = await server.start("127.0.0.1", 0)
        async with aiohttp.ClientSession(auto_decompress=False) as client:
            url = f"http://127.0.0.1:{port}/api/v1/query_range?query=heat_celsius&start={NOW - 500}&end={NOW}&step=1"
            async with client.get(url, headers={"Accept-Encoding": "gzip"}) as answer:
                answered = answer.headers.get("Content-Encoding"), await answer.read()
        await server.close()
        return answered

    encoding, body = asyncio.run(ask())
    values = json.loads(gzip.decompress(body))["data"]["result"][0]["values"]

    assert encoding == "gzip"
    assert len(values) == 501
    assert not any(math.isnan(float(value)) for _, value in values)


def test_queries_run_in_threads_of_their_own(api: ServedApi) -> None:
    """Queries use daemon threads, never the default executor, which would delay the end of the agent."""
    api.get_data("query", query="heat_celsius")
    query_threads = [thread for thread in threading.enumerate() if thread.name == "query"]
    for thread in query_threads:
        thread.join(10)

    assert all(thread.daemon and not thread.is_alive() for thread in query_threads)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("asyncio")]
