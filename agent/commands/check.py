"""`steadytok check`: the operator's doctor."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent import reading, state
from agent.commands import _options
from agent.gather import Outcome, Pass
from agent.mending import NOTED, mend

_NOTES = 8  # lines of one collector: the one that matters to somebody must not push the next collector off the screen
_COLOURS = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.ABSENT: "bright_black", Outcome.REFUSED: "yellow"}


@click.command(name="check")
@_options.config
@_options.root
def command(config_path: Path | None, root: str) -> None:
    """Say what works on this host, what does not, why, and what mends it."""
    from agent import binding, discovery
    from agent.config import ConfigError
    from agent.rulebook import RulebookError, rule_set

    try:
        config, modules = binding.read(config_path)
        rules = rule_set(config, str(config_path or "configuration"))
    except (ConfigError, RulebookError) as error:
        _options.die(error.messages, 2)
    except discovery.DiscoveryError as error:
        _options.die([str(error)], 1)
    click.echo(f"configuration  {config_path or 'none: every default'}: well")
    click.echo(f"rules          {sum(len(group.rules) for group in rules.groups)} loaded")
    shelf = state.shelf(config.state.dir, root)
    passes = reading.read_once(binding.bind_all(config, modules), root, shelf=shelf)
    for result in passes:
        _report(result)
    sys.exit(1 if reading.failed(passes) else 0)


def _report(result: Pass) -> None:
    state = click.style(f"{result.outcome.value:8}", fg=_COLOURS[result.outcome])
    cost = f"{result.cpu_seconds * 1000:6.1f} ms of CPU  {len(result.samples):5} series"
    reason = mend(result)
    click.echo(f"{result.collector:17}{state} {cost}" + (f"  {reason}" if reason else ""))
    if result.outcome is Outcome.OK:
        for note in result.notes[:_NOTES]:
            click.echo(f"{'':17}{NOTED.get(result.collector, 'missing')}  {note.path}: {note.reason}")
        if len(result.notes) > _NOTES:
            more = f"steadytok collect {result.collector} tells them"
            click.echo(f"{'':17}and {len(result.notes) - _NOTES} more: {more}")
