"""`steadytok uninstall`: removes the service."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands import _install
from agent.text.terminal import say


@click.command(name="uninstall")
@_install.prefix
@_install.dry_run
@click.option("--purge", is_flag=True, help="Also remove the configuration, the learnt state and the users.")
def command(prefix: Path, dry_run: bool, purge: bool) -> None:
    """Stop the service and remove it; configuration and state stay, unless --purge."""
    from agent.install import stages, uninstall

    with _install.exit_on_error():
        target = stages.resolve_target(prefix, dry_run)
        _install.print_heading("removing steadytok")
        if not uninstall.remove(target, purge=purge):
            say("  steadytok is not installed here")
        elif not purge:
            say("/etc/steadytok and /var/lib/steadytok are kept; `uninstall --purge` removes them too")
