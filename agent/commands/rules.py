"""`steadytok rules`: checks and tests rule files, as promtool does."""

from __future__ import annotations

import sys
from pathlib import Path

import click

_FILES = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.group(name="rules")
def command() -> None:
    """Check and test rule files in Prometheus' own format."""


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILES, metavar="FILE…")
def check(files: tuple[Path, ...]) -> None:
    """Say whether rule files can be loaded, and every fault in them."""
    from rules.rulefile import RuleFileError, load_rules

    faulty = False
    for path in files:
        try:
            rules = load_rules([path])
        except RuleFileError as error:
            faulty = True
            click.echo("\n".join(error.messages), err=True)
        else:
            click.echo(f"{path}: {sum(len(group.rules) for group in rules.groups)} rules found, all well")
    sys.exit(1 if faulty else 0)


@command.command()
@click.argument("files", nargs=-1, required=True, type=_FILES, metavar="FILE…")
def test(files: tuple[Path, ...]) -> None:
    """Run unit tests of rules, written in promtool's form."""
    from rules.rulestest import run_test_file

    verdicts = [run_test_file(path) for path in files]
    for verdict in verdicts:
        click.echo(str(verdict))
    sys.exit(0 if all(verdict.passed for verdict in verdicts) else 1)
