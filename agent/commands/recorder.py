"""`steadytok recorder show`: what the flight recorder holds, whether the agent runs or has crashed."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from agent.commands import _options
from agent.text.terminal import say, write


class _Line(NamedTuple):
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
@click.option("--state", "state_dir", type=click.Path(path_type=Path), help="The state folder, if not the configured.")
@click.option("--since", default="1h", show_default=True, help="How far back from the newest reading.")
@click.option("--metric", metavar="NAME", help="Every reading of this metric.")
@click.option("--json", "as_json", is_flag=True, help="A list of {metric, values: [[seconds, text], …]}.")
def show(
    config_path: Path | None, root: str, state_dir: Path | None, since: str, metric: str | None, as_json: bool
) -> None:
    """Print what was recorded: a line for each series, or with --metric every reading of it."""
    lines = sorted(_lines(_folder(config_path, root, state_dir), _milliseconds(since), metric))
    if not lines:
        _options.die([f"nothing is recorded{f' of {metric}' if metric else ''} within {since}"], 1)
    if as_json:
        write(json.dumps([_as_json(line) for line in lines], indent=1) + "\n")
    else:
        say(*(_readings(lines) if metric else _summary(lines)))


def _milliseconds(text: str) -> int:
    from agent.text.units import duration

    try:
        return round(duration(text) * 1000)
    except ValueError as error:
        _options.die([f"--since: {error}"], 2)


def _folder(config_path: Path | None, root: str, state_dir: Path | None) -> Path:
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.persistence import place
    from agent.recorder.recorder import FOLDER
    from agent.storage.state_dir import folder

    if state_dir is not None:
        return place(state_dir, root) / FOLDER
    try:
        config, _modules = configuration.read(config_path)
    except ConfigError as error:
        _options.die(error.messages, 2)
    return place(folder(config.state.dir), root) / FOLDER


def _lines(folder: Path, since_ms: int, metric: str | None) -> Iterable[_Line]:
    from agent.recorder.recorder import recorded

    found: dict[tuple[str, tuple[tuple[str, str], ...]], _Line] = {}
    try:
        for rows in recorded(folder, since_ms, metric):
            for column, (meaning, labels) in enumerate(zip(rows.heading.metrics, rows.heading.labels, strict=True)):
                if metric in (None, meaning.name):
                    line = found.setdefault((meaning.name, labels), _Line(meaning.name, labels, [], []))
                    has = slice(None) if rows.present is None else rows.present[column]
                    line.times.extend(rows.times[has].tolist())
                    line.values.extend(rows.values[column, has].tolist())
    except OSError as error:
        _options.die([f"cannot read {folder}: {error.strerror}; give the agent's state folder with --state"], 1)
    return [line for line in found.values() if line.times]


def _series(line: _Line) -> str:
    pairs = ",".join(f'{name}="{value}"' for name, value in line.labels)
    return f"{line.name}{{{pairs}}}" if pairs else line.name


def _moment(at_ms: int) -> str:
    moment = datetime.datetime.fromtimestamp(at_ms / 1000, datetime.UTC)
    return moment.isoformat(sep=" ", timespec="milliseconds").removesuffix("+00:00")


def _summary(lines: Sequence[_Line]) -> Iterator[str]:
    yield f"{'first (UTC)':23}  {'last (UTC)':23}  {'readings':>8}  {'least':>12}  {'most':>12}  {'newest':>12}  series"
    for line in lines:
        ends = f"{_moment(line.times[0])}  {_moment(line.times[-1])}  {len(line.times):8}"
        numbers = "  ".join(f"{value:12.6g}" for value in (min(line.values), max(line.values), line.values[-1]))
        yield f"{ends}  {numbers}  {_series(line)}"


def _readings(lines: Sequence[_Line]) -> Iterator[str]:
    yield f"{'time (UTC)':23}  {'value':>16}  series"
    every = [(at, value, _series(line)) for line in lines for at, value in zip(line.times, line.values, strict=True)]
    for at, value, series in sorted(every, key=lambda reading: (reading[0], reading[2])):
        yield f"{_moment(at)}  {value:16.10g}  {series}"


def _as_json(line: _Line) -> dict[str, Any]:
    from agent.web.exposition import number

    pairs = zip(line.times, line.values, strict=True)
    return {
        "metric": {"__name__": line.name, **dict(line.labels)},
        "values": [[at / 1000, number(value)] for at, value in pairs],
    }
