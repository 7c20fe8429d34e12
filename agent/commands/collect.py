"""`steadytok collect`: one reading, printed."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from agent.commands import _options
from agent.sampling import once, plugins
from agent.sampling.sampler import Pass
from agent.storage import state_dir
from agent.text.terminal import say, write
from agent.web.exposition import Exposition, number


@click.command(name="collect")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@_options.root
@_options.config
@click.option("--json", "as_json", is_flag=True, help="A list of {name, labels, value, timestamp}.")
def command(names: tuple[str, ...], root: str, config_path: Path | None, as_json: bool) -> None:
    """Read collectors once (all, or those named) and print the readings as Prometheus text."""
    collectors, shelf = _wanted(names, config_path, root)
    passes = once.read_once(collectors, root, shelf=shelf)
    if names:
        passes = [result for result in passes if result.collector in names]
    write(_as_json(passes) if as_json else _as_text(passes))
    for result in passes:
        _complain(result)
    sys.exit(1 if once.failed(passes) else 0)


def _wanted(names: Sequence[str], config_path: Path | None, root: str) -> tuple[list[plugins.Collector], Path | None]:
    """The collectors to read, and the folder for what they keep."""
    try:
        bound, folder = _bound(config_path)
    except plugins.DiscoveryError as error:
        _options.die([str(error)], 1)
    known_names = sorted(collector.name for collector in bound)
    unknown = [name for name in names if name not in known_names]
    if unknown:
        known = ", ".join(known_names)
        _options.die([f"no collector is named {name!r}; there are: {known}" for name in unknown], 2)
    return once.with_sources(names, bound) if names else bound, state_dir.shelf(folder, root)


def _bound(config_path: Path | None) -> tuple[list[plugins.Collector], str | None]:
    if config_path is not None:
        return _configured(config_path)
    plain = {"interval": None, "deadline": None, "own": None}
    return [plugins.bind(module, name, **plain) for name, module in plugins.modules().items()], None


def _configured(config_path: Path) -> tuple[list[plugins.Collector], str | None]:
    from agent import configuration
    from agent.config.loader import ConfigError

    try:
        config, modules = configuration.read(config_path)
        return configuration.bind_all(config, modules), config.state.dir
    except ConfigError as error:
        _options.die(error.messages, 2)


def _as_text(passes: Sequence[Pass]) -> str:
    return Exposition().render((s.metric, s.labels, s.value, 0) for result in passes for s in result.samples)


def _as_json(passes: Sequence[Pass]) -> str:
    wall = time.time() - time.monotonic()
    rows = [
        {
            "name": s.metric.name,
            "labels": dict(s.labels),
            "value": _jsonable(s.value),
            "timestamp": round(result.began + wall, 3),
        }
        for result in passes
        for s in result.samples
    ]
    return json.dumps(rows, indent=1) + "\n"


def _jsonable(value: float) -> float | str:
    """JSON has no NaN and no infinity; Prometheus' own API writes them as text."""
    return value if math.isfinite(value) else number(value)


def _complain(result: Pass) -> None:
    if result.error is not None:
        say(f"steadytok: {result.collector}: {result.error}", err=True)
    for note in result.notes[:5]:
        say(f"steadytok: {result.collector}: missing: {note.path}: {note.reason}", err=True)
    if len(result.notes) > 5:
        say(f"steadytok: {result.collector}: missing: {len(result.notes) - 5} more", err=True)
