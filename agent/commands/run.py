"""`steadytok run`: runs the agent."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from agent.commands import _options

# Set before NumPy is imported: BLAS threads of the agent must not take cores from the engines it watches.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@click.command(name="run")
@_options.config
@_options.root
@click.option(
    "--hand",
    metavar="direct|socket|PATH",
    help="Overrides remediation.hand; direct starts a hand as a child, for an agent that root runs by hand.",
)
@click.option("--plain", is_flag=True, help="Print plain lines even on a terminal.")
def command(config_path: Path | None, root: str, hand: str | None, plain: bool) -> None:
    """Run the agent on this host until Ctrl-C or SIGTERM; SIGHUP reloads the configuration."""
    if hand == "direct" and os.geteuid() != 0:
        reason = "only root may do what a hand does: run as root, or start steadytok-hand as root and leave --hand out"
        _options.exit_with_errors([f"--hand direct: {reason}"], 1)
    import faulthandler

    from agent import configuration
    from agent.app import Agent
    from agent.config.loader import ConfigError
    from agent.configuration import RulesConfigError
    from agent.console.live_table import PlainLines, open_screen
    from agent.runtime.entry_points import PluginError
    from agent.runtime.run_options import RunOptions, StartError
    from agent.storage.state_dir import StateError
    from agent.text import log
    from agent.web.webconfig import agent_url

    faulthandler.enable()  # systemd's watchdog aborts a stuck loop with SIGABRT: the journal then shows the traceback
    try:
        config, modules = configuration.load_configuration(config_path, hand)
        page_url = f"{agent_url(config)}/"
        # Before logging: the screen replaces standard error, so that log lines scroll above the table.
        screen = PlainLines(sys.stdout) if plain else open_screen(sys.stdout, page_url)
        log.configure(sys.stderr)

        async def start() -> None:  # made inside the event loop, which the runners need
            await Agent(config, modules, RunOptions(root, config_path, hand), screen).run()

        try:
            asyncio.run(start())
        finally:
            screen.close()
    except (ConfigError, RulesConfigError) as error:
        _options.exit_with_errors(error.messages, 2)
    except (StartError, StateError, PluginError) as error:
        _options.exit_with_errors([str(error)], 1)
