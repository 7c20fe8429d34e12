"""
Each query of each dashboard returns data from a real Prometheus that scrapes agents, and from the agents themselves.

What is drawn from the answers lies in build/grafana/, one picture for each dashboard, to be looked at.
"""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import pytest

from tests import processes
from tests.deep import dashboard_pictures, dashboard_world
from tests.deep.dashboard_world import World
from tests.grafana import metric_names
from tests.grafana.dashboard_queries import FILES, HOUSE, PanelQuery, interpolate, list_every_query, load_dashboard

pytestmark = [pytest.mark.deep, pytest.mark.timeout(600)]

PATIENCE = 150.0  # seconds until every query has its data
SPAN, STEP = 300, 5  # seconds that a graph shows here
# By metric, what only one of the two can tell, with the reason.
ONLY_PROMETHEUS = {
    "up": "a scrape makes it, and nobody scrapes within the agent",
}


class Answers(NamedTuple):
    """The series that were answered to a query, by host: from Prometheus, and from the host's agent."""

    prometheus: dict[str, list[Any]]
    agents: dict[str, list[Any]]


Key = tuple[str, str, str]


def ask(base: str, path: str, parameters: Mapping[str, Any]) -> Any:
    """The data of an answer; an error fails the test with Prometheus' own words."""
    url = f"{base}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return json.loads(answer.read())["data"]
    except urllib.error.HTTPError as error:
        with error:
            pytest.fail(f"{url}: {error.code} {error.read().decode()[:500]}")


def list_choices(base: str, dashboard: Mapping[str, Any], host: str) -> dict[str, list[str]]:
    """The values of the variables, asked for as Grafana asks; `host` is chosen where one host is."""
    chosen: dict[str, list[str]] = {}
    for variable in dashboard["templating"]["list"][1:]:
        query = interpolate(variable["query"]["query"], chosen)
        match = re.fullmatch(r"label_values\((.+),\s*(\w+)\)", query)
        assert match is not None
        span = {"start": time.time() - SPAN, "end": time.time()}
        values = ask(base, f"label/{match[2]}/values", {"match[]": match[1], **span})
        chosen[variable["name"]] = [variable["allValue"]] if variable["multi"] else [host] if host in values else []
    return chosen


def run_query(base: str, query: PanelQuery, values: Mapping[str, Sequence[str]]) -> list[Any]:
    """The series of an answer."""
    expr = interpolate(query.expr, values)
    if query.instant:
        return list(ask(base, "query", {"query": expr, "time": time.time()})["result"])
    now = time.time() // STEP * STEP
    span = {"start": now - SPAN, "end": now, "step": STEP}
    return list(ask(base, "query_range", {"query": expr, **span})["result"])


def has_data(where: Mapping[str, list[Any]]) -> bool:
    """Whether any host has."""
    return any(where.values())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two agents and a Prometheus."""
    with dashboard_world.run_world(tmp_path_factory.mktemp("fleet")) as running_world:
        yield running_world


@pytest.fixture(scope="module")
def answers(world: World) -> dict[Key, Answers]:
    """Every query's answers, once all have come or patience has ended; and the pictures of them."""
    waiting = list_every_query()
    deadline = time.monotonic() + PATIENCE
    while waiting and time.monotonic() < deadline:
        time.sleep(5)
        results = _query_all(world, waiting)
        waiting = [query for query in waiting if _lacks(query, results[make_key(query)])]
    gave_up = {"query": "steadytok_remedy_gave_up"}
    processes.wait_until(lambda: bool(ask(world.prometheus, "query", gave_up)["result"]), 90, "a remedy gives up")
    results = _query_all(world, list_every_query())  # all of one time, for the pictures
    (HOUSE / "build" / "grafana").mkdir(parents=True, exist_ok=True)
    (HOUSE / "build" / "grafana" / "answers.json").write_text(json.dumps([[*at, each] for at, each in results.items()]))
    for path in FILES:
        dashboard_pictures.draw(load_dashboard(path), _select_drawn(results), HOUSE / "build" / "grafana")
    return results


def make_key(query: PanelQuery) -> Key:
    """What tells one query from all others."""
    return query.dashboard, query.panel, query.letter


def _query_all(world: World, queries: Sequence[PanelQuery]) -> dict[Key, Answers]:
    """All queries once, each where it can be asked, for each host."""
    places = {host: (world.prometheus, base) for host, base in world.agents.items()}
    chosen = {
        (host, base, name): list_choices(base, dashboard, host)
        for host, bases in places.items()
        for base in bases
        for name, dashboard in _DASHBOARDS.items()
    }

    def by_host(query: PanelQuery, server_index: int) -> dict[str, list[Any]]:
        return {
            host: run_query(bases[server_index], query, chosen[host, bases[server_index], query.dashboard])
            for host, bases in places.items()
        }

    return {make_key(query): Answers(by_host(query, 0), by_host(query, 1)) for query in queries}


