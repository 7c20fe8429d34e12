"""
Builds panels: queries, visualisation, units and thresholds.

Each function returns a panel's dictionary without its position; `grafana/dashboard.py` puts the panels on the grid.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

PanelJson = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
HOST = 'job="steadytok",instance="$instance"'
"""The matchers of queries about one host."""

Colour = Literal["green", "yellow", "orange", "red", "blue", "purple", "text"]
ValueMapping = tuple[str, str, Colour]
"""A value, its displayed text, and its colour."""
AXIS_WIDTH = 80  # pixels; equal widths align the time axes of panels below each other


class PanelTarget(NamedTuple):
    """One expression; `legend` is Grafana's template for a series' name; `instant` queries the newest value only."""

    expr: str
    legend: str
    instant: bool = False
    table: bool = False


class Thresholds(NamedTuple):
    """Colours by value: `base` below all steps, each other colour from its value on; `area` shades the plot."""

    base: Colour
    steps: tuple[tuple[float, Colour], ...] = ()
    area: bool = False


NO_THRESHOLDS = Thresholds("green")


class RightAxis(NamedTuple):
    """Selects series by a pattern of their legends, for the right axis with its own unit."""

    pattern: str
    unit: str


class FieldOptions(NamedTuple):
    """Unit, bounds and thresholds of a panel's values."""

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
    *queries: PanelTarget,
    stacked: bool = False,
    right_axis: RightAxis | None = None,
    dashed_pattern: str | None = None,
    height: int = 8,
    width: int = 12,
) -> PanelJson:
    """Builds a panel of values over time; its legend is a table with the last, minimum and maximum value."""
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
    title: str, description: str, field_options: FieldOptions, query: PanelTarget, *, width: int = 4, height: int = 4
) -> PanelJson:
    """Builds a panel with one large value in the colour of its threshold."""
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
    title: str, description: str, field_options: FieldOptions, query: PanelTarget, *, width: int = 4, height: int = 4
) -> PanelJson:
    """Builds a panel with the text of a label, such as a version, in place of the value."""
    panel = build_stat(title, description, field_options, query, width=width, height=height)
    panel["options"] |= {"textMode": "name", "colorMode": "none"}
    return panel


def build_bar_gauge(
    title: str, description: str, field_options: FieldOptions, *queries: PanelTarget, width: int = 12, height: int = 8
) -> PanelJson:
    """Builds a panel with a bar for each series' newest value."""
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
    title: str, description: str, field_options: FieldOptions, *queries: PanelTarget, width: int = 24, height: int = 8
) -> PanelJson:
    """Builds a panel with a row for each series, coloured by its value over time."""
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
    *queries: PanelTarget,
    column_options: Mapping[str, FieldOptions] | None = None,
    sort: tuple[str, bool] | None = None,
    width: int = 12,
    height: int = 8,
) -> PanelJson:
    """
    Builds a table of the newest values, joined by their labels; `columns` maps fields to displayed names, in order.

    A query's value is the field `Value`, or `Value #A`, `Value #B` … with several queries. `column_options` are by
    displayed name; `sort` is a displayed name and true for a descending order.
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
    """Returns a column's properties; cells have colours when the options have thresholds."""
    coloured = ("custom.cellOptions", {"type": "color-background", "mode": "basic"})
    return [*_list_properties(field_options), *([coloured] if field_options.thresholds.steps else [])]


def _build_panel(
    kind: str,
    title: str,
    description: str,
    queries: Sequence[PanelTarget],
    field_config: dict[str, Any],
    options: dict[str, Any],
    height: int,
    width: int,
) -> PanelJson:
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


def _build_target(query: PanelTarget, letter: str) -> dict[str, Any]:
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
