"""
The query API gives what a real Prometheus gives, request for request, and `promtool query` works against it.

Prometheus gets the samples as blocks made by promtool, with `job` and `instance` on every series; here History holds
them without, and the API adds them. No sample and no subquery step lies on the edge of a window, where Prometheus 2 and
3 differ; `limit`, which only 3 knows, is not asked for. What series mean is known to Prometheus from scrapes alone, so
metadata is not compared.
"""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from agent.web.query_api import QueryApi
from agent.web.server import WebServer
from collectors import Metric, Sample, counter, gauge
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.rulefile import load_rules
from tests import processes
from tests.agent.web.contexts import build_context

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]

START_MS = 1_700_000_000_137
ROWS, INTERVAL_MS = 400, 5_000
END = START_MS // 1000 + ROWS * INTERVAL_MS // 1000
IDENTITY = {"instance": "box:9817", "job": "steadytok"}
HEAT = gauge("heat_celsius", "How hot.")
OPS = counter("ops_total", "How many.")
ODD = gauge("odd", "Values that are hard to write.")
ODDITIES = (1e21, 123456789012345678.0, 1e-7, 0.000001, 1 / 3, -0.0, 1.5e300, 100000.0, 2.5e-5)
RULES = """
groups:
- name: second
  interval: 1s
  rules:
  - {record: 'one', expr: vector(1), labels: {a: b}}
- name: first
  interval: 2s
  limit: 3
  rules:
  - {alert: Always, expr: 'vector(1234567)', labels: {severity: page}, annotations: {summary: 'is {{ $value }}'}}
  - {alert: Soon, expr: 'vector(0.25)', for: 1h}
  - {alert: Never, expr: 'vector(1) > 2', for: 90s}
  - {alert: Wrong, expr: 'label_replace(vector(1) or label_replace(vector(2), "b", "c", "", ""), "b", "x", "", "")'}
"""
at, near = END - 301, {"start": END - 403, "end": END - 3, "step": 7}
FORMATTED = (
    "sum by(dimm)(rate(x{a=~`b.*`}[5m]))/on()y",
    "-x^2+(1 - y) offset 1m",
    "topk(3,max_over_time(x[1h:1m])) or vector(1) > bool 2",
    "histogram_quantile(0.9, sum without(node)(rate(h_bucket{a!~'[b-d]',c!=''}[1m]))) @ 17",
    'label_replace(x,"a","$1 \\"q\\"","b","(.*)")',
    "x * on(a, b) group_left(c) y",
    "(",
)
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    *(("format_query", {"query": text}) for text in FORMATTED),
    *(
        ("query", {"query": text, "time": at})
        for text in (
            "heat_celsius",
            "odd",
            "odd * 1",
            'heat_celsius{job="steadytok"}',
            'heat_celsius{instance!="box:9817"}',
            '{instance=~"box.*",node="1"}',
            "sum by (job, instance) (rate(ops_total[5m]))",
            "sum without (dimm, node) (heat_celsius)",
            "count by (job) ({__name__=~'.+'})",
            "heat_celsius * on(job, instance) group_left count(heat_celsius) by (job, instance)",
            "absent(heat_celsius{job='other'})",
            "topk(2, heat_celsius)",
            "heat_celsius[2m]",
            "rate(ops_total[1m])[2m:15s]",
            "heat_celsius[1m] offset 10m",
            "1 / 3",
            "time()",
            "-1e21",
            '"a \\"string\\""',
            "none",
        )
    ),
    ("query", {"query": "heat_celsius", "time": f"{at}.5"}),
    ("query", {"query": "heat_celsius", "time": "2023-11-14T22:40:00.25Z"}),
    ("query", {"query": "heat_celsius", "time": "2023-11-14T23:40:00+01:00"}),
    ("query", {"query": "time()", "time": "1.0005"}),
    ("query", {"query": "1", "time": "yesterday"}),
    ("query", {"query": "1", "time": 1, "timeout": "x"}),
    ("query", {"query": "heat_celsius + on() heat_celsius", "time": at}),
    ("query", {"query": "sum(", "time": at}),
    ("query", {"query": "", "time": at}),
    *(
        ("query_range", {"query": text, **near})
        for text in ("heat_celsius", "rate(ops_total[1m])", "time()", "1.5", "vector(2)", "heat_celsius > 43", "none")
    ),
    ("query_range", {"query": "heat_celsius", "start": END - 100, "end": END + 400, "step": "13s500ms"}),
    ("query_range", {"query": "heat_celsius", "start": END - 50.25, "end": END - 50.25, "step": 0.001}),
    ("query_range", {"query": "heat_celsius[5m]", **near}),
    ("query_range", {"query": "'x'", **near}),
    ("query_range", {"query": "1", "start": 2, "end": 1, "step": 1}),
    ("query_range", {"query": "1", "start": 1, "end": 2, "step": 0}),
    ("query_range", {"query": "1", "start": 1, "end": 2, "step": -1}),
    ("query_range", {"query": "1", "start": 1, "end": 2}),
    ("query_range", {"query": "1", "start": 1, "step": 1}),
    ("query_range", {"query": "1", "start": 0, "end": 11_000, "step": 1}),
    ("query_range", {"query": "1", "start": 0, "end": 11_001, "step": 1}),
    ("query_range", {"query": "1", "start": 1, "end": 2, "step": "1e40"}),
    ("series", {"match[]": ["heat_celsius", '{node="1"}']}),
    ("series", {"match[]": 'ops_total{job="steadytok"}', "start": END - 60, "end": END}),
    ("series", {"match[]": "none"}),
    ("series", {}),
    ("labels", {"match[]": '{job="steadytok"}', "start": END - 600, "end": END}),
    ("labels", {"match[]": "ops_total"}),
    ("labels", {"match[]": "ops_total", "start": "x"}),
    ("label/dimm/values", {}),
    ("label/instance/values", {"match[]": "heat_celsius"}),
    ("label/__name__/values", {"match[]": '{job="steadytok"}', "start": END - 60, "end": END}),
    ("label/none/values", {}),
    ("query_exemplars", {"query": "heat_celsius", "start": 1, "end": 2}),
]


