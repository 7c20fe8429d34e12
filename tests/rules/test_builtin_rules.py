"""The built-in rules: requirements that each of them meets, and their unit tests in the agent's own runner."""

from __future__ import annotations

import datetime
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import promql_parser
import pytest
import yaml

import collectors
from agent.selfmetrics.definitions import METRICS as SIGNALS
from rules.rulefile import load_rules
from rules.unittests.runner import run_test_file

HOUSE = Path(__file__).parents[2]
FILES = sorted((HOUSE / "rules" / "builtin").glob("*.yml"))
TESTS = sorted((HOUSE / "tests" / "rules" / "builtin").glob("*.yml"))
RUNBOOKS = HOUSE / "docs" / "runbooks"
PAGES = sorted(page for page in RUNBOOKS.glob("*.md") if page.stem != "README")
RUNBOOK_URL = "https://github.com/steadytok/steadytok/blob/main/docs/runbooks/"
IDENTITY = {"job", "instance"}
# The functions of Prometheus 2.42, the oldest version tested, that the agent's own language has too.
FUNCTIONS = {
    *("absent", "absent_over_time", "avg_over_time", "clamp_max", "clamp_min", "count_over_time", "delta", "deriv"),
    *("increase", "label_replace", "last_over_time", "max_over_time", "min_over_time", "predict_linear"),
    *("quantile_over_time", "rate", "sum_over_time", "time", "vector"),
}
MIN_WINDOW = datetime.timedelta(minutes=2)
MAX_WINDOW = datetime.timedelta(hours=1)


class RuleSource(NamedTuple):
    """One rule as it stands in its file."""

    file: Path
    name: str
    is_alert: bool
    expr: str
    labels: dict[str, str]
    annotations: dict[str, str]

    def __str__(self) -> str:
        return f"{self.file.stem}:{self.name}"


def read_rules() -> Iterator[RuleSource]:
    for file in FILES:
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                name = rule.get("alert") or rule["record"]
                labels, annotations = rule.get("labels", {}), rule.get("annotations", {})
                yield RuleSource(file, name, "alert" in rule, rule["expr"], labels, annotations)


RULES = list(read_rules())
ALERTS = [rule for rule in RULES if rule.is_alert]


def iter_nodes(tree: promql_parser.Expr) -> Iterator[promql_parser.Expr]:
    """Yields the node and all its descendants."""
    yield tree
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        below = getattr(tree, part, None)
        if isinstance(below, promql_parser.Expr):
            yield from iter_nodes(below)
    for argument in getattr(tree, "args", ()) or ():
        yield from iter_nodes(argument)


def parse_nodes(rule: RuleSource) -> list[promql_parser.Expr]:
    return list(iter_nodes(promql_parser.parse(rule.expr)))


def iter_selectors(rule: RuleSource) -> list[promql_parser.VectorSelector]:
    return [node for node in parse_nodes(rule) if isinstance(node, promql_parser.VectorSelector)]


def list_known_names() -> set[str]:
    """Returns every metric of every collector and of the agent, and the names that rules record."""
    modules = [module.name for module in pkgutil.iter_modules(collectors.__path__) if not module.name.startswith("_")]
    of_collectors = {
        metric.name for name in modules for metric in importlib.import_module(f"collectors.{name}").METRICS
    }
    return of_collectors | {metric.name for metric in SIGNALS} | {rule.name for rule in RULES if not rule.is_alert}


def is_scalar(node: promql_parser.Expr) -> bool:
    """Returns True if the node is a number, so that no series are matched."""
    if isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr):
        return is_scalar(node.expr)
    if isinstance(node, promql_parser.BinaryExpr):
        return is_scalar(node.lhs) and is_scalar(node.rhs)
    return isinstance(node, promql_parser.NumberLiteral)


def test_there_are_rules() -> None:
    """The folder of the rules is not empty."""

    assert len(ALERTS) > 20
    assert len(TESTS) > len(FILES)


def test_our_own_loader_takes_every_file() -> None:
    """All files load together without an error, and no rule looks back further than the hour that History retains."""
    rule_set = load_rules(FILES)

    assert set(rule_set.names) >= {rule.name for rule in ALERTS}
    assert rule_set.reach_ms <= MAX_WINDOW.total_seconds() * 1000


@pytest.mark.parametrize("rule", ALERTS, ids=str)
def test_an_alert_says_how_bad_and_what_and_where_to_read_on(rule: RuleSource) -> None:
    """Every alert has a severity, a summary of one sentence, a description, and the URL of an existing page."""
    allowed = {"none"} if rule.name in ("AgentWatchdog", "RemedyRunning") else {"critical", "warning", "info"}

    assert rule.labels["severity"] in allowed
    assert re.fullmatch(r"[^.!?\n]([^.!?\n]|[.](?! ))*\.", re.sub(r"{{.*?}}", "", rule.annotations["summary"]))
    assert rule.annotations["description"].endswith(".")
    assert rule.annotations["runbook_url"] == f"{RUNBOOK_URL}{rule.name}.md"
    assert (RUNBOOKS / f"{rule.name}.md").is_file()


