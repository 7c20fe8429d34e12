"""Reads panels and queries from the committed dashboards and interpolates their variables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

HOUSE = Path(__file__).parents[2]
FOLDER = HOUSE / "grafana" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
RATE_INTERVAL = "1m"  # Grafana's $__rate_interval for a scrape interval of 15 s, which is a data source's default


class PanelQuery(NamedTuple):
    """One query of one panel."""

    dashboard: str
    panel: str
    letter: str
    expr: str
    legend: str
    instant: bool

    def __str__(self) -> str:
        return f"{self.dashboard}: {self.panel} {self.letter}"


def load_dashboard(path: Path) -> dict[str, Any]:
    """Returns a dashboard as Grafana imports it."""
    dashboard: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return dashboard


def list_panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields every panel with queries, those of collapsed rows included."""
    for panel in dashboard["panels"]:
        yield from panel["panels"] if panel["type"] == "row" else [panel]


def list_queries(dashboard: Mapping[str, Any]) -> Iterator[PanelQuery]:
    """Yields every query of the panels and the annotations."""
    name = dashboard["uid"]
    for panel in list_panels(dashboard):
        for target in panel["targets"]:
            instant = target["instant"]
            yield PanelQuery(name, panel["title"], target["refId"], target["expr"], target["legendFormat"], instant)
    for annotation in dashboard["annotations"]["list"]:
        yield PanelQuery(
            name, f"annotation {annotation['name']}", "A", annotation["expr"], annotation["titleFormat"], False
        )


def list_every_query() -> list[PanelQuery]:
    """Returns the queries of all dashboards."""
    return [query for path in FILES for query in list_queries(load_dashboard(path))]


def interpolate(expr: str, values: Mapping[str, Sequence[str]]) -> str:
    """Replaces the variables as Grafana does; several values become an alternation."""
    expr = expr.replace("$__rate_interval", RATE_INTERVAL).replace("$__interval", "15s")
    for name, chosen in values.items():
        escaped = [each.replace(".", "\\\\.") for each in chosen]  # within a string, in which \\ is a backslash
        text = chosen[0] if len(chosen) == 1 else f"({'|'.join(escaped)})"
        expr = expr.replace(f"${name}", text)
    return expr