def _points(row: int) -> Iterator[tuple[Metric, dict[str, str], float]]:
    for slot, dimm in enumerate(('A"1\\', "B1", "é")):
        yield HEAT, {"dimm": dimm, "node": str(slot % 2)}, 40 + 5 * math.sin(row / 9 + slot) + slot / 7
    yield OPS, {}, 3.0 * (row % 250) + 1
    for number, value in enumerate(ODDITIES):
        yield ODD, {"which": str(number)}, value


def _history() -> History:
    history = History(86_400_000, identity=IDENTITY)
    for row in range(ROWS):
        samples = [Sample(metric, tuple(labels.items()), value) for metric, labels, value in _points(row)]
        history.record("test", START_MS + row * INTERVAL_MS, samples)
    return history


def _openmetrics() -> str:
    lines: dict[str, list[str]] = {"heat_celsius": [], "ops_total": [], "odd": []}
    for row in range(ROWS):
        for metric, labels, value in _points(row):
            escaped = {name: text.replace("\\", "\\\\").replace('"', '\\"') for name, text in labels.items()}
            pairs = ",".join(f'{name}="{text}"' for name, text in sorted({**escaped, **IDENTITY}.items()))
            at_seconds = f"{(START_MS + row * INTERVAL_MS) / 1000:.3f}"
            lines[metric.name].append(f"{metric.name}{{{pairs}}} {value!r} {at_seconds}")
    return "\n".join(line for each in lines.values() for line in each) + "\n# EOF\n"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus on loopback that holds the samples and evaluates the rules; its base URL."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "samples").write_text(_openmetrics())
    (folder / "rules.yml").write_text(RULES)
    (folder / "prometheus.yml").write_text("global: {evaluation_interval: 1s}\nrule_files: [rules.yml]\n")
    making = ["tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=24h", "samples", "data"]
    completed = subprocess.run(
        [processes.require_program("promtool"), *making], cwd=folder, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    base = f"http://127.0.0.1:{processes.find_free_port()}"
    options = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address={base.removeprefix('http://')}",
        "--storage.tsdb.retention.time=100y",
    ]
    with processes.run_process([processes.require_program("prometheus"), *options], folder / "log"):
        processes.wait_until(lambda: processes.fetch(f"{base}/-/ready") is not None, 20, "Prometheus gets ready")
        yield base


