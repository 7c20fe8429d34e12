"""Tests of the committed dashboards: current, valid for Grafana, and readable."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest
import yaml

from grafana.__main__ import build_dashboards, find_stale_files
from tests.grafana import metric_names
from tests.grafana.dashboard_queries import (
    FILES,
    HOUSE,
    PanelQuery,
    interpolate,
    list_every_query,
    list_panels,
    load_dashboard,
)

SCHEMA = json.loads((Path(__file__).parent / "dashboard-13.2.schema.json").read_text())
# Grafana's types are for any data source; they lack the annotation keys of the Prometheus data source.
DATA_SOURCE_KEYS = {"target", "expr", "step", "titleFormat", "textFormat", "useValueForTime"}
UNITS = {
    *("short", "percent", "percentunit", "celsius", "bytes", "Bps", "ops", "hertz", "watt", "rotrpm", "s"),
    "dateTimeFromNow",
}
VALUES = {"instance": ["host1"], "engine": ["r1", "r2"], "datasource": ["x"]}
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
by_query = pytest.mark.parametrize("query", list_every_query(), ids=str)


def list_every_panel() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in FILES:
        for panel in list_panels(load_dashboard(path)):
            yield f"{path.stem}: {panel['title']}", panel


def test_the_files_are_as_the_code_has_them() -> None:
    """The committed files match the code; else run make docs (or python -m grafana) and review the changes."""

    assert find_stale_files() == [], "not current: run make docs"
    assert len(FILES) == len(build_dashboards()) == 5


@by_file
def test_grafana_takes_it(path: Path) -> None:
    """Every key, type and enumeration conforms to Grafana's types."""
    dashboard = load_dashboard(path)
    for annotation in dashboard["annotations"]["list"]:
        for key in DATA_SOURCE_KEYS:
            del annotation[key]
    errors = [
        f"{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}"
        for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(dashboard)
    ]

    assert errors == []


@by_file
def test_import_needs_no_edit(path: Path) -> None:
    """Each panel and annotation uses the data source of the drop-down; no id of another Grafana is in the file."""
    dashboard = load_dashboard(path)
    source = {"type": "prometheus", "uid": "${datasource}"}
    datasource_users = [
        *list_panels(dashboard),
        *dashboard["annotations"]["list"],
        *dashboard["templating"]["list"][1:],
    ]
    datasource_users += [target for panel in list_panels(dashboard) for target in panel["targets"]]

    assert all(user["datasource"] == source for user in datasource_users)
    assert "id" not in dashboard
    assert "__inputs" not in dashboard
    assert dashboard["title"].endswith("?")


def test_dashboards_find_each_other() -> None:
    """Each dashboard has its own uid, the common tag, and links to the others that keep host and time."""
    dashboards = [load_dashboard(path) for path in FILES]

    assert len({dashboard["uid"] for dashboard in dashboards}) == len(dashboards)
    assert all(dashboard["tags"] == ["steadytok"] for dashboard in dashboards)
    assert all(link["includeVars"] and link["keepTime"] for dashboard in dashboards for link in dashboard["links"])


@by_file
def test_the_choices_at_the_top(path: Path) -> None:
    """The drop-downs choose a data source and hosts, and on dashboards about engines the host's engines."""
    source, *rest = load_dashboard(path)["templating"]["list"]
    queries = {variable["name"]: variable["query"]["query"] for variable in rest}

    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert queries.pop("instance") == 'label_values(steadytok_build_info{job="steadytok"},instance)'
    assert queries in (
        {},
        {"engine": 'label_values(steadytok_engine_up{job="steadytok",instance="$instance"},engine)'},
    )
    assert bool(queries) == (path.stem in ("steadytok-slow", "steadytok-memory"))


@by_file
def test_alerts_and_remedies_are_drawn_over_the_panels_of_a_host(path: Path) -> None:
    """Alerts and remedies are annotations on every dashboard of a host; the fleet has too many of them."""
    annotations = {each["name"]: each for each in load_dashboard(path)["annotations"]["list"]}
    expected_names = (
        [] if path.stem == "steadytok-fleet" else ["Critical alerts", "Remedies acting", "Remedy events", "Warnings"]
    )

    assert sorted(annotations) == expected_names
    assert all(each["enable"] and each["expr"] == each["target"]["expr"] for each in annotations.values())
    assert len({each["iconColor"] for each in annotations.values()}) == len(annotations)


@by_file
def test_panels_have_a_place_of_their_own(path: Path) -> None:
    """Ids are unique, no panels overlap, and all are within the 24 columns."""
    all_panels = load_dashboard(path)["panels"]
    positions = [panel["gridPos"] for panel in all_panels]

    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    assert all(position["x"] + position["w"] <= 24 for position in positions)
    for first, second in itertools.combinations(positions, 2):
        apart = (
            first["x"] + first["w"] <= second["x"]
            or second["x"] + second["w"] <= first["x"]
            or first["y"] + first["h"] <= second["y"]
            or second["y"] + second["h"] <= first["y"]
        )
        assert apart, (first, second)


