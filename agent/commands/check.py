"""`steadytok check`: reads every collector once, and prints its outcome and a hint."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from agent.commands import _options
from agent.sampling import once
from agent.sampling.passes import REFUSAL_REASONS, CollectionResult, Outcome
from agent.sampling.plugins import Collector
from agent.storage import state_dir
from agent.text.terminal import say

_COLOURS = {Outcome.OK: "green", Outcome.FAILED: "red", Outcome.ABSENT: "bright_black", Outcome.REFUSED: "yellow"}


@click.command(name="check")
@_options.config
@_options.root
def command(config_path: Path | None, root: str) -> None:
    """Show what works on this host, what does not, why, and how to fix it."""
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.config.secret_settings import find_unusable_secrets
    from agent.configuration import RulesConfigError, load_rule_set
    from agent.runtime.entry_points import PluginError
    from agent.sampling import binding
    from rules.reach import iter_excesses

    try:
        config, modules = configuration.load_configuration(config_path)
        rules = load_rule_set(config, str(config_path or "configuration"))
    except (ConfigError, RulesConfigError) as error:
        _options.exit_with_errors(error.messages, 2)
    except PluginError as error:
        _options.exit_with_errors([str(error)], 1)
    say(f"configuration  {config_path or 'none: every default'}: ok")
    secret_faults = [f"{place}: {fault}" for place, fault in find_unusable_secrets(config)]
    for sentence in secret_faults:
        say(f"secret         {sentence}", colour="red")
    say(f"rules          {sum(len(group.rules) for group in rules.groups)} loaded")
    for sentence in iter_excesses(rules, round(config.sample.keep * 1000)):
        say(f"{'':15}{sentence}")
    cache_dir = state_dir.find_collector_cache_dir(config.state.dir, root)
    collectors = binding.bind_collectors(config, modules)
    results = once.collect_all(collectors, root, cache_dir=cache_dir)
    for collector, result in zip(collectors, results, strict=True):
        _print_result(collector, result)
    sys.exit(1 if secret_faults or once.select_failed(results) else 0)


def find_hint(collector: Collector, result: CollectionResult) -> str:
    """Returns one sentence on what would give the missing readings; empty where none are missing."""
    if result.outcome is Outcome.ABSENT:
        return collector.hint_absent
    has_refusals = any(note.reason in REFUSAL_REASONS for note in result.notes)
    if result.outcome is Outcome.REFUSED or (result.outcome is Outcome.OK and has_refusals):
        return collector.hint_refused
    if result.outcome is Outcome.FAILED:
        return result.error or "; ".join(f"{note.path}: {note.reason}" for note in result.notes[:2])
    return ""


def _print_result(collector: Collector, result: CollectionResult) -> None:
    hint = find_hint(collector, result)
    cost = f"{result.cpu_seconds * 1000:6.1f} ms of CPU  {len(result.samples):5} series"
    say(f"{result.collector:17}", end="")
    say(f"{result.outcome.value:8}", colour=_COLOURS[result.outcome], end="")
    say(f" {cost}" + (f"  {hint}" if hint else ""))
    if result.outcome is Outcome.OK:
        for note in result.notes[:3]:
            say(f"{'':17}missing  {note.path}: {note.reason}")
        for line in [] if collector.explain is None else collector.explain(result.samples):
            say(f"{'':17}{line}")
