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


def format_value(value: float, look: Mapping[str, Any]) -> str:
    """A value as Grafana writes it in the panel's unit."""
    for mapping in look.get("mappings", ()):
        named = mapping["options"].get(f"{value:g}")
        if named:
            return str(named["text"])
    unit, decimals = look.get("unit", "short"), look.get("decimals", 1)
    if unit == "percentunit":
        return f"{100 * value:.{decimals}f}%"
    if unit in TAILS:
        return f"{value:.{decimals}f}{TAILS[unit]}"
    if unit == "dateTimeFromNow":
        return datetime.datetime.fromtimestamp(value / 1000, datetime.UTC).isoformat(" ", "minutes")
    step, names = SCALES.get(unit, (1000.0, ("",)))
    place = 0
    while abs(value) >= step and place < len(names) - 1:
        value, place = value / step, place + 1
    return f"{value:.3g}{names[place]}" if unit != "s" else f"{value:.3g} s"


def pick_colour(value: float, look: Mapping[str, Any]) -> str:
    """The colour that a value has by mapping or threshold."""
    for mapping in look.get("mappings", ()):
        named = mapping["options"].get(f"{value:g}")
        if named:
            return COLOURS[named["color"]]
    found = "green"
    for step in look["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            found = step["color"]
    return COLOURS[found]


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
        place = panel["gridPos"]
        height = lines + 1.5
        box = (
            (place["x"] + 0.15) / 24,
            1 - (place["y"] + 1.5 + place["h"] - 0.1) / height,
            (place["w"] - 0.3) / 24,
            (place["h"] - 0.2) / height,
        )
        if panel["type"] == "row":
            figure.text(box[0], box[1] + box[3] / 3, f"▾ {panel['title']}", fontsize=12, weight="bold")
            continue
        found = [
            (target, answers.get((dashboard["uid"], panel["title"], target["refId"]), []))
            for target in panel["targets"]
        ]
        _draw_panel(figure, box, panel, found)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{dashboard['uid']}.png", dpi=70, facecolor=figure.get_facecolor())
    plt.close(figure)


def _draw_panel(figure: Any, box: tuple[float, float, float, float], panel: Mapping[str, Any], found: Any) -> None:
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
    if not any(series for _, series in found):
        frame.text(0.5, 0.45, "No data", ha="center", va="center", color="#888")
        return
    kinds[panel["type"]](frame, panel, found)


def _find_override(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What overrides say of a series or column with this name."""
    said: dict[str, Any] = {}
    for override in panel["fieldConfig"]["overrides"]:
        by, pattern = override["matcher"]["id"], override["matcher"]["options"]
        if (by == "byName" and pattern == name) or (by == "byRegexp" and re.search(pattern.strip("/"), name)):
            said |= {item["id"]: item["value"] for item in override["properties"]}
    return said


def _draw_series(frame: Axes, panel: Mapping[str, Any], found: Any) -> None:
    look = panel["fieldConfig"]["defaults"]
    left = _add_axes(frame, (0.07, 0.12, 0.53, 0.74))
    right: Axes | None = None
    rows: list[tuple[Any, str]] = []
    palette = plt.get_cmap("tab20")
    stacked, bottom = look["custom"]["stacking"]["mode"] == "normal", {}
    for target, series in found:
        for each in series[:40]:
            name = expand_legend(target["legendFormat"], each["metric"])
            said = _find_override(panel, name)
            at = [datetime.datetime.fromtimestamp(float(time), datetime.UTC) for time, _ in each["values"]]
            values = [float(value) for _, value in each["values"]]
            axes = left
            if said.get("custom.axisPlacement") == "right":
                right = right or left.twinx()
                axes = right
            paint, style = palette(len(rows) % 20), "--" if "custom.lineStyle" in said else "-"
            if stacked:
                tops = [bottom.get(moment, 0.0) + value for moment, value in zip(at, values, strict=True)]
                axes.fill_between(at, [bottom.get(moment, 0.0) for moment in at], tops, color=paint, alpha=0.5, lw=0)
                bottom |= dict(zip(at, tops, strict=True))
                values = tops
            axes.plot(at, values, style, color=paint, lw=1.3, ms=2)
            own = {**look, **({"unit": said["unit"]} if "unit" in said else {})}
            numbers = [float(value) for _, value in each["values"]]
            text = f"{name}   {format_value(numbers[-1], own)}  ({format_value(min(numbers), own)} – {format_value(max(numbers), own)})"
            rows.append((paint, text))
            axes.yaxis.set_major_formatter(lambda value, _place, own=own: format_value(value, own))
    _set_limits(left, look)
    for axes in filter(None, (left, right)):
        axes.tick_params(labelsize=6, length=2)
    left.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    left.grid(color="#eee")
    most = max(4, int(panel["gridPos"]["h"] * 2.2))
    for place, (paint, text) in enumerate(rows[:most]):
        frame.text(0.66, 0.84 - place * 0.84 / most, f"━ {text}", color=paint, fontsize=6.5, va="top", clip_on=True)


def _add_axes(frame: Axes, part: tuple[float, float, float, float]) -> Axes:
    """Axes of the figure at a part of the frame: of inset ones, a second axis hides the lines of the first."""
    box = frame.get_position()
    place = (box.x0 + part[0] * box.width, box.y0 + part[1] * box.height, part[2] * box.width, part[3] * box.height)
    figure = frame.figure
    return figure.add_axes(place)


def _set_limits(axes: Axes, look: Mapping[str, Any]) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(look.get("min", low), look.get("max", high))
    if look["custom"].get("thresholdsStyle", {}).get("mode") == "off":
        return
    for step in look["thresholds"]["steps"][1:]:
        if low <= step["value"] <= axes.get_ylim()[1]:
            axes.axhline(step["value"], color=COLOURS[step["color"]], ls=":", lw=1)


def _get_newest(series: Mapping[str, Any]) -> float:
    return float(series["value"][1] if "value" in series else series["values"][-1][1])


def _draw_number(frame: Axes, panel: Mapping[str, Any], found: Any) -> None:
    look = panel["fieldConfig"]["defaults"]
    target, series = found[0]
    value = _get_newest(series[0])
    if panel["options"]["textMode"] == "name":
        text = ", ".join(expand_legend(target["legendFormat"], each["metric"]) for each in series)
    else:
        text = format_value(value, look)
        frame.set_facecolor(pick_colour(value, look))
    frame.text(0.5, 0.42, text, ha="center", va="center", fontsize=20, weight="bold")


def _draw_bars(frame: Axes, panel: Mapping[str, Any], found: Any) -> None:
    look = panel["fieldConfig"]["defaults"]
    rows = [
        (expand_legend(target["legendFormat"], each["metric"]), _get_newest(each))
        for target, series in found
        for each in series
    ]
    axes = frame.inset_axes((0.3, 0.04, 0.6, 0.82))
    axes.barh(range(len(rows)), [value for _, value in rows], color=[pick_colour(each, look) for _, each in rows])
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlim(look.get("min"), look.get("max"))
    axes.invert_yaxis()
    axes.tick_params(labelsize=6.5)
    for place, (_, value) in enumerate(rows):
        axes.text(max(value, 0), place, f" {format_value(value, look)}", va="center", fontsize=6.5)


def _draw_table(frame: Axes, panel: Mapping[str, Any], found: Any) -> None:
    merged: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for target, series in found:
        column = "Value" if len(found) == 1 else f"Value #{target['refId']}"
        for each in series:
            labels = tuple(sorted((k, v) for k, v in each["metric"].items() if k != "__name__"))
            merged.setdefault(labels, dict(labels))[column] = _get_newest(each)
    names = panel["transformations"][-1]["options"]["renameByName"]
    rows = [{names[column]: row.get(column, "") for column in names} for row in merged.values()]
    for order in panel["options"]["sortBy"]:
        rows.sort(key=lambda row: (isinstance(row[order["displayName"]], str), row[order["displayName"]]))
        rows = rows[::-1] if order["desc"] else rows
    look = panel["fieldConfig"]["defaults"]
    shown = rows[: int(panel["gridPos"]["h"] * 1.6)]
    cells = [[_format_cell(panel, look, name, row[name]) for name in names.values()] for row in shown]
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


def _format_cell(panel: Mapping[str, Any], look: Mapping[str, Any], name: str, value: Any) -> tuple[str, str]:
    if isinstance(value, str):
        return value, "white"
    own = {**look, **_find_override(panel, name)}
    return format_value(value, own), pick_colour(value, own) if len(own["thresholds"]["steps"]) > 1 else "white"


def _draw_states(frame: Axes, panel: Mapping[str, Any], found: Any) -> None:
    look = panel["fieldConfig"]["defaults"]
    axes = frame.inset_axes((0.2, 0.1, 0.78, 0.78))
    names: list[str] = []
    for target, series in found:
        for each in series:
            names.append(expand_legend(target["legendFormat"], each["metric"]))
            times = [float(at) for at, _ in each["values"]]
            step = times[1] - times[0] if len(times) > 1 else 5.0
            for at, value in each["values"]:
                axes.barh(len(names) - 1, step, left=float(at), color=pick_colour(float(value), look), lw=0)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(labelsize=6.5)
    axes.xaxis.set_major_formatter(
        lambda at, _place: datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%H:%M")
    )
    axes.invert_yaxis()
