"""`steadytok upgrade`: the service, to another version."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands import _install


@click.command(name="upgrade")
@_install.prefix
@_install.dry_run
@_install.source
def command(prefix: Path, dry_run: bool, what: str | None) -> None:
    """
    Bring the service to another version; configuration and state stay.

    From the installed service the newest there is, from another environment that environment's version. One that does
    not come up leaves the one before in use.
    """
    from agent.install import environment, stages

    with _install.exit_on_error():
        target = stages.resolve_target(prefix, dry_run)
        current_venv = stages.require_installed(target)
        _install.print_heading(f"upgrading steadytok {environment.find_version(current_venv)}")
        stages.install(target, what or stages.find_upgrade_source(target))
    _install.print_next_steps(prefix, dry_run)
