"""A dashboard drawn from real answers: each panel at its place, with its unit, thresholds, colours and legend."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.dates import DateFormatter

Answers = Mapping[tuple[str, str, str], list[Any]]

COLUMN, LINE = 0.95, 0.42  # inches of a column and a line of Grafana's grid
COLOURS = {
    "green": "#73bf69",
    "yellow": "#fade2a",
    "orange": "#ff9830",
    "red": "#f2495c",
    "blue": "#5794f2",
    "purple": "#b877d9",
    "text": "#3c4043",
}
SCALES = {
    "bytes": (1024.0, ("B", "KiB", "MiB", "GiB", "TiB")),
    "Bps": (1000.0, ("B/s", "kB/s", "MB/s", "GB/s", "TB/s")),
    "hertz": (1000.0, ("Hz", "kHz", "MHz", "GHz")),
    "short": (1000.0, ("", " K", " Mil", " Bil")),
    "ops": (1000.0, (" ops/s", "K ops/s", "M ops/s", "G ops/s")),
    "watt": (1000.0, (" W", " kW", " MW")),
    "s": (1000.0, (" s",)),
}
TAILS = {"percent": "%", "celsius": " °C", "rotrpm": " rpm"}


def format_value(value: float, defaults: Mapping[str, Any]) -> str:
    """A value as Grafana writes it in the panel's unit."""
    for mapping in defaults.get("mappings", ()):
        named = mapping["options"].get(f"{value:g}")
        if named:
            return str(named["text"])
    unit, decimals = defaults.get("unit", "short"), defaults.get("decimals", 1)
    if unit == "percentunit":
        return f"{100 * value:.{decimals}f}%"
    if unit in TAILS:
        return f"{value:.{decimals}f}{TAILS[unit]}"
    if unit == "dateTimeFromNow":
        return datetime.datetime.fromtimestamp(value / 1000, datetime.UTC).isoformat(" ", "minutes")
    step, names = SCALES.get(unit, (1000.0, ("",)))
    scale = 0
    while abs(value) >= step and scale < len(names) - 1:
        value, scale = value / step, scale + 1
    return f"{value:.3g}{names[scale]}" if unit != "s" else f"{value:.3g} s"


def pick_colour(value: float, defaults: Mapping[str, Any]) -> str:
    """The colour that a value has by mapping or threshold."""
    for mapping in defaults.get("mappings", ()):
        named = mapping["options"].get(f"{value:g}")
        if named:
            return COLOURS[named["color"]]
    name = "green"
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            name = step["color"]
    return COLOURS[name]


def expand_legend(template: str, labels: Mapping[str, str]) -> str:
    """The name of a series by its legend's template."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda name: labels.get(name[1], ""), template).strip()


def draw(dashboard: Mapping[str, Any], answers: Answers, folder: Path) -> None:
    """Writes FOLDER/NAME.png."""
    panels = dashboard["panels"]
    lines = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * COLUMN, lines * LINE + 0.6), facecolor="#f4f5f5")
    figure.text(0.01, 1 - 0.35 / (lines * LINE + 0.6), dashboard["title"], fontsize=18, weight="bold")
    for panel in panels:
        grid_position = panel["gridPos"]
        height = lines + 1.5
        box = (
            (grid_position["x"] + 0.15) / 24,
            1 - (grid_position["y"] + 1.5 + grid_position["h"] - 0.1) / height,
            (grid_position["w"] - 0.3) / 24,
            (grid_position["h"] - 0.2) / height,
        )
        if panel["type"] == "row":
            figure.text(box[0], box[1] + box[3] / 3, f"▾ {panel['title']}", fontsize=12, weight="bold")
            continue
        panel_answers = [
            (target, answers.get((dashboard["uid"], panel["title"], target["refId"]), []))
            for target in panel["targets"]
        ]
        _draw_panel(figure, box, panel, panel_answers)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{dashboard['uid']}.png", dpi=70, facecolor=figure.get_facecolor())
    plt.close(figure)


def _draw_panel(figure: Any, box: tuple[float, float, float, float], panel: Mapping[str, Any], answers: Any) -> None:
    frame = figure.add_axes(box, facecolor="white")
    frame.set(xticks=[], yticks=[])
    for spine in frame.spines.values():
        spine.set_color("#d0d0d0")
    frame.set_title(f" {panel['title']}", loc="left", fontsize=9, y=1.0, pad=-11)
    kinds: dict[str, Callable[[Axes, Mapping[str, Any], Any], None]] = {
        "timeseries": _draw_series,
        "stat": _draw_number,
        "bargauge": _draw_bars,
        "table": _draw_table,
        "state-timeline": _draw_states,
    }
    if not any(series for _, series in answers):
        frame.text(0.5, 0.45, "No data", ha="center", va="center", color="#888")
        return
    kinds[panel["type"]](frame, panel, answers)


def _find_override(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What overrides say of a series or column with this name."""
    properties: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        by, pattern = override["matcher"]["id"], override["matcher"]["options"]
        if (by == "byName" and pattern == name) or (by == "byRegexp" and re.search(pattern.strip("/"), name)):
            properties |= {item["id"]: item["value"] for item in override["properties"]}
    return properties


