"""`steadytok upgrade`: the service, to another version."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands import _install


@click.command(name="upgrade")
@_install.prefix
@_install.dry_run
@_install.what
def command(prefix: Path, dry_run: bool, what: str | None) -> None:
    """
    Bring the service to another version; configuration and state stay.

    From the installed service the newest there is, from another environment that environment's version. One that does
    not come up leaves the one before in use.
    """
    from agent.install import environment, stages

    with _install.failing():
        target = stages.target(prefix, dry_run)
        there = stages.installed(target)
        _install.begin(f"upgrading steadytok {environment.installed_version(there)}")
        stages.install(target, what or stages.newest(target))
    _install.end(prefix, dry_run)