def test_every_page_has_its_alert() -> None:
    """No runbook remains for an alert that no longer exists."""

    assert {page.stem for page in PAGES} == {rule.name for rule in ALERTS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_answers_what_is_asked_at_night(page: Path) -> None:
    """Every page explains the meaning, the confirmation, the remedy and the false alarms."""
    headings = [line.removeprefix("## ") for line in page.read_text().splitlines() if line.startswith("## ")]

    assert page.read_text().startswith(f"# {page.stem}\n")
    assert headings == ["What it means", "How to confirm", "What to do", "What fools it"]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_name_in_an_expression_is_one_that_the_house_emits(rule: RuleSource) -> None:
    """After a metric is renamed, no rule keeps its old name and can never be true."""
    names = {selector.name for selector in iter_selectors(rule)}

    assert names <= list_known_names()


@pytest.mark.parametrize("rule", [rule for rule in RULES if not rule.is_alert], ids=str)
def test_a_recorded_name_is_ours_and_is_used(rule: RuleSource) -> None:
    """Recorded names begin with steadytok: and another rule uses each of them."""
    selected_names = {selector.name for other in RULES for selector in iter_selectors(other)}

    assert rule.name.startswith("steadytok:")
    assert rule.name in selected_names


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_aggregations_keep_who_it_is(rule: RuleSource) -> None:
    """Each aggregation is by job and instance, so that a central Prometheus never adds up two hosts."""
    aggregations = [node for node in parse_nodes(rule) if isinstance(node, promql_parser.AggregateExpr)]

    for node in aggregations:
        assert node.modifier is not None, node.prettify()
        assert str(node.modifier.type).endswith("By"), node.prettify()
        assert set(node.modifier.labels) >= IDENTITY, node.prettify()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_joins_keep_who_it_is(rule: RuleSource) -> None:
    """Each vector matching is on job and instance, or on all labels."""
    joins = [node for node in parse_nodes(rule) if isinstance(node, promql_parser.BinaryExpr)]

    for node in joins:
        matching = node.modifier.matching if node.modifier is not None else None
        if matching is not None and not (is_scalar(node.lhs) or is_scalar(node.rhs)):
            assert str(matching.type).endswith("Include"), node.prettify()
            assert set(matching.labels) >= IDENTITY, node.prettify()


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_windows_suit_slow_scrapes_and_short_memories(rule: RuleSource) -> None:
    """No window is under 2 minutes (two scrapes a minute apart) or over an hour (History's retention)."""
    windows = [node.range for node in parse_nodes(rule) if isinstance(node, promql_parser.MatrixSelector)]
    subqueries = [node for node in parse_nodes(rule) if isinstance(node, promql_parser.SubqueryExpr)]

    assert all(MIN_WINDOW <= window <= MAX_WINDOW for window in windows)
    assert all(node.step is not None for node in subqueries)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_functions_are_those_that_everybody_has(rule: RuleSource) -> None:
    """No rule needs a newer Prometheus than the oldest version tested."""
    names = {node.func.name for node in parse_nodes(rule) if isinstance(node, promql_parser.Call)}

    assert names <= FUNCTIONS


@pytest.mark.parametrize("rule", ALERTS, ids=str)
def test_an_alert_has_a_sick_and_a_healthy_case(rule: RuleSource) -> None:
    """The unit tests expect each alert at least once, and expect its absence at least once."""
    tests = yaml.safe_load((HOUSE / "tests" / "rules" / "builtin" / rule.file.name).read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ()) if case["alertname"] == rule.name]
    expected = [alert["exp_labels"] for case in cases for alert in case["exp_alerts"]]
    fixed_labels = {name: value for name, value in rule.labels.items() if "{{" not in value}

    assert any(fixed_labels.items() <= labels.items() for labels in expected)
    assert rule.name == "AgentWatchdog" or any(not case["exp_alerts"] for case in cases)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_two_instances_are_in_the_unit_tests_and_one_is_sick(path: Path) -> None:
    """Cases have two instances or none; no case expects an alert of the healthy instance, b."""
    for test in yaml.safe_load(path.read_text())["tests"]:
        instances = {name for row in test["input_series"] for name in re.findall(r'instance="(\w+)"', row["series"])}
        alerts = [alert for case in test.get("alert_rule_test", ()) for alert in case["exp_alerts"]]

        assert instances in ({"a", "b"}, set()), test["name"]
        assert all(alert["exp_labels"].get("instance") != "b" for alert in alerts), test["name"]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_unit_tests_pass_our_own_runner(path: Path) -> None:
    """The agent's own evaluation agrees with promtool about these files."""

    assert run_test_file(path).failures == ()
