"""`steadytok collect`: reads collectors once and prints the readings."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from agent.commands import _options
from agent.runtime.entry_points import PluginError
from agent.sampling import binding, once, plugins
from agent.sampling.passes import CollectionResult
from agent.storage import state_dir
from agent.text.printable import escape_line
from agent.text.terminal import say, write
from agent.web.exposition import Exposition
from collectors import Labels
from rules.numbers import format_float


@click.command(name="collect")
@click.argument("names", nargs=-1, metavar="[NAME]…")
@_options.root
@_options.config
@click.option("--json", "as_json", is_flag=True, help="A list of {name, labels, value, timestamp}.")
def command(names: tuple[str, ...], root: str, config_path: Path | None, as_json: bool) -> None:
    """Read collectors once (all, or those named) and print the readings as Prometheus text."""
    collectors, cache_dir = _select_collectors(names, config_path, root)
    results = once.collect_all(collectors, root, cache_dir=cache_dir)
    if names:
        results = [result for result in results if result.collector in names]
    write(_format_json(results) if as_json else _format_text(results))
    for result in results:
        _print_faults(result)
    sys.exit(1 if once.select_failed(results) else 0)


def _select_collectors(
    names: Sequence[str], config_path: Path | None, root: str
) -> tuple[list[plugins.Collector], Path | None]:
    """Returns the collectors to read, and the folder of their cache files."""
    try:
        bound, folder = _bind_collectors(config_path)
    except PluginError as error:
        _options.exit_with_errors([str(error)], 1)
    names_available = sorted(collector.name for collector in bound)
    unknown = [name for name in names if name not in names_available]
    if unknown:
        available = ", ".join(names_available)
        _options.exit_with_errors([f"no collector is named {name!r}; there are: {available}" for name in unknown], 2)
    return once.add_sources(names, bound) if names else bound, state_dir.find_collector_cache_dir(folder, root)


def _bind_collectors(config_path: Path | None) -> tuple[list[plugins.Collector], str | None]:
    if config_path is not None:
        return _bind_configured(config_path)
    defaults = {"interval": None, "deadline": None, "config": None}
    return [
        plugins.bind_collector(module, name, **defaults) for name, module in plugins.load_collectors().items()
    ], None


def _bind_configured(config_path: Path) -> tuple[list[plugins.Collector], str | None]:
    from agent import configuration
    from agent.config.loader import ConfigError

    try:
        config, modules = configuration.load_configuration(config_path)
        return binding.bind_collectors(config, modules), config.state.dir
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 2)


def _format_text(results: Sequence[CollectionResult]) -> str:
    """Returns Prometheus text; what would command a terminal is escaped before the text's own escapes are made."""
    samples = (sample for result in results for sample in result.samples)
    return Exposition().render((s.metric, _escape_labels(s.labels), s.value, 0) for s in samples)


def _escape_labels(labels: Labels) -> Labels:
    return tuple((name, escape_line(value)) for name, value in labels)


def _format_json(results: Sequence[CollectionResult]) -> str:
    clock_offset = time.time() - time.monotonic()
    rows = [
        {
            "name": s.metric.name,
            "labels": dict(s.labels),
            "value": _to_json_value(s.value),
            "timestamp": round(result.began + clock_offset, 3),
        }
        for result in results
        for s in result.samples
    ]
    return json.dumps(rows, indent=1) + "\n"


def _to_json_value(value: float) -> float | str:
    """Returns a number; NaN and infinity, which JSON lacks, become text as in Prometheus' API."""
    return value if math.isfinite(value) else format_float(value)


def _print_faults(result: CollectionResult) -> None:
    if result.error is not None:
        say(f"steadytok: {result.collector}: {result.error}", err=True)
    for note in result.notes[:5]:
        say(f"steadytok: {result.collector}: missing: {note.path}: {note.reason}", err=True)
    if len(result.notes) > 5:
        say(f"steadytok: {result.collector}: missing: {len(result.notes) - 5} more", err=True)
