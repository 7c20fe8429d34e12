"""`steadytok install`: installs the systemd service."""

from __future__ import annotations

from pathlib import Path

import click

from agent.commands import _install


@click.command(name="install")
@_install.prefix
@_install.dry_run
@_install.source
def command(prefix: Path, dry_run: bool, source: str | None) -> None:
    """
    Install the service (a venv in /opt/steadytok, units, users, a configuration) and start it.

    Run it again when the configuration names other addresses. An edited configuration stays.
    """
    from agent.install import environment, stages

    with _install.exit_on_error():
        target = stages.resolve_target(prefix, dry_run)
        current_venv = environment.find_current(target)
        if current_venv is not None and source is None:
            _install.print_heading(
                f"steadytok {environment.find_version(current_venv)} is in {current_venv}: installing everything else"
            )
            stages.run_settle_stage(target, current_venv)
        else:
            _install.print_heading("installing steadytok")
            stages.install(target, source or environment.find_install_source())
    _install.print_next_steps(prefix, dry_run)
