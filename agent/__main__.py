"""
The command line: `steadytok COMMAND`.

Exit status: 0 success, 1 something failed, 2 bad usage or configuration.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

import click

COMMANDS = {
    "run": "Run the agent on this host.",
    "top": "Show the host in a terminal, live, as the web page does.",
    "check": "Check which collectors work on this host; say why others do not, and how to fix it.",
    "collect": "Read collectors once and print their readings.",
    "placement": "Show which NUMA nodes hold the memory of an engine or a process.",
    "rules": "Check and test rule files.",
    "alert": "Send a test alert through Alertmanager.",
    "remedies": "List, pause and resume the remedies for alerts, and read their audit log.",
    "recorder": "Read the flight recorder, for example after a crash.",
    "install": "Install the systemd service, and start it.",
    "upgrade": "Upgrade the service to another version.",
    "uninstall": "Stop the service, and remove it.",
    "engine": "Run the bundled reference engine; `engine bench` measures any engine.",
}


class LazyGroup(click.Group):
    """Imports a command from agent.commands only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Lists the commands in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command of that name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"agent.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _param: click.Parameter, is_requested: bool) -> None:
    if is_requested:
        from agent.runtime.version import version
        from agent.text.terminal import say

        say(f"steadytok {version()}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Keeps tokens per second steady on LLM inference hosts."""


def run() -> None:
    """Runs the console script; a closed or full output stream ends it with one sentence, not a traceback."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  it lives as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  it lives as long as the process
    try:
        main(prog_name="steadytok")
    except BrokenPipeError:
        os._exit(1)  # the reader of our output has gone, so there is nowhere to write a message
    except OSError as error:
        with contextlib.suppress(OSError):  # standard error cannot be written either
            sys.stderr.write(f"steadytok: cannot write: {error.strerror}\n")
            sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    run()
