"""`steadytok rules`: checks and tests rule files like promtool, with the same exit statuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.commands import _options
from agent.text.terminal import say, write

if TYPE_CHECKING:  # importing NumPy and the parser is slow, and --help needs neither
    from agent.config.schema import AgentConfig
    from rules.model import RuleSet
    from rules.unittests.runner import Result, Verdict

_FILES = click.Path(path_type=Path)

FAILED, LINT_FAILED = 1, 3


@click.group(name="rules")
def command() -> None:
    """Check and test rule files in Prometheus' own format."""


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILES, metavar="FILE…")
@click.option(
    "--lint",
    type=click.Choice(["all", "duplicate-rules", "none"]),
    default="duplicate-rules",
    show_default=True,
    help="What to look for in rules that can be loaded.",
)
@click.option("--lint-fatal", is_flag=True, help="Exit with status 3 if --lint finds something.")
@_options.config
def check(files: tuple[Path, ...], lint: str, lint_fatal: bool, config_path: Path | None) -> None:
    """
    Report whether rule files can be loaded, and every fault in them.

    A rule that looks back further than sample.keep of the configuration is a fault: the agent does not evaluate it. The
    exit status is 0 without a fault, 1 with one, 2 for an unusable configuration, 3 for a duplicate with --lint-fatal.
    """
    from rules.reach import iter_excesses
    from rules.rulefile import RuleFileError, load_rules

    config = _load_config(config_path)
    has_faults = has_duplicates = False
    for path in files:
        try:
            rules = load_rules([path], subquery_step_ms=round(config.rules.interval * 1000))
        except RuleFileError as error:
            has_faults = True
            say(*error.messages, err=True)
            continue
        excesses = list(iter_excesses(rules, round(config.sample.keep * 1000)))
        has_faults = has_faults or bool(excesses)
        count = sum(len(group.rules) for group in rules.groups)
        say(f"{path}: {count} rules found, {f'{len(excesses)} not evaluated' if excesses else 'no faults'}")
        say(*excesses, err=True)
        for name in [] if lint == "none" else _find_duplicates(rules):
            has_duplicates = True
            say(f"{path}: {name} occurs twice with the same labels; one may hide the other", err=True)
    sys.exit(FAILED if has_faults else LINT_FAILED if has_duplicates and lint_fatal else 0)


def _load_config(config_path: Path | None) -> AgentConfig:
    from agent.config.loader import ConfigError
    from agent.configuration import load_configuration
    from agent.runtime.entry_points import PluginError

    try:
        config, _ = load_configuration(config_path)
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 2)
    except PluginError as error:
        _options.exit_with_errors([str(error)], 1)
    return config


def _find_duplicates(rules: RuleSet) -> list[str]:
    """Returns the names of rules that occur more than once with the same labels."""
    counts: dict[tuple[str, object], int] = {}
    for rule in rules.rules:
        _, name, labels = rule.identity
        counts[name, labels] = counts.get((name, labels), 0) + 1
    return sorted({name for (name, _), count in counts.items() if count > 1})


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILES, metavar="FILE…")
@click.option("--json", "as_json", is_flag=True, help="Print the result of every test as JSON.")
def test(files: tuple[Path, ...], as_json: bool) -> None:
    """
    Run unit tests of rules, written in promtool's form.

    A missing expected sample is marked -, an unexpected one +. The exit status is 0 if every test passes, else 1.
    """
    from rules.unittests.runner import run_test_file

    verdicts = [run_test_file(path) for path in files]
    if as_json:
        write(_format_json(verdicts))
    else:
        for verdict in verdicts:
            say(*str(verdict).split("\n"))
    sys.exit(0 if all(verdict.is_passed for verdict in verdicts) else FAILED)


def _format_json(verdicts: list[Verdict]) -> str:
    results = [_format_result(verdict, result) for verdict in verdicts for result in verdict.results]
    errors = [{"file": str(verdict.path), "error": error} for verdict in verdicts for error in verdict.errors]
    return json.dumps({"results": results, "errors": errors}, indent=2) + "\n"


def _format_result(verdict: Verdict, result: Result) -> dict[str, Any]:
    return {
        "file": str(verdict.path),
        "test": result.test,
        "kind": result.kind,
        "expr" if result.kind == "expr" else "alertname": result.subject,
        "eval_time": result.eval_time,
        "ok": result.ok,
        "error": result.error,
        "expected": list(_format_items(result.kind, result.expected)),
        "got": list(_format_items(result.kind, result.actual)),
    }


def _format_items(kind: str, items: tuple[tuple[Any, Any], ...]) -> Iterator[dict[str, Any]]:
    from agent.web.prometheus_json import format_value

    for labels, payload in items:
        if kind == "expr":
            yield {"labels": dict(labels), "value": format_value(payload)}
        else:
            yield {"labels": dict(labels), "annotations": dict(payload)}
