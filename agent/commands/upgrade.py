"""`steadytok upgrade`: installs another version of the service."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands import _install


@click.command(name="upgrade")
@_install.prefix
@_install.dry_run
@_install.source
def command(prefix: Path, dry_run: bool, source: str | None) -> None:
    """
    Install another version of the service; configuration and state stay.

    Without --from, the service's own `steadytok` installs the newest release; a `steadytok` from another environment
    installs its own version. If the new version does not start, the previous one stays in use.
    """
    from agent.install import environment, stages

    with _install.exit_on_error():
        target = stages.resolve_target(prefix, dry_run)
        current_venv = stages.require_installed(target)
        _install.print_heading(f"upgrading steadytok {environment.find_version(current_venv)}")
        stages.install(target, source or stages.find_upgrade_source(target))
    _install.print_next_steps(prefix, dry_run)
