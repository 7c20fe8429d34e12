"""`steadytok check`: the operator's doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent.commands import _options
from agent.mending import mend
from agent.sampling import once
from agent.sampling.sampler import Outcome, Pass
from agent.storage import state_dir
from agent.text.terminal import say
from collectors import Sample

UNPLACED = "steadytok_dimm_unplaced_info"
_MOST = 12  # lines: the sensors of a large host must not push the next collector off the screen
_COLOURS = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.ABSENT: "bright_black", Outcome.REFUSED: "yellow"}


@click.command(name="check")
@_options.config
@_options.root
def command(config_path: Path | None, root: str) -> None:
    """Say what works on this host, what does not, why, and what mends it."""
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.rulebook import RulebookError, rule_set
    from agent.sampling import plugins

    try:
        config, modules = configuration.read(config_path)
        rules = rule_set(config, str(config_path or "configuration"))
    except (ConfigError, RulebookError) as error:
        _options.die(error.messages, 2)
    except plugins.DiscoveryError as error:
        _options.die([str(error)], 1)
    say(f"configuration  {config_path or 'none: every default'}: well")
    say(f"rules          {sum(len(group.rules) for group in rules.groups)} loaded")
    shelf = state_dir.shelf(config.state.dir, root)
    passes = once.read_once(configuration.bind_all(config, modules), root, shelf=shelf)
    for result in passes:
        _report(result)
    sys.exit(1 if once.failed(passes) else 0)


def _report(result: Pass) -> None:
    cost = f"{result.cpu_seconds * 1000:6.1f} ms of CPU  {len(result.samples):5} series"
    reason = mend(result)
    say(f"{result.collector:17}", end="")
    say(f"{result.outcome.value:8}", colour=_COLOURS[result.outcome], end="")
    say(f" {cost}" + (f"  {reason}" if reason else ""))
    if result.outcome is Outcome.OK:
        for note in result.notes[:3]:
            say(f"{'':17}missing  {note.path}: {note.reason}")
        _tell_unplaced(result.samples)


def _tell_unplaced(samples: Sequence[Sample]) -> None:
    """Each sensor of memory that fits no slot, as the operator's map calls it, and what was tried."""
    unplaced = [dict(sample.labels) for sample in samples if sample.metric.name == UNPLACED]
    for labels in unplaced[:_MOST]:
        say(f"{'':17}unplaced  {labels['source']}/{labels['sensor']}: {labels['reason']}")
    if unplaced:
        more = f"{len(unplaced) - _MOST} more; " if len(unplaced) > _MOST else ""
        say(f"{'':17}{more}collectors.dimm.names in the configuration can say which slot each is of")
