"""Takes selectors of a built-in rule away from the worlds of its unit tests, and asks what the rule says then."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml

from rules.unittests.runner import run_test_file
from rules.unittests.test_file import parse_metric

HOUSE = Path(__file__).parents[2]
RULE_FILES = sorted((HOUSE / "rules" / "builtin").glob("*.yml"))
TEST_FILES = HOUSE / "tests" / "rules" / "builtin"


class BuiltinRule(NamedTuple):
    """One rule, and the rules of its file that record what it selects."""

    key: str
    file: str
    name: str
    is_alert: bool
    entry: dict[str, Any]
    recorded: tuple[dict[str, Any], ...]

    def __str__(self) -> str:
        return self.key


class World(NamedTuple):
    """The series of a unit test, and a time at which the rule is asked."""

    title: str
    interval: str
    evaluation_interval: str
    series: tuple[dict[str, str], ...]
    eval_time: str


@functools.cache
def list_rules() -> tuple[BuiltinRule, ...]:
    """Returns every built-in rule; of several with one name each has its labels in its key."""
    rules = [rule for file in RULE_FILES for rule in _read_rules(file)]
    names = [rule.name for rule in rules]
    return tuple(rule._replace(key=_make_key(rule)) if names.count(rule.name) > 1 else rule for rule in rules)


def _read_rules(file: Path) -> Iterator[BuiltinRule]:
    entries = [entry for group in yaml.safe_load(file.read_text())["groups"] for entry in group["rules"]]
    recorded = {entry["record"]: entry for entry in entries if "record" in entry}
    for entry in entries:
        name = entry.get("alert") or entry["record"]
        needed = tuple(recorded[other] for other in recorded if other in _collect_names(entry, recorded))
        yield BuiltinRule(name, file.stem, name, "alert" in entry, entry, needed)


def _collect_names(entry: dict[str, Any], recorded: dict[str, Any]) -> set[str]:
    """Returns the recorded names that an expression needs, directly or by way of others."""
    direct = {selector.name for selector in iter_selectors(entry["expr"])} & recorded.keys()
    return direct.union(*(_collect_names(recorded[name], recorded) for name in direct))


def _make_key(rule: BuiltinRule) -> str:
    labels = rule.entry.get("labels", {})
    words = [labels[label] for label in ("evidence", "constraint", "remedy", "severity") if label in labels]
    return f"{rule.name} {' '.join('any' if '{{' in word else word for word in words)}"


def iter_selectors(expr: str) -> Iterator[promql_parser.VectorSelector]:
    """Yields every selector of an expression."""
    yield from _iter_selectors(promql_parser.parse(expr))


def _iter_selectors(tree: promql_parser.Expr) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(tree, promql_parser.VectorSelector):
        yield tree
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        below = getattr(tree, part, None)
        if isinstance(below, promql_parser.Expr):
            yield from _iter_selectors(below)
    for argument in getattr(tree, "args", ()) or ():
        yield from _iter_selectors(argument)


def list_sampled(rule: BuiltinRule) -> dict[str, promql_parser.VectorSelector]:
    """Returns what a rule selects of the host, by text, including what the rules that it is built on select."""
    entries = (rule.entry, *rule.recorded)
    selectors = (selector for entry in entries for selector in iter_selectors(entry["expr"]))
    recorded = {entry["record"] for entry in rule.recorded}
    return {format_selector(selector): selector for selector in selectors if selector.name not in recorded}


def format_selector(selector: promql_parser.VectorSelector) -> str:
    """Returns a selector without window and offset, as the table of expected words has it."""
    matchers = ",".join(
        sorted(f'{m.name}{_op(m)}"{m.value}"' for m in selector.matchers.matchers if m.name != "__name__")
    )
    name = (selector.name or "").removeprefix("steadytok_")
    return f"{name}{{{matchers}}}" if matchers else name


def _op(matcher: promql_parser.Matcher) -> str:
    return {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}[str(matcher.op).rpartition(".")[2]]


def _selects(selector: promql_parser.VectorSelector, series: str) -> bool:
    labels = dict(parse_metric(series))
    if labels.get("__name__") != selector.name:
        return False
    for matcher in selector.matchers.matchers:
        value, op = labels.get(matcher.name, ""), _op(matcher)
        is_match = re.fullmatch(matcher.value, value) is not None if "~" in op else value == matcher.value
        if is_match == (op in ("!=", "!~")):
            return False
    return True


def drop(world: World, selector: promql_parser.VectorSelector) -> World:
    """Returns the world without the series of the selector."""
    return world._replace(series=tuple(row for row in world.series if not _selects(selector, row["series"])))


def drop_metrics(world: World, beginnings: tuple[str, ...]) -> World:
    """Returns the world without the metrics whose names, after `steadytok_`, begin so."""
    names = tuple(f"steadytok_{beginning}" for beginning in beginnings)
    return world._replace(series=tuple(row for row in world.series if not row["series"].startswith(names)))


@functools.cache
def _read_tests(name: str) -> Any:
    return yaml.safe_load((TEST_FILES / f"{name}.yml").read_text())


def list_worlds(rule: BuiltinRule) -> tuple[list[World], list[World]]:
    """
    Returns the worlds in which the unit tests expect the rule's alert, and those in which they expect none of its name.

    A rule that records is asked in the worlds of the alerts that need it.
    """
    if not rule.is_alert:
        users = [other for other in list_rules() if other.is_alert and rule.entry in other.recorded]
        return [world for user in users for world in list_worlds(user)[0]], []
    document = _read_tests(rule.file)
    fixed = {name: value for name, value in rule.entry.get("labels", {}).items() if "{{" not in value}
    sick, healthy = [], []
    for test in document["tests"]:
        for case in test.get("alert_rule_test", ()):
            if case["alertname"] != rule.name:
                continue
            world = World(
                test["name"],
                test["interval"],
                document["evaluation_interval"],
                tuple(test["input_series"]),
                case["eval_time"],
            )
            is_sick = any(fixed.items() <= alert["exp_labels"].items() for alert in case["exp_alerts"])
            if is_sick or not case["exp_alerts"]:
                (sick if is_sick else healthy).append(world)
    return sick, healthy


def write_test(folder: Path, rule: BuiltinRule, worlds: Iterable[tuple[World, bool]]) -> Path:
    """Writes a test file, of promtool's format, that expects the rule to speak or not in each world."""
    rules = [*({**entry} for entry in rule.recorded), rule.entry]
    (folder / "rule.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}, allow_unicode=True))
    query = f'ALERTS{{alertname="{rule.name}",alertstate="firing"}}' if rule.is_alert else rule.name
    tests, interval = [], "15s"
    for world, speaks in worlds:
        interval = world.evaluation_interval
        expected = [{"labels": "{}", "value": 1}] if speaks else []
        test = {"expr": f"count({query}) > bool 0", "eval_time": world.eval_time, "exp_samples": expected}
        tests.append({"interval": world.interval, "input_series": list(world.series), "promql_expr_test": [test]})
    document = {"rule_files": ["rule.yml"], "evaluation_interval": interval, "tests": tests}
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(document, allow_unicode=True))
    return path


def ask(folder: Path, rule: BuiltinRule, worlds: list[World]) -> list[bool]:
    """Returns for each world whether the rule speaks there."""
    if not worlds:
        return []
    verdict = run_test_file(write_test(folder, rule, [(world, True) for world in worlds]))
    assert not verdict.errors, verdict.errors
    return [result.error is None and bool(result.actual) for result in verdict.results]