def _draw_series(frame: Axes, panel: Mapping[str, Any], answers: Any) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    plot_axes = _add_axes(frame, (0.07, 0.12, 0.53, 0.74))
    right: Axes | None = None
    rows: list[tuple[Any, str]] = []
    palette = plt.get_cmap("tab20")
    stacked, bottom = defaults["custom"]["stacking"]["mode"] == "normal", {}
    for target, series in answers:
        for one_series in series[:40]:
            name = expand_legend(target["legendFormat"], one_series["metric"])
            override = _find_override(panel, name)
            at = [datetime.datetime.fromtimestamp(float(time), datetime.UTC) for time, _ in one_series["values"]]
            values = [float(value) for _, value in one_series["values"]]
            axes = plot_axes
            if override.get("custom.axisPlacement") == "right":
                right = right or plot_axes.twinx()
                axes = right
            paint, style = palette(len(rows) % 20), "--" if "custom.lineStyle" in override else "-"
            if stacked:
                tops = [bottom.get(moment, 0.0) + value for moment, value in zip(at, values, strict=True)]
                axes.fill_between(at, [bottom.get(moment, 0.0) for moment in at], tops, color=paint, alpha=0.5, lw=0)
                bottom |= dict(zip(at, tops, strict=True))
                values = tops
            axes.plot(at, values, style, color=paint, lw=1.3, ms=2)
            options = {**defaults, **({"unit": override["unit"]} if "unit" in override else {})}
            numbers = [float(value) for _, value in one_series["values"]]
            newest, minimum, maximum = (
                format_value(value, options) for value in (numbers[-1], min(numbers), max(numbers))
            )
            text = f"{name}   {newest}  ({minimum} – {maximum})"
            rows.append((paint, text))
            axes.yaxis.set_major_formatter(lambda value, _position, options=options: format_value(value, options))
    _set_limits(plot_axes, defaults)
    for axes in filter(None, (plot_axes, right)):
        axes.tick_params(labelsize=6, length=2)
    plot_axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    plot_axes.grid(color="#eee")
    most = max(4, int(panel["gridPos"]["h"] * 2.2))
    for row_number, (paint, text) in enumerate(rows[:most]):
        frame.text(
            0.66, 0.84 - row_number * 0.84 / most, f"━ {text}", color=paint, fontsize=6.5, va="top", clip_on=True
        )


def _add_axes(frame: Axes, part: tuple[float, float, float, float]) -> Axes:
    """Axes of the figure at a part of the frame: of inset ones, a second axis hides the lines of the first."""
    box = frame.get_position()
    position = (box.x0 + part[0] * box.width, box.y0 + part[1] * box.height, part[2] * box.width, part[3] * box.height)
    figure = frame.figure
    return figure.add_axes(position)


def _set_limits(axes: Axes, defaults: Mapping[str, Any]) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(defaults.get("min", low), defaults.get("max", high))
    if defaults["custom"].get("thresholdsStyle", {}).get("mode") == "off":
        return
    for step in defaults["thresholds"]["steps"][1:]:
        if low <= step["value"] <= axes.get_ylim()[1]:
            axes.axhline(step["value"], color=COLOURS[step["color"]], ls=":", lw=1)


