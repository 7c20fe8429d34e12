"""`steadytok check`: the operator's doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent.commands import _options
from agent.mending import find_hint
from agent.sampling import once
from agent.sampling.sampler import CollectionResult, Outcome
from agent.storage import state_dir
from agent.text.terminal import say
from collectors import Sample

UNPLACED = "steadytok_dimm_unplaced_info"
_MAX_UNPLACED_LINES = 12  # lines: the sensors of a large host must not push the next collector off the screen
_COLOURS = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.ABSENT: "bright_black", Outcome.REFUSED: "yellow"}


@click.command(name="check")
@_options.config
@_options.root
def command(config_path: Path | None, root: str) -> None:
    """Say what works on this host, what does not, why, and what mends it."""
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.configuration import RulesConfigError, load_rule_set
    from agent.sampling import plugins

    try:
        config, modules = configuration.load_configuration(config_path)
        rules = load_rule_set(config, str(config_path or "configuration"))
    except (ConfigError, RulesConfigError) as error:
        _options.die(error.messages, 2)
    except plugins.DiscoveryError as error:
        _options.die([str(error)], 1)
    say(f"configuration  {config_path or 'none: every default'}: well")
    say(f"rules          {sum(len(group.rules) for group in rules.groups)} loaded")
    cache_dir = state_dir.find_collector_cache_dir(config.state.dir, root)
    results = once.collect_once(configuration.bind_collectors(config, modules), root, cache_dir=cache_dir)
    for result in results:
        _print_result(result)
    sys.exit(1 if once.select_failed(results) else 0)


def _print_result(result: CollectionResult) -> None:
    cost = f"{result.cpu_seconds * 1000:6.1f} ms of CPU  {len(result.samples):5} series"
    reason = find_hint(result)
    say(f"{result.collector:17}", end="")
    say(f"{result.outcome.value:8}", colour=_COLOURS[result.outcome], end="")
    say(f" {cost}" + (f"  {reason}" if reason else ""))
    if result.outcome is Outcome.OK:
        for note in result.notes[:3]:
            say(f"{'':17}missing  {note.path}: {note.reason}")
        _print_unplaced(result.samples)


def _print_unplaced(samples: Sequence[Sample]) -> None:
    """Each sensor of memory that fits no slot, as the operator's map calls it, and what was tried."""
    unplaced = [dict(sample.labels) for sample in samples if sample.metric.name == UNPLACED]
    for labels in unplaced[:_MAX_UNPLACED_LINES]:
        say(f"{'':17}unplaced  {labels['source']}/{labels['sensor']}: {labels['reason']}")
    if unplaced:
        more = f"{len(unplaced) - _MAX_UNPLACED_LINES} more; " if len(unplaced) > _MAX_UNPLACED_LINES else ""
        say(f"{'':17}{more}collectors.dimm.names in the configuration can say which slot each is of")
