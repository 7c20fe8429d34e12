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
ValueMapping = tuple[str, str, Colour]
"""A value as it comes, the word that is shown for it, and its colour."""
AXIS_WIDTH = 80  # pixels: panels below each other have their time axes in line


class Query(NamedTuple):
    """One expression; `legend` is Grafana's template of a series' name. `instant`: only the newest value."""

    expr: str
    legend: str
    instant: bool = False
    table: bool = False


class Thresholds(NamedTuple):
    """Colours by value: the first from minus infinity on, the others from their value on; `area` shades the plot."""

    base: Colour
    steps: tuple[tuple[float, Colour], ...] = ()
    area: bool = False


NO_THRESHOLDS = Thresholds("green")


class RightAxis(NamedTuple):
    """Series with their own unit on the right axis, by a pattern of their legends."""

    pattern: str
    unit: str


class FieldOptions(NamedTuple):
    """Unit, bounds and steps of a panel's values."""

    unit: str
    thresholds: Thresholds = NO_THRESHOLDS
    min: float | None = None
    max: float | None = None
    decimals: int | None = None
    mappings: tuple[ValueMapping, ...] = ()


def build_time_series(
    title: str,
    description: str,
    field_options: FieldOptions,
    *queries: Query,
    stacked: bool = False,
    right_axis: RightAxis | None = None,
    dashed_pattern: str | None = None,
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
        "thresholdsStyle": {"mode": "dashed+area" if field_options.thresholds.area else "off"},
    }
    options = {
        "legend": {"calcs": ["lastNotNull", "min", "max"], "displayMode": "table", "placement": "right"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [_override_right_axis(right_axis)] if right_axis else []
    if dashed_pattern:
        overrides.append(_build_override(dashed_pattern, [("custom.lineStyle", {"dash": [8, 8], "fill": "dash"})]))
    field_config = _build_field_config(field_options, custom, overrides, colour="palette-classic")
    return _build_panel("timeseries", title, description, queries, field_config, options, height, width)


def build_stat(
    title: str, description: str, field_options: FieldOptions, query: Query, *, width: int = 4, height: int = 4
) -> Panel:
    """One value, large, in the colour of its step."""
    options = {
        "colorMode": "none" if field_options.thresholds.base == "text" else "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value",
    }
    return _build_panel("stat", title, description, [query], _build_field_config(field_options), options, height, width)


def build_text_stat(
    title: str, description: str, field_options: FieldOptions, query: Query, *, width: int = 4, height: int = 4
) -> Panel:
    """What a label says, such as a version: the name of the series, without its value."""
    panel = build_stat(title, description, field_options, query, width=width, height=height)
    panel["options"] |= {"textMode": "name", "colorMode": "none"}
    return panel


def build_bar_gauge(
    title: str, description: str, field_options: FieldOptions, *queries: Query, width: int = 12, height: int = 8
) -> Panel:
    """One bar for each series, with its newest value."""
    options = {
        "displayMode": "basic",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "valueMode": "color",
    }
    return _build_panel(
        "bargauge", title, description, queries, _build_field_config(field_options), options, height, width
    )


def build_state_timeline(
    title: str, description: str, field_options: FieldOptions, *queries: Query, width: int = 24, height: int = 8
) -> Panel:
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
    return _build_panel(
        "state-timeline",
        title,
        description,
        queries,
        _build_field_config(field_options, custom),
        options,
        height,
        width,
    )


def build_table(
    title: str,
    description: str,
    field_options: FieldOptions,
    columns: Mapping[str, str],
    *queries: Query,
    column_options: Mapping[str, FieldOptions] | None = None,
    sort: tuple[str, bool] | None = None,
    width: int = 12,
    height: int = 8,
) -> Panel:
    """
    The newest values as rows, joined by their labels; `columns` says which are shown, in which order and how named.

    A query's value is the column `Value`, or `Value #A`, `Value #B` … where there are several. `units` are the looks
    of columns, by the name that is shown; `sort` is such a name and whether it descends.
    """
    table_queries = [query._replace(instant=True, table=True) for query in queries]
    overrides = [
        _build_override(name, _list_column_properties(column), by="byName")
        for name, column in (column_options or {}).items()
    ]
    sort_by = [{"desc": sort[1], "displayName": sort[0]}] if sort else []
    options = {"cellHeight": "sm", "footer": {"show": False}, "showHeader": True, "sortBy": sort_by}
    field_config = _build_field_config(
        field_options, {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True}, overrides
    )
    panel = _build_panel("table", title, description, table_queries, field_config, options, height, width)
    panel["transformations"] = [
        *([{"id": "merge", "options": {}}] if len(queries) > 1 else []),
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: index for index, name in enumerate(columns)},
                "renameByName": dict(columns),
            },
        },
    ]
    return panel


def _list_column_properties(field_options: FieldOptions) -> list[tuple[str, Any]]:
    """A column's look; its cells are coloured where its values have steps."""
    coloured = ("custom.cellOptions", {"type": "color-background", "mode": "basic"})
    return [*_list_properties(field_options), *([coloured] if field_options.thresholds.steps else [])]


def _build_panel(
    kind: str,
    title: str,
    description: str,
    queries: Sequence[Query],
    field_config: dict[str, Any],
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
        "fieldConfig": field_config,
        "options": options,
        "targets": [
            _build_target(query, letter) for query, letter in zip(queries, string.ascii_uppercase, strict=False)
        ],
    }


def _build_target(query: Query, letter: str) -> dict[str, Any]:
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


def _build_field_config(
    field_options: FieldOptions,
    custom: dict[str, Any] | None = None,
    overrides: Sequence[dict[str, Any]] = (),
    colour: str = "thresholds",
) -> dict[str, Any]:
    defaults = {"color": {"mode": colour}, "custom": custom or {}, **dict(_list_properties(field_options))}
    return {"defaults": defaults, "overrides": list(overrides)}


def _list_properties(field_options: FieldOptions) -> list[tuple[str, Any]]:
    steps: list[dict[str, Any]] = [{"color": field_options.thresholds.base, "value": None}]
    steps += [{"color": colour, "value": value} for value, colour in field_options.thresholds.steps]
    properties: list[tuple[str, Any]] = [
        ("unit", field_options.unit),
        ("thresholds", {"mode": "absolute", "steps": steps}),
    ]
    limits = (("min", field_options.min), ("max", field_options.max), ("decimals", field_options.decimals))
    properties += [(name, value) for name, value in limits if value is not None]
    if field_options.mappings:
        options = {value: {"text": text, "color": colour} for value, text, colour in field_options.mappings}
        properties.append(("mappings", [{"type": "value", "options": options}]))
    return properties


def _override_right_axis(right_axis: RightAxis) -> dict[str, Any]:
    return _build_override(right_axis.pattern, [("unit", right_axis.unit), ("custom.axisPlacement", "right")])


def _build_override(pattern: str, properties: Sequence[tuple[str, Any]], by: str = "byRegexp") -> dict[str, Any]:
    matched = f"/{pattern}/" if by == "byRegexp" else pattern
    values = [{"id": name, "value": value} for name, value in properties]
    return {"matcher": {"id": by, "options": matched}, "properties": values}
