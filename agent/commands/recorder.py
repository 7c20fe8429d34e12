"""`steadytok recorder show`: prints the flight recorder's data, whether the agent runs or has crashed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from agent.commands import _options
from agent.text.terminal import say, write
from agent.text.times import format_utc


class _SeriesSamples(NamedTuple):
    """One series with its samples."""

    name: str
    labels: tuple[tuple[str, str], ...]
    times: list[int]
    values: list[float]


@click.group(name="recorder")
def command() -> None:
    """Read the flight recorder."""


@command.command()
@_options.config
@_options.root
@click.option(
    "--state", "state_dir", type=click.Path(path_type=Path), help="The state folder, if not the configured one."
)
@click.option("--since", default="1h", show_default=True, help="How far back from the newest reading.")
@click.option("--metric", metavar="NAME", help="Print every reading of this metric.")
@click.option("--json", "as_json", is_flag=True, help="A list of {metric, values: [[seconds, text], …]}.")
def show(
    config_path: Path | None, root: str, state_dir: Path | None, since: str, metric: str | None, as_json: bool
) -> None:
    """
    Print the recorded series.

    Prints one line for each series; with --metric every reading of that metric.
    """
    series = sorted(_read_series(_find_folder(config_path, root, state_dir), _parse_milliseconds(since), metric))
    if not series:
        _options.exit_with_errors([f"nothing is recorded{f' of {metric}' if metric else ''} within {since}"], 1)
    if as_json:
        write(json.dumps([_to_json(line) for line in series], indent=1) + "\n")
    else:
        say(*(_format_readings(series) if metric else _format_summary(series)))


def _parse_milliseconds(text: str) -> int:
    from agent.text.units import parse_duration

    try:
        return round(parse_duration(text) * 1000)
    except ValueError as error:
        _options.exit_with_errors([f"--since: {error}"], 2)


def _find_folder(config_path: Path | None, root: str, state_dir: Path | None) -> Path:
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.recorder.recorder import FOLDER
    from agent.storage.state_dir import find_state_dir, state_dir_of_root

    if state_dir is not None:
        return state_dir_of_root(state_dir, root) / FOLDER
    try:
        config, _modules = configuration.load_configuration(config_path)
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 2)
    return state_dir_of_root(find_state_dir(config.state.dir), root) / FOLDER


def _read_series(folder: Path, since_ms: int, metric: str | None) -> Iterable[_SeriesSamples]:
    from agent.recorder.recorder import read_recording

    series_by_key: dict[tuple[str, tuple[tuple[str, str], ...]], _SeriesSamples] = {}
    try:
        for rows in read_recording(folder, since_ms, metric):
            for column, (column_metric, labels) in enumerate(
                zip(rows.heading.metrics, rows.heading.labels, strict=True)
            ):
                if metric in (None, column_metric.name):
                    series = series_by_key.setdefault(
                        (column_metric.name, labels), _SeriesSamples(column_metric.name, labels, [], [])
                    )
                    present = slice(None) if rows.present is None else rows.present[column]
                    series.times.extend(rows.times[present].tolist())
                    series.values.extend(rows.values[column, present].tolist())
    except OSError as error:
        _options.exit_with_errors(
            [f"cannot read {folder}: {error.strerror}; give the agent's state folder with --state"], 1
        )
    return [series for series in series_by_key.values() if series.times]


def _format_series(line: _SeriesSamples) -> str:
    pairs = ",".join(f'{name}="{value}"' for name, value in line.labels)
    return f"{line.name}{{{pairs}}}" if pairs else line.name


def _format_summary(lines: Sequence[_SeriesSamples]) -> Iterator[str]:
    yield f"{'first (UTC)':23}  {'last (UTC)':23}  {'readings':>8}  {'least':>12}  {'most':>12}  {'newest':>12}  series"
    for line in lines:
        span = f"{format_utc(line.times[0])}  {format_utc(line.times[-1])}  {len(line.times):8}"
        numbers = "  ".join(f"{value:12.6g}" for value in (min(line.values), max(line.values), line.values[-1]))
        yield f"{span}  {numbers}  {_format_series(line)}"


def _format_readings(lines: Sequence[_SeriesSamples]) -> Iterator[str]:
    yield f"{'time (UTC)':23}  {'value':>16}  series"
    readings = [
        (at, value, _format_series(line)) for line in lines for at, value in zip(line.times, line.values, strict=True)
    ]
    for at, value, series in sorted(readings, key=lambda reading: (reading[0], reading[2])):
        yield f"{format_utc(at)}  {value:16.10g}  {series}"


def _to_json(line: _SeriesSamples) -> dict[str, Any]:
    from rules.numbers import format_float

    pairs = zip(line.times, line.values, strict=True)
    return {
        "metric": {"__name__": line.name, **dict(line.labels)},
        "values": [[at / 1000, format_float(value)] for at, value in pairs],
    }
