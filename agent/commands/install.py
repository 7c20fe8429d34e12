"""`steadytok install`: as a service of systemd."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands import _install


@click.command(name="install")
@_install.prefix
@_install.dry_run
@_install.what
def command(prefix: Path, dry_run: bool, what: str | None) -> None:
    """
    Install the service: a venv in /opt/steadytok, units, users, a configuration; then start it.

    Run it again after the configuration names other addresses; an edited configuration is kept.
    """
    from agent.install import environment, stages

    with _install.failing():
        target = stages.target(prefix, dry_run)
        there = environment.current(target)
        if there is not None and what is None:
            _install.begin(
                f"steadytok {environment.installed_version(there)} is in {there}: putting the rest in its place"
            )
            stages.settle_with(target, there)
        else:
            _install.begin("installing steadytok")
            stages.install(target, what or environment.source())
    _install.end(prefix, dry_run)
