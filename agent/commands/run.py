"""`steadytok run`: the agent itself."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click

from agent.commands import _options

# One thread for BLAS, before NumPy is imported: the agent must not take cores from the engine that it watches.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@click.command(name="run")
@_options.config
@_options.root
@click.option(
    "--hand",
    metavar="direct|socket|PATH",
    help="In place of remediation.hand: direct starts one of our own, for an agent that runs as root by hand.",
)
@click.option("--plain", is_flag=True, help="Plain lines even on a terminal.")
def command(config_path: Path | None, root: str, hand: str | None, plain: bool) -> None:
    """Run the agent on this host until Ctrl-C or SIGTERM; SIGHUP reads the configuration again."""
    if hand == "direct" and os.geteuid() != 0:
        reason = "only root may do what a hand does: run as root, or start steadytok-hand as root and leave --hand out"
        _options.die([f"--hand direct: {reason}"], 1)
    import faulthandler

    from agent import configuration
    from agent.app import Agent
    from agent.config.loader import ConfigError
    from agent.console.live_table import PlainLines, open_screen
    from agent.rulebook import RulesConfigError
    from agent.runtime.entry_points import PluginError
    from agent.runtime.run_options import RunOptions, StartError
    from agent.storage.state_dir import StateError
    from agent.text import log
    from agent.web import site

    faulthandler.enable()  # systemd's watchdog ends a loop that stands still by SIGABRT: the journal then says where
    try:
        config, modules = configuration.load_configuration(config_path, hand)
        page_url = f"{site.agent_url(config)}/"
        # The screen first: it takes standard error over, so that log lines scroll above the table.
        screen = PlainLines(sys.stdout) if plain else open_screen(sys.stdout, page_url)
        log.configure(sys.stderr)

        async def start() -> None:  # inside the loop: lanes need a running one
            await Agent(config, modules, RunOptions(root, config_path, hand), screen).run()

        try:
            asyncio.run(start())
        finally:
            screen.close()
    except (ConfigError, RulesConfigError) as error:
        _options.die(error.messages, 2)
    except (StartError, StateError, PluginError) as error:
        _options.die([str(error)], 1)