@pytest.fixture(scope="module")
def steadytok(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our API on loopback over the same samples, served by an event loop in a thread; its base URL."""
    path = tmp_path_factory.mktemp("rules") / "rules.yml"
    path.write_text(RULES)
    rules = RuleEvaluator(load_rules([path]), interval_ms=1000, external_labels={}, external_url="")
    rules.evaluate(History(1000), END * 1000)
    context = build_context(
        history=_history(),
        rules=lambda: rules,
        now_ms=lambda: END * 1000,
        identity=IDENTITY,
        version="1.0",
        subquery_step_ms=1000,
        external_labels={},
        external_url="http://box",
        since_tick=lambda: 0.5,
    )
    event_loop = asyncio.new_event_loop()
    thread = threading.Thread(target=event_loop.run_forever, daemon=True)
    thread.start()
    server = WebServer(
        metrics=lambda: bytes, tick_number=int, since_tick=lambda: None, interval=1.0, routes=QueryApi(context).routes()
    )
    port = asyncio.run_coroutine_threadsafe(server.start("127.0.0.1", 0), event_loop).result(10)
    yield f"http://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(server.close(), event_loop).result(10)
    event_loop.call_soon_threadsafe(event_loop.stop)
    thread.join(10)
    event_loop.close()


def _ask(base: str, path: str, parameters: dict[str, Any], *, form: bool = False) -> tuple[int, Any]:
    pairs = urllib.parse.urlencode(parameters, doseq=True)
    url = f"{base}/api/v1/{path}"
    try:
        where, body = (url, pairs.encode()) if form else (f"{url}?{pairs}", None)
        with urllib.request.urlopen(where, body, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def _same(ours: Any, theirs: Any) -> bool:
    """Equal; values in the tails of two summations may differ in their last digit."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(_same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))
    if isinstance(ours, str) and isinstance(theirs, str) and ours != theirs:
        return _close(ours, theirs)
    return bool(ours == theirs)


def _close(ours: str, theirs: str) -> bool:
    try:
        return math.isclose(float(ours), float(theirs), rel_tol=1e-12)
    except ValueError:
        return False


def _comparable(path: str, parameters: dict[str, Any], answer: Any) -> Any:
    """Without what nobody promises: the order of an instant vector, the words of a parser's or a join's complaint."""
    if answer["status"] == "error" and ("parse error" in answer["error"] or answer["errorType"] == "execution"):
        return {**answer, "error": answer["error"].split(":")[0] if "parse error" in answer["error"] else "…"}
    ordered = str(parameters.get("query", "")).startswith("topk")
    if path == "query" and answer["status"] == "success" and answer["data"]["resultType"] == "vector" and not ordered:
        result = sorted(answer["data"]["result"], key=lambda series: sorted(series["metric"].items()))
        return {**answer, "data": {**answer["data"], "result": result}}
    return answer


@pytest.mark.parametrize(
    ("path", "parameters", "form"),
    [
        pytest.param(path, parameters, form, id=f"{'POST' if form else 'GET'} {path} {parameters}")
        for path, parameters in REQUESTS
        for form in (False, True)
        if not (form and path.startswith("label/"))  # Prometheus takes no form there
    ],
)
def test_an_answer_is_prometheus_own(
    path: str, parameters: dict[str, Any], form: bool, prometheus: str, steadytok: str
) -> None:
    """Status, shape, labels, times, values as they are written, and the words of refusals."""
    theirs = _ask(prometheus, path, parameters, form=form)
    ours = _ask(steadytok, path, parameters, form=form)
    expected, actual = (_comparable(path, parameters, each[1]) for each in (theirs, ours))

    assert ours[0] == theirs[0], (ours, theirs)
    assert _same(actual, expected), f"\nours   {json.dumps(actual)[:2000]}\ntheirs {json.dumps(expected)[:2000]}"


def test_a_value_is_written_digit_for_digit(prometheus: str, steadytok: str) -> None:
    """Where nothing is calculated, the text itself is the same."""
    ours, theirs = (
        sorted(each["value"][1] for each in _ask(base, "query", {"query": "odd", "time": at})[1]["data"]["result"])
        for base in (steadytok, prometheus)
    )

    assert ours == theirs
    assert len(ours) == len(ODDITIES)


def test_rules_have_prometheus_shape(prometheus: str, steadytok: str) -> None:
    """Groups in the same order, rules with the same fields and states; ours say keepFiringFor besides, as 3.x does."""

    def has_evaluated() -> bool:
        groups = _ask(prometheus, "rules", {})[1]["data"]["groups"]
        return bool(groups) and all(rule["health"] != "unknown" for group in groups for rule in group["rules"])

    processes.wait_until(has_evaluated, 20, "Prometheus evaluates its rules")
    theirs, ours = (_ask(base, "rules", {})[1]["data"]["groups"] for base in (prometheus, steadytok))

    assert [group["name"] for group in ours] == [group["name"] for group in theirs]
    for our_group, their_group in zip(ours, theirs, strict=True):
        assert their_group.keys() <= our_group.keys()
        assert (our_group["interval"], our_group["limit"]) == (their_group["interval"], their_group["limit"])
        for our_rule, their_rule in zip(our_group["rules"], their_group["rules"], strict=True):
            assert set(their_rule) <= our_rule.keys() | {"labels"}
            for name in ("name", "type", "health", "state", "duration", "annotations"):
                assert our_rule.get(name) == their_rule.get(name), (our_rule, their_rule)


def test_alerts_are_prometheus_own(prometheus: str, steadytok: str) -> None:
    """The same alerts with state, annotations and value as text; labels with the identity besides."""
    by_server = {}
    for base in (prometheus, steadytok):
        processes.wait_until(
            lambda base=base: len(_ask(base, "alerts", {})[1]["data"]["alerts"]) == 2, 20, "two alerts"
        )
        alerts = _ask(base, "alerts", {})[1]["data"]["alerts"]
        by_server[base] = sorted(
            ({**alert, "labels": {**IDENTITY, **alert["labels"]}, "activeAt": ""} for alert in alerts),
            key=lambda alert: str(alert["labels"]),
        )

    assert by_server[steadytok] == by_server[prometheus]


@pytest.mark.parametrize(
    "arguments",
    [
        ["instant", f"--time={at}", "BASE", "heat_celsius"],
        ["instant", f"--time={at}", "BASE", "heat_celsius[20s]"],
        ["instant", f"--time={at}", "BASE", "1 + 2"],
        ["range", f"--start={END - 60}", f"--end={END}", "--step=15s", "BASE", "rate(ops_total[1m])"],
        ["series", "--match=heat_celsius", "--match=ops_total", f"--start={END - 600}", f"--end={END}", "BASE"],
        ["labels", f"--start={END - 600}", f"--end={END}", "BASE", "dimm"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_promtool_query_works(arguments: list[str], prometheus: str, steadytok: str) -> None:
    """It prints the same of both, but for the order of an instant vector."""
    printed = []
    for base in (prometheus, steadytok):
        command = [
            processes.require_program("promtool"),
            "query",
            *(base if each == "BASE" else each for each in arguments),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        printed.append(sorted(done.stdout.splitlines()) if "instant" in arguments else done.stdout.splitlines())

    assert printed[0]
    assert printed[1] == printed[0]


@pytest.mark.parametrize(
    "path",
    [
        *("status/buildinfo", "status/runtimeinfo", "status/config", "status/flags", "status/tsdb"),
        *("status/walreplay", "targets"),
    ],
)
def test_the_status_has_fields_of_prometheus(path: str, prometheus: str, steadytok: str) -> None:
    """Every field has the name and the type that Prometheus gives it; some of its fields are missing."""
    (ours_status, ours), (theirs_status, theirs) = _ask(steadytok, path, {}), _ask(prometheus, path, {})
    new_in_3 = {"hostname", "serverTime", "droppedTargetCounts"}
    fields = {name: type(value) for name, value in ours["data"].items() if name not in new_in_3}

    assert (ours_status, theirs_status) == (200, 200)
    assert fields.items() <= {name: type(value) for name, value in theirs["data"].items()}.items()


def test_other_origins_get_the_headers_of_prometheus(prometheus: str, steadytok: str) -> None:
    """A page of another origin may read the same, and a browser that asks first gets the same answer."""
    headers = []
    for base in (prometheus, steadytok):
        for method in ("GET", "OPTIONS"):
            request = urllib.request.Request(f"{base}/api/v1/query?query=1", method=method)
            request.add_header("Origin", "https://grafana.example")
            with urllib.request.urlopen(request, timeout=20) as answer:
                cors = {name: value for name, value in answer.headers.items() if name.startswith("Access-Control")}
                headers.append((method, answer.status, cors))

    assert headers[:2] == headers[2:]
