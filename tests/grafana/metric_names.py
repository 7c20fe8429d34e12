"""Lists the names of all metrics, and the names in an expression."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path

import promql_parser
import yaml
from prometheus_client import CollectorRegistry

import collectors
from agent.alerting.notifier import NotifierCounters
from agent.selfmetrics.definitions import METRICS

HOUSE = Path(__file__).parents[2]
EXAMPLES = HOUSE / "docs" / "examples"
PROMETHEUS_METRICS = {"up", "ALERTS", "scrape_duration_seconds"}
"""Series that Prometheus itself creates on a scrape; ALERTS comes from every rule evaluator, the agent included."""


def list_collector_metrics() -> set[str]:
    """Returns the declared metrics, and those in the fixtures: meminfo also exports undeclared fields."""
    modules = [each.name for each in pkgutil.iter_modules(collectors.__path__) if not each.name.startswith("_")]
    declared = {metric.name for name in modules for metric in importlib.import_module(f"collectors.{name}").METRICS}
    fixture_text = "".join(path.read_text() for path in (HOUSE / "tests" / "collectors").glob("*/expected.prom"))
    return declared | set(re.findall(r"^(steadytok_\w+)", fixture_text, re.MULTILINE))


def list_agent_metrics() -> set[str]:
    """Returns the agent's own metrics and its notifier's counters."""
    registry = CollectorRegistry(auto_describe=False)
    NotifierCounters(registry).set_targets({"http://am"})
    counter_names = {sample.name for family in registry.collect() for sample in family.samples}
    counter_names |= {
        family.name for family in registry.collect() if family.type == "summary"
    }  # exposed as a sum and a count
    return {metric.name for metric in METRICS} | counter_names


def list_recorded_metrics(files: Iterable[Path]) -> set[str]:
    """Returns the names that rule files record."""
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


@functools.cache
def list_emitted_metrics() -> set[str]:
    """Returns every name that a scrape of the agent can have, or that its rules and a fleet's rules record."""
    files = [*(HOUSE / "rules" / "builtin").glob("*.yml"), *EXAMPLES.glob("fleet-*.yml")]
    return list_collector_metrics() | list_agent_metrics() | list_recorded_metrics(files)


def list_engine_metrics() -> set[str]:
    """Returns the metrics of the reference engine, read from its source."""
    prefix = "steadytok_reference_"
    text = "".join((HOUSE / "engine" / name).read_text() for name in ("serving/metrics.py", "memory/locality.py"))
    return {prefix + name.removeprefix(prefix) for name in re.findall(r'"([a-z]\w+_\w+)"', text)}


def find_metrics(expr: str) -> set[str]:
    """Returns the metrics that an expression names, by Prometheus' own grammar."""
    return {selector.name for selector in find_selectors(promql_parser.parse(expr)) if selector.name}


def find_selectors(node: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Returns every vector selector in an expression."""
    selectors = [node] if isinstance(node, promql_parser.VectorSelector) else []
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        child = getattr(node, part, None)
        if isinstance(child, promql_parser.Expr):
            selectors += find_selectors(child)
    for argument in getattr(node, "args", ()) or ():
        selectors += find_selectors(argument)
    return selectors
