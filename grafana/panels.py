"""
Panels: what is asked, how it is drawn, in which unit, and from which value on it is bad.

Each gives the panel's dictionary without its place; `grafana/dashboard.py` puts them on the grid.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

Panel = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HOST = 'job="steadytok",instance="$instance"'
"""The matchers of whatever is about one host."""

Colour = Literal["green", "yellow", "orange", "red", "blue", "purple", "text"]
Named = tuple[str, str, Colour]
"""A value as it comes, the word that is shown for it, and its colour."""
AXIS_WIDTH = 80  # pixels: panels below each other have their time axes in line


class Query(NamedTuple):
    """One expression; `legend` is Grafana's template of a series' name. `instant`: only the newest value."""

    expr: str
    legend: str
    instant: bool = False
    table: bool = False


class Steps(NamedTuple):
    """Colours by value: the first from minus infinity on, the others from their value on; `area` shades the plot."""

    first: Colour
    above: tuple[tuple[float, Colour], ...] = ()
    area: bool = False


NO_STEPS = Steps("green")


class Right(NamedTuple):
    """Series with their own unit on the right axis, by a pattern of their legends."""

    pattern: str
    unit: str


class Look(NamedTuple):
    """Unit, bounds and steps of a panel's values."""

    unit: str
    steps: Steps = NO_STEPS
    least: float | None = None
    most: float | None = None
    decimals: int | None = None
    mappings: tuple[Named, ...] = ()


def series(
    title: str,
    description: str,
    look: Look,
    *queries: Query,
    stacked: bool = False,
    right: Right | None = None,
    dashed: str | None = None,
    height: int = 8,
    width: int = 12,
) -> Panel:
    """Values over time; the legend is a table with the newest, the least and the most."""
    custom: dict[str, Any] = {
        "axisWidth": AXIS_WIDTH,
        "drawStyle": "line",
        "fillOpacity": 30 if stacked else 0,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "dashed+area" if look.steps.area else "off"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "min", "max"], "displayMode": "table", "placement": "right"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [_right(right)] if right else []
    if dashed:
        overrides.append(_override(dashed, [("custom.lineStyle", {"dash": [8, 8], "fill": "dash"})]))
    field = _field(look, custom, overrides, colour="palette-classic")
    return _panel("timeseries", title, description, queries, field, options, height, width)


def number(title: str, description: str, look: Look, query: Query, *, width: int = 4, height: int = 4) -> Panel:
    """One value, large, in the colour of its step."""
    options = {
        "colorMode": "none" if look.steps.first == "text" else "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    return _panel("stat", title, description, [query], _field(look), options, height, width)


def words(title: str, description: str, look: Look, query: Query, *, width: int = 4, height: int = 4) -> Panel:
    """What a label says, such as a version: the name of the series, without its value."""
    panel = number(title, description, look, query, width=width, height=height)
    panel["options"] |= {"textMode": "name", "colorMode": "none"}
    return panel


def bars(title: str, description: str, look: Look, *queries: Query, width: int = 12, height: int = 8) -> Panel:
    """One bar for each series, with its newest value."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "valueMode": "color",
    }
    return _panel("bargauge", title, description, queries, _field(look), options, height, width)


def states(title: str, description: str, look: Look, *queries: Query, width: int = 24, height: int = 8) -> Panel:
    """One row for each series, coloured by its value over time."""
    custom = {"fillOpacity": 70, "lineWidth": 0}
    options = {
        "alignValue": "left",
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "never",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return _panel("state-timeline", title, description, queries, _field(look, custom), options, height, width)


def table(
    title: str,
    description: str,
    look: Look,
    columns: Mapping[str, str],
    *queries: Query,
    units: Mapping[str, Look] | None = None,
    sort: tuple[str, bool] | None = None,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """
    The newest values as rows, joined by their labels; `columns` says which are shown, in which order and how named.

    A query's value is the column `Value`, or `Value #A`, `Value #B` … where there are several. `units` are the looks
    of columns, by the name that is shown; `sort` is such a name and whether it descends.
    """
    asked = [query._replace(instant=True, table=True) for query in queries]
    overrides = [_override(name, _column(own), by="byName") for name, own in (units or {}).items()]
    sort_by = [{"desc": sort[1], "displayName": sort[0]}] if sort else []
    options = {"cellHeight": "sm", "footer": {"show": False}, "showHeader": True, "sortBy": sort_by}
    field = _field(look, {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True}, overrides)
    panel = _panel("table", title, description, asked, field, options, height, width)
    panel["transformations"] = [
        *([{"id": "merge", "options": {}}] if len(queries) > 1 else []),
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: place for place, name in enumerate(columns)},
                "renameByName": dict(columns),
            },
        },
    ]
    return panel


def _column(look: Look) -> list[tuple[str, Any]]:
    """A column's look; its cells are coloured where its values have steps."""
    coloured = ("custom.cellOptions", {"type": "color-background", "mode": "basic"})
    return [*_properties(look), *([coloured] if look.steps.above else [])]


def _panel(
    kind: str,
    title: str,
    description: str,
    queries: Sequence[Query],
    field: dict[str, Any],
    options: dict[str, Any],
    height: int,
    width: int,
) -> Panel:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"h": height, "w": width, "x": 0, "y": 0},
        "fieldConfig": field,
        "options": options,
        "targets": [_target(query, letter) for query, letter in zip(queries, string.ascii_uppercase, strict=False)],
    }


def _target(query: Query, letter: str) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "format": "table" if query.table else "time_series",
        "instant": query.instant,
        "legendFormat": query.legend,
        "range": not query.instant,
        "refId": letter,
    }


def _field(
    look: Look,
    custom: dict[str, Any] | None = None,
    overrides: Sequence[dict[str, Any]] = (),
    colour: str = "thresholds",
) -> dict[str, Any]:
    defaults = {"color": {"mode": colour}, "custom": custom or {}, **dict(_properties(look))}
    return {"defaults": defaults, "overrides": list(overrides)}


def _properties(look: Look) -> list[tuple[str, Any]]:
    steps: list[dict[str, Any]] = [{"color": look.steps.first, "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in look.steps.above]
    found: list[tuple[str, Any]] = [("unit", look.unit), ("thresholds", {"mode": "absolute", "steps": steps})]
    limits = (("min", look.least), ("max", look.most), ("decimals", look.decimals))
    found += [(name, value) for name, value in limits if value is not None]
    if look.mappings:
        options = {value: {"text": text, "color": colour} for value, text, colour in look.mappings}
        found.append(("mappings", [{"type": "value", "options": options}]))
    return found


def _right(right: Right) -> dict[str, Any]:
    return _override(right.pattern, [("unit", right.unit), ("custom.axisPlacement", "right")])


def _override(pattern: str, properties: Sequence[tuple[str, Any]], by: str = "byRegexp") -> dict[str, Any]:
    matched = f"/{pattern}/" if by == "byRegexp" else pattern
    values = [{"id": name, "value": value} for name, value in properties]
    return {"matcher": {"id": by, "options": matched}, "properties": values}
