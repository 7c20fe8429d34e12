"""Every name of a metric that there is, and the names that a text or an expression has."""

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
PROMETHEUS_OWN = {"up", "ALERTS", "scrape_duration_seconds"}
"""What a Prometheus makes itself when it scrapes; ALERTS is made by whoever has the rules, the agent too."""


def of_collectors() -> set[str]:
    """What collectors declare, and what they were seen to give of a fixture: meminfo has fields that we do not know."""
    modules = [each.name for each in pkgutil.iter_modules(collectors.__path__) if not each.name.startswith("_")]
    declared = {metric.name for name in modules for metric in importlib.import_module(f"collectors.{name}").METRICS}
    seen = "".join(path.read_text() for path in (HOUSE / "tests" / "collectors").glob("*/expected.prom"))
    return declared | set(re.findall(r"^(steadytok_\w+)", seen, re.MULTILINE))


def of_the_agent() -> set[str]:
    """What the agent measures of itself, and what its notifier counts."""
    registry = CollectorRegistry(auto_describe=False)
    NotifierCounters(registry).set_targets({"http://am"})
    counted = {sample.name for family in registry.collect() for sample in family.samples}
    counted |= {family.name for family in registry.collect() if family.type == "summary"}  # of a sum and a count
    return {metric.name for metric in METRICS} | counted


def recorded(files: Iterable[Path]) -> set[str]:
    """The names that rule files record."""
    groups = [group for file in files for group in yaml.safe_load(file.read_text())["groups"]]
    return {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}


@functools.cache
def emitted() -> set[str]:
    """Every name that a scrape of the agent can have, or that its rules and a fleet's record."""
    files = [*(HOUSE / "rules" / "builtin").glob("*.yml"), *EXAMPLES.glob("fleet-*.yml")]
    return of_collectors() | of_the_agent() | recorded(files)


def of_the_engine() -> set[str]:
    """What the reference engine exposes itself, as it names it in its source."""
    prefix = "steadytok_reference_"
    text = "".join((HOUSE / "engine" / name).read_text() for name in ("serving/metrics.py", "memory/locality.py"))
    return {prefix + found.removeprefix(prefix) for found in re.findall(r'"([a-z]\w+_\w+)"', text)}


def asked(expr: str) -> set[str]:
    """The metrics that an expression names, by Prometheus' own grammar."""
    return {selector.name for selector in selectors(promql_parser.parse(expr)) if selector.name}


def selectors(node: promql_parser.Expr) -> list[promql_parser.VectorSelector]:
    """Every vector selector in an expression."""
    found = [node] if isinstance(node, promql_parser.VectorSelector) else []
    for part in ("expr", "lhs", "rhs", "param", "vector_selector"):
        below = getattr(node, part, None)
        if isinstance(below, promql_parser.Expr):
            found += selectors(below)
    for argument in getattr(node, "args", ()) or ():
        found += selectors(argument)
    return found