@pytest.mark.parametrize(("name", "panel"), [pytest.param(*each, id=each[0]) for each in list_every_panel()])
def test_a_panel_can_be_read(name: str, panel: dict[str, Any]) -> None:
    """Each panel has a title, a description, a unit, ascending thresholds, and a legend for each series."""
    defaults = panel["fieldConfig"]["defaults"]
    steps = [step["value"] for step in defaults["thresholds"]["steps"]]

    assert re.fullmatch(r"[A-Z].*[^.]", panel["title"])
    assert panel["description"].endswith(".")
    assert defaults["unit"] in UNITS
    assert steps[0] is None
    assert steps[1:] == sorted(steps[1:])
    for override in panel["fieldConfig"]["overrides"]:
        units = {item["value"] for item in override["properties"] if item["id"] == "unit"}
        assert units <= UNITS
        if override["matcher"]["id"] == "byRegexp":
            legends = [target["legendFormat"] for target in panel["targets"]]
            pattern = override["matcher"]["options"].strip("/")
            assert any(re.search(pattern, legend) for legend in legends), pattern
    if panel["type"] == "table":
        return
    for target in panel["targets"]:
        assert target["legendFormat"], "a series without a legend is drawn with all its labels"


@by_query
def test_a_legend_names_labels_that_are_left(query: PanelQuery) -> None:
    """The labels in a legend or an annotation survive the query's aggregation."""
    tree = promql_parser.parse(interpolate(query.expr, VALUES))
    while isinstance(tree, promql_parser.ParenExpr | promql_parser.BinaryExpr):
        inner = tree.expr if isinstance(tree, promql_parser.ParenExpr) else tree.lhs
        tree = tree.rhs if isinstance(inner, promql_parser.NumberLiteral) else inner
    if isinstance(tree, promql_parser.AggregateExpr) and str(tree.op).lower() not in ("topk", "bottomk"):
        remaining_labels = set(tree.modifier.labels) if tree.modifier is not None else set()
        assert set(re.findall(r"{{(\w+)}}", query.legend)) <= remaining_labels


@by_query
def test_a_query_is_prometheus_own_language_and_names_what_there_is(query: PanelQuery) -> None:
    """Each query parses with its variables replaced, selects one job, and names emitted metrics only."""
    text = interpolate(query.expr, VALUES)
    metrics = metric_names.find_metrics(text)

    assert "$" not in text
    assert metrics
    assert metrics <= metric_names.list_emitted_metrics() | metric_names.PROMETHEUS_METRICS
    assert all('job="steadytok"' in str(selector) for selector in _format_selectors(text))


def _format_selectors(text: str) -> list[str]:
    return [selector.prettify() for selector in metric_names.find_selectors(promql_parser.parse(text))]


def test_thresholds_are_those_of_the_rules() -> None:
    """Colours change at the thresholds of the alerts: headroom, node memory, throttling, errors, speed."""
    rules = {}
    for path in (HOUSE / "rules" / "builtin").glob("*.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                rules.setdefault(rule.get("alert", ""), []).append(" ".join(rule["expr"].split()))
    defaults_by_panel = {name: panel["fieldConfig"]["defaults"] for name, panel in list_every_panel()}

    def get_limits(name: str) -> list[float]:
        return [step["value"] for step in defaults_by_panel[name]["thresholds"]["steps"][1:]]

    assert get_limits("steadytok-healthy: Hottest DIMM: degrees left") == [0, 5]
    assert any("< 5" in expr for expr in rules["DimmHot"])
    assert any(">= 0" in expr for expr in rules["DimmHot"])
    assert get_limits("steadytok-healthy: Fullest node: memory left")[0] == 4
    assert any("< 4 " in expr for expr in rules["NodeNearlyFull"])
    assert get_limits("steadytok-healthy: Slowed by heat")[0] == 1
    assert any("> 1 " in expr for expr in rules["CpuThermalThrottling"])
    assert get_limits("steadytok-healthy: Errors corrected within an hour, by DIMM") == [24]
    assert any("> 24" in expr for expr in rules["CorrectedErrors"])
    assert get_limits("steadytok-slow: Of the usual speed")[0] == 80
    assert any("< 80" in expr for expr in rules["ThroughputSagging"])
    assert get_limits("steadytok-slow: Page cache") == [2500 * 4096]
    assert any("> 2500" in expr for expr in rules["WeightsEvicted"])
    assert get_limits("steadytok-healthy: Waiting for memory, disk and processors") == [0.1]
    assert any("> 10" in expr for expr in rules["MemoryPressure"])


def test_the_provisioning_files_are_grafanas() -> None:
    """The files define two data sources, one of them the agent, and one provider for the folder of dashboards."""
    folder = HOUSE / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "steadytok.yml").read_text())
    (provider,) = yaml.safe_load((folder / "dashboards" / "steadytok.yml").read_text())["providers"]

    assert sources["apiVersion"] == 1
    assert {each["url"] for each in sources["datasources"]} == {"http://127.0.0.1:9090", "http://127.0.0.1:9817"}
    assert all(each["type"] == "prometheus" and each["access"] == "proxy" for each in sources["datasources"])
    assert all(each["jsonData"]["timeInterval"] == "15s" for each in sources["datasources"])
    assert sum(each.get("isDefault", False) for each in sources["datasources"]) == 1
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards/steadytok"