def _get_newest(series: Mapping[str, Any]) -> float:
    return float(series["value"][1] if "value" in series else series["values"][-1][1])


def _draw_number(frame: Axes, panel: Mapping[str, Any], answers: Any) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    target, series = answers[0]
    value = _get_newest(series[0])
    if panel["options"]["textMode"] == "name":
        text = ", ".join(expand_legend(target["legendFormat"], each["metric"]) for each in series)
    else:
        text = format_value(value, defaults)
        frame.set_facecolor(pick_colour(value, defaults))
    frame.text(0.5, 0.42, text, ha="center", va="center", fontsize=20, weight="bold")


def _draw_bars(frame: Axes, panel: Mapping[str, Any], answers: Any) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    rows = [
        (expand_legend(target["legendFormat"], one_series["metric"]), _get_newest(one_series))
        for target, series in answers
        for one_series in series
    ]
    axes = frame.inset_axes((0.3, 0.04, 0.6, 0.82))
    axes.barh(
        range(len(rows)),
        [value for _, value in rows],
        color=[pick_colour(one_series, defaults) for _, one_series in rows],
    )
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlim(defaults.get("min"), defaults.get("max"))
    axes.invert_yaxis()
    axes.tick_params(labelsize=6.5)
    for row_number, (_, value) in enumerate(rows):
        axes.text(max(value, 0), row_number, f" {format_value(value, defaults)}", va="center", fontsize=6.5)


def _draw_table(frame: Axes, panel: Mapping[str, Any], answers: Any) -> None:
    merged: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for target, series in answers:
        column = "Value" if len(answers) == 1 else f"Value #{target['refId']}"
        for one_series in series:
            labels = tuple(sorted((k, v) for k, v in one_series["metric"].items() if k != "__name__"))
            merged.setdefault(labels, dict(labels))[column] = _get_newest(one_series)
    names = panel["transformations"][-1]["options"]["renameByName"]
    rows = [{names[column]: row.get(column, "") for column in names} for row in merged.values()]
    for order in panel["options"]["sortBy"]:
        rows.sort(key=lambda row: (isinstance(row[order["displayName"]], str), row[order["displayName"]]))
        rows = rows[::-1] if order["desc"] else rows
    defaults = panel["fieldConfig"]["defaults"]
    visible_rows = rows[: int(panel["gridPos"]["h"] * 1.6)]
    cells = [[_format_cell(panel, defaults, name, row[name]) for name in names.values()] for row in visible_rows]
    table = frame.table(
        cellText=[[text for text, _ in row] for row in cells],
        cellColours=[[paint for _, paint in row] for row in cells],
        colLabels=list(names.values()),
        bbox=_get_top_box(min(0.84, 0.1 * (len(cells) + 1) * 8 / panel["gridPos"]["h"])),
        cellLoc="left",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(7)


def _get_top_box(height: float) -> tuple[float, float, float, float]:
    return (0.01, 0.86 - height, 0.98, height)


def _format_cell(panel: Mapping[str, Any], defaults: Mapping[str, Any], name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, str):
        return value, "white"
    options = {**defaults, **_find_override(panel, name)}
    return format_value(value, options), pick_colour(value, options) if len(
        options["thresholds"]["steps"]
    ) > 1 else "white"


def _draw_states(frame: Axes, panel: Mapping[str, Any], answers: Any) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes = frame.inset_axes((0.2, 0.1, 0.78, 0.78))
    names: list[str] = []
    for target, series in answers:
        for one_series in series:
            names.append(expand_legend(target["legendFormat"], one_series["metric"]))
            times = [float(at) for at, _ in one_series["values"]]
            step = times[1] - times[0] if len(times) > 1 else 5.0
            for at, value in one_series["values"]:
                axes.barh(len(names) - 1, step, left=float(at), color=pick_colour(float(value), defaults), lw=0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(labelsize=6.5)
    axes.xaxis.set_major_formatter(
        lambda at, _position: datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%H:%M")
    )
    axes.invert_yaxis()
