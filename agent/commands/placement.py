"""`steadytok placement`: shows the memory of engines by node, beside the placement that was requested."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import click

from agent import configuration
from agent.commands import _options
from agent.placement import numa_maps, table
from agent.placement.process_placement import ProcessPlacement
from agent.placement.query import PROCESS, PlacementError, PlacementQuery
from agent.runtime.entry_points import PluginError
from agent.sampling import binding
from agent.text.terminal import say, write


@click.command(name="placement")
@click.argument("who", required=False, metavar="[PID|ENGINE]")
@_options.config
@_options.root
@click.option("--watch", is_flag=True, help="Repeat until Ctrl-C.")
@click.option(
    "--every", type=click.FloatRange(min=1.0), default=5.0, show_default=True, help="Seconds between updates."
)
@click.option(
    "--exact", is_flag=True, help="Count every page in numa_maps, after a question: the process waits meanwhile."
)
@click.option("--yes", is_flag=True, help="With --exact: do not ask first.")
@click.option("--json", "as_json", is_flag=True, help="A list of processes; with --watch one list a line.")
def command(
    who: str | None,
    config_path: Path | None,
    root: str,
    watch: bool,
    every: float,
    exact: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """
    Show on which nodes the memory and the threads of an engine, or of any process, are.

    Shares are estimated from a sample of pages and shown with their error. That takes milliseconds whatever the size,
    and does not hold the process up.
    """
    if watch and exact:
        _options.die(["--exact holds the process up each time: it cannot be combined with --watch"], 2)
    query = _open_query(config_path, root, who)
    try:
        placements, missing = query.read()
        if exact:
            _confirm_exact(placements, yes=yes)
            placements = [query.read_numa_maps(placement) for placement in placements]
        while watch:
            _print_placements(placements, missing, as_json=as_json, is_watched=True)
            time.sleep(every)
            placements, missing = query.read()
    except PlacementError as error:
        _options.die([str(error)], 1)
    except KeyboardInterrupt:
        say("")
        sys.exit(0 if watch else 130)
    _print_placements(placements, missing, as_json=as_json, is_watched=False)
    sys.exit(1 if missing else 0)


def _open_query(config_path: Path | None, root: str, who: str | None) -> PlacementQuery:
    from agent.config.loader import ConfigError

    try:
        config, modules = configuration.load_configuration(config_path)
        collectors = {collector.name: collector for collector in binding.bind_collectors(config, modules)}
    except ConfigError as error:
        _options.die(error.messages, 2)
    except PluginError as error:
        _options.die([str(error)], 1)
    if PROCESS not in collectors:
        _options.die(["the collector process is switched off in the configuration"], 2)
    return PlacementQuery(collectors[PROCESS], modules[PROCESS], root, who)


def _confirm_exact(placements: list[ProcessPlacement], *, yes: bool) -> None:
    """Prints the cost, and goes on only with --yes or if the operator agrees."""
    for placement in placements:
        shortest, longest = numa_maps.estimate_read_seconds(placement.resident)
        say(
            f"{table.format_title(placement)}: reading numa_maps holds up its mmap and munmap, and with them "
            "perhaps its "
            f"tokens, for about {1000 * shortest:.1f} to {1000 * longest:.1f} ms.",
            err=True,
        )
    if yes:
        return
    if not sys.stdin.isatty():
        _options.die(["standard input is not a terminal, so give --yes to agree"], 2)
    click.confirm("Read it?", abort=True, err=True)


def _print_placements(
    placements: list[ProcessPlacement], missing: list[str], *, as_json: bool, is_watched: bool
) -> None:
    if as_json:
        rows = [table.to_json(placement) for placement in placements]
        write(json.dumps(rows, indent=None if is_watched else 1) + "\n")
    else:
        if is_watched and sys.stdout.isatty():
            click.clear()
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
        for index, placement in enumerate(placements):
            say(*[""] * (index > 0), *table.format_table(placement, width))
        if is_watched:
            say("", time.strftime("%H:%M:%S   Ctrl-C ends"))
    for reason in missing[:5]:
        say(f"steadytok: missing: {reason}", err=True)
    if len(missing) > 5:
        say(f"steadytok: missing: {len(missing) - 5} more", err=True)
