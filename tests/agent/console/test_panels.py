"""The queries of the page, of `run` and of `top`."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import collectors
from agent.console.panels import Panel, PanelQuery, load_panels
from agent.selfmetrics.definitions import METRICS
from rules import promql

PANELS = load_panels()
LINES = [pytest.param(panel, line, id=f"{panel.id}-{line.name}") for panel in PANELS for line in panel.lines]


def list_metric_names() -> set[str]:
    """Returns the name of every metric of the collectors and of the agent."""
    names = [module.name for module in pkgutil.iter_modules(collectors.__path__) if not module.name.startswith("_")]
    collected = {metric.name for name in names for metric in importlib.import_module(f"collectors.{name}").METRICS}
    return collected | {metric.name for metric in METRICS}


@pytest.mark.parametrize(("panel", "line"), LINES)
def test_questions_can_be_asked(panel: Panel, line: PanelQuery) -> None:
    """Each query is a range query over existing metrics, and its name uses labels of its answer."""
    query = promql.compile(line.query)

    assert query.kind == "vector"
    assert set(re.findall(r"\bsteadytok_\w+", line.query)) <= list_metric_names()
    for label in re.findall(r"\{(\w+)\}", line.name):
        assert f"by ({label})" in line.query or not re.match(r"\s*(100 \* )?(sum|max|min|avg)\b", line.query)


@pytest.mark.parametrize("panel", PANELS, ids=[panel.id for panel in PANELS])
def test_a_panel_without_data_says_why(panel: Panel) -> None:
    """A panel has a unit and a sentence for no data; a note has its line, its unit and its decimals."""
    assert panel.unit
    assert panel.none.endswith(".")
    assert panel.lines[0].style == "line"
    for line in panel.lines:
        assert line.style != "note" or (line.owner_label and line.unit and line.digits is not None)
