"""`steadytok placement`: where the memory of engines is, by node, and what was asked."""

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
from agent.placement.process_placement import Placed
from agent.placement.query import Look, LookError
from agent.sampling import plugins
from agent.text.terminal import say, write


@click.command(name="placement")
@click.argument("who", required=False, metavar="[PID|ENGINE]")
@_options.config
@_options.root
@click.option("--watch", is_flag=True, help="Look again and again until Ctrl-C.")
@click.option("--every", type=click.FloatRange(min=1.0), default=5.0, show_default=True, help="Seconds between looks.")
@click.option(
    "--exact", is_flag=True, help="Count every page in numa_maps; the process waits meanwhile, so it is asked."
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

    Shares are asked of a sample of pages, with what they may be off by; that takes milliseconds whatever the size and
    does not hold the process up.
    """
    if watch and exact:
        _options.die(["--exact holds the process up at each look: it cannot be had with --watch"], 2)
    look = _look(config_path, root, who)
    try:
        found, missing = look.now()
        if exact:
            _ask_first(found, yes=yes)
            found = [look.exactly(one) for one in found]
        while watch:
            _show(found, missing, as_json=as_json, watched=True)
            time.sleep(every)
            found, missing = look.now()
    except LookError as error:
        _options.die([str(error)], 1)
    except KeyboardInterrupt:
        say("")
        sys.exit(0 if watch else 130)
    _show(found, missing, as_json=as_json, watched=False)
    sys.exit(1 if missing else 0)


def _look(config_path: Path | None, root: str, who: str | None) -> Look:
    from agent.config.loader import ConfigError

    try:
        config, modules = configuration.read(config_path)
        bound = {collector.name: collector for collector in configuration.bind_all(config, modules)}
    except ConfigError as error:
        _options.die(error.messages, 2)
    except plugins.DiscoveryError as error:
        _options.die([str(error)], 1)
    if "process" not in bound:
        _options.die(["the collector process is switched off in the configuration"], 2)
    return Look(bound["process"], modules["process"], root, who)


def _ask_first(found: list[Placed], *, yes: bool) -> None:
    """Says what it will cost, and goes on only if somebody agrees."""
    for one in found:
        least, most = numa_maps.cost(one.resident)
        say(
            f"{table.title(one)}: reading numa_maps holds up its mmap and munmap, and with them perhaps its "
            f"tokens, for about {1000 * least:.1f} to {1000 * most:.1f} ms.",
            err=True,
        )
    if yes:
        return
    if not sys.stdin.isatty():
        _options.die(["nobody can be asked here: say --yes if that is well"], 2)
    click.confirm("Read it?", abort=True, err=True)


def _show(found: list[Placed], missing: list[str], *, as_json: bool, watched: bool) -> None:
    if as_json:
        told = [table.as_json(one) for one in found]
        write(json.dumps(told, indent=None if watched else 1) + "\n")
    else:
        if watched and sys.stdout.isatty():
            click.clear()
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
        for index, one in enumerate(found):
            say(*[""] * (index > 0), *table.table(one, width))
        if watched:
            say("", time.strftime("%H:%M:%S   Ctrl-C ends"))
    for reason in missing[:5]:
        say(f"steadytok: missing: {reason}", err=True)
    if len(missing) > 5:
        say(f"steadytok: missing: {len(missing) - 5} more", err=True)
