"""Builds a dashboard around its panels: variables, annotations, links, and each panel's position on the grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from grafana.panels import DATASOURCE, PanelJson

WIDTH = 24  # columns of Grafana's grid
TAG = "steadytok"
SCHEMA_VERSION = 41  # Grafana 11.6; newer versions migrate it on loading


class DashboardRow(NamedTuple):
    """A heading with panels below it; Grafana queries the panels of a `collapsed` row only when it is opened."""

    title: str
    panels: Sequence[PanelJson]
    collapsed: bool = False


class DashboardVariable(NamedTuple):
    """A drop-down above the dashboard with the values of a label of some series."""

    name: str
    label: str
    series: str
    multi: bool = False


INSTANCE = DashboardVariable("instance", "Host", 'steadytok_build_info{job="steadytok"}')
ENGINE = DashboardVariable("engine", "Engine", 'steadytok_engine_up{job="steadytok",instance="$instance"}', multi=True)


def build_dashboard(
    uid: str,
    title: str,
    description: str,
    rows: Sequence[DashboardRow],
    *,
    variables: Sequence[DashboardVariable] = (INSTANCE,),
    annotations: Sequence[dict[str, Any]] = (),
    since: str = "now-1h",
) -> dict[str, Any]:
    """Returns the dashboard that Grafana imports unchanged; a drop-down selects its data source."""
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair through all panels
        "refresh": "10s",
        "time": {"from": since, "to": "now"},
        "timezone": "browser",
        "links": [_build_links()],
        "templating": {"list": [_build_datasource(), *map(_build_variable, variables)]},
        "annotations": {"list": list(annotations)},
        "panels": _place_panels(rows),
    }


def build_annotations(host: str) -> list[dict[str, Any]]:
    """Returns annotations that mark firing alerts and remedies as coloured regions in every time series."""
    firing = f'max by (alertname, severity) (steadytok_alerts{{{host},alertstate="firing",severity=~"%s"}}) > 0'
    acting = f"max by (remedy, for_alert) (steadytok_remedy_running{{{host}}}) > 0"
    events = f"sum by (remedy, event) ({format_growth(f'steadytok_remedy_events_total{{{host}}}', '1m')})"
    return [
        _build_annotation("Critical alerts", firing % "critical", "{{alertname}}", "{{severity}}", "red"),
        _build_annotation("Warnings", firing % "warning", "{{alertname}}", "{{severity}}", "orange"),
        _build_annotation("Remedies acting", acting, "{{remedy}}", "for {{for_alert}}", "blue"),
        _build_annotation("Remedy events", events, "{{remedy}}", "{{event}}", "purple"),
    ]


def format_growth(counter: str, window: str) -> str:
    """Returns a counter's growth; unlike increase() it includes the first value of a new counter."""
    return f"({counter} - {counter} offset {window} or {counter} unless {counter} offset {window}) > 0"


def _build_annotation(name: str, expr: str, title: str, text: str, colour: str) -> dict[str, Any]:
    # Grafana up to 11 reads these keys, newer versions read `target`; both keep unknown keys.
    legacy_target = {"expr": expr, "titleFormat": title, "textFormat": text, "step": "15s", "useValueForTime": False}
    target = {"expr": expr, "refId": "Anno", "legendFormat": title, "interval": "15s"}
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": colour,
        "target": target,
        **legacy_target,
    }


def _build_datasource() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "hide": 0,
        "refresh": 1,
        "regex": "",
        "multi": False,
        "includeAll": False,
        "options": [],
    }


def _build_variable(variable: DashboardVariable) -> dict[str, Any]:
    query = f"label_values({variable.series},{variable.name})"
    return {
        "name": variable.name,
        "label": variable.label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        **(_build_all_option() if variable.multi else {}),
        "hide": 0,
        "refresh": 2,  # on every change of the time range: hosts come and go
        "regex": "",
        "sort": 1,
        "multi": variable.multi,
        "includeAll": variable.multi,
        "options": [],
    }


def _build_all_option() -> dict[str, Any]:
    # One expression for all instead of a list: a host that has long been silent is in no list.
    return {"current": {"text": ["All"], "value": ["$__all"]}, "allValue": ".*"}


def _build_links() -> dict[str, Any]:
    return {
        "type": "dashboards",
        "title": "steadytok",
        "tags": [TAG],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def _place_panels(rows: Sequence[DashboardRow]) -> list[PanelJson]:
    panels: list[PanelJson] = []
    top, numbers = 0, iter(range(1, 1000))
    for row in rows:
        heading = {"type": "row", "title": row.title, "collapsed": row.collapsed, "id": next(numbers), "panels": []}
        heading["gridPos"] = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        positioned, top = _arrange_in_lines(row.panels, top + 1)
        numbered = [{"id": next(numbers), **panel} for panel in positioned]
        if row.collapsed:
            heading["panels"] = numbered
        panels += [heading] if row.collapsed else [heading, *numbered]
    return panels


def _arrange_in_lines(panels: Iterable[PanelJson], top: int) -> tuple[list[PanelJson], int]:
    """Arranges panels from left to right, in a new line when one does not fit; also returns the next free line."""
    positioned: list[PanelJson] = []
    x = line_height = 0
    for panel in panels:
        size = panel["gridPos"]
        if x + size["w"] > WIDTH:
            x, top, line_height = 0, top + line_height, 0
        positioned.append({**panel, "gridPos": {**size, "x": x, "y": top}})
        x, line_height = x + size["w"], max(line_height, size["h"])
    return positioned, top + line_height