_DASHBOARDS = {dashboard["uid"]: dashboard for dashboard in map(load_dashboard, FILES)}


def _lacks(query: PanelQuery, answers: Answers) -> bool:
    if not has_data(answers.prometheus):
        return True
    return not (_only_prometheus(query) or has_data(answers.agents))


def _only_prometheus(query: PanelQuery) -> bool:
    return bool(metric_names.find_metrics(interpolate(query.expr, _SOME)) & ONLY_PROMETHEUS.keys())


_SOME = {"instance": ["x"], "engine": ["x"]}


def _select_drawn(answers: Mapping[Key, Answers]) -> dict[Key, list[Any]]:
    """For a picture the host that has data: the folder's first, but for what agents do."""
    folder, live = dashboard_world.PICTURE, dashboard_world.LIVE
    return {
        key: of_query.prometheus[live if key[0] == "steadytok-acts" else folder]
        or of_query.prometheus[folder if key[0] == "steadytok-acts" else live]
        for key, of_query in answers.items()
    }


by_query = pytest.mark.parametrize("query", list_every_query(), ids=str)


@by_query
def test_prometheus_has_data(query: PanelQuery, answers: dict[Key, Answers]) -> None:
    """With its variables put in, as the scrape has it."""

    assert has_data(answers[make_key(query)].prometheus), query.expr


@by_query
def test_the_agent_has_data(query: PanelQuery, answers: dict[Key, Answers]) -> None:
    """From its memory, without a Prometheus; but for what only a scrape has."""
    if _only_prometheus(query):
        assert not has_data(answers[make_key(query)].agents) or "vector(0)" in query.expr
    else:
        assert has_data(answers[make_key(query)].agents), query.expr


OLD_KERNELS = {"steadytok_vmstat_workingset_refault_total"}  # of no kernel since Linux 5.9, and of no test's host
SELECTORS = sorted(
    {
        (path.stem, re.sub(r" offset \w+$", "", selector.prettify()))
        for path in FILES
        for query in list_every_query()
        if query.dashboard == path.stem
        for selector in metric_names.find_selectors(promql_parser.parse(query.expr.replace("$__rate_interval", "1m")))
        if selector.name not in OLD_KERNELS
    }
)


@pytest.mark.parametrize(("dashboard", "selector"), SELECTORS, ids=lambda parameter: str(parameter)[:100])
def test_each_selector_finds_something(
    dashboard: str, selector: str, world: World, answers: dict[Key, Answers]
) -> None:
    """Each by itself: `or vector(0)` and the other side of an `or` would hide a name that is not there."""
    series = []
    for host in world.agents:
        values = list_choices(world.prometheus, _DASHBOARDS[dashboard], host)
        query = interpolate(f"last_over_time({selector}[5m])", values)
        series += ask(world.prometheus, "query", {"query": query, "time": time.time()})["result"]

    had = {name for each in series for name in each["metric"]}
    assert series
    # A matcher of a label that is not there, such as entity!~"8|32", would match everything.
    assert set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', selector)) <= had


@by_query
def test_a_legend_finds_its_labels(query: PanelQuery, answers: dict[Key, Answers]) -> None:
    """Each label in braces is one that some series of the answer has; else the legend would be empty there."""
    series = [each for where in answers[make_key(query)].prometheus.values() for each in where]
    had = {name for each in series for name in each["metric"]}

    assert set(re.findall(r"{{(\w+)}}", query.legend)) <= had


def test_the_example_of_a_fleet_says_who_is_silent(world: World, answers: dict[Key, Answers]) -> None:
    """The third host of the example's targets, where nobody listens, is pending in SteadytokDown or many are down."""
    alerts = ask(world.prometheus, "alerts", {})["alerts"]

    assert {alert["labels"]["alertname"] for alert in alerts} & {"SteadytokDown", "SteadytokManyDown"}


def test_identity_is_the_same_from_both(world: World, answers: dict[Key, Answers]) -> None:
    """A series has the same labels whether Prometheus or the agent is asked: the dashboards need no edit for either."""
    query = {"query": "steadytok_dimm_headroom_celsius", "time": time.time()}
    host = dashboard_world.PICTURE
    ours, theirs = (
        {tuple(sorted(each["metric"].items())) for each in ask(base, "query", query)["result"]}
        for base in (world.agents[host], world.prometheus)
    )

    assert ours
    assert ours <= theirs
    assert all(dict(labels)["instance"] == host for labels in ours)


def test_there_is_a_picture_of_each_dashboard(answers: dict[Key, Answers]) -> None:
    """Drawn from real answers, with units, thresholds and legends; somebody has to look at them."""
    pictures = {path.stem: path for path in Path(HOUSE / "build" / "grafana").glob("*.png")}

    assert {path.stem for path in FILES} <= pictures.keys()
    assert all(path.stat().st_size > 20_000 for path in pictures.values())
