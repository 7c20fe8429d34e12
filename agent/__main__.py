"""
The command line's door.

Exit status: 0 well, 1 something failed, 2 bad usage or configuration.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

import click

COMMANDS = {
    "run": "Run the agent on this host.",
    "top": "Show what the page at / shows in a terminal, live.",
    "check": "Say what works on this host, what does not, why, and what mends it.",
    "collect": "Read collectors once and print what they give.",
    "placement": "Show on which NUMA nodes the memory of an engine or a process is.",
    "rules": "Check and test rule files.",
    "alert": "Send a test alert through Alertmanager.",
    "remedies": "See, pause and resume what acts on alerts, and read its diary.",
    "recorder": "Read what was recorded, after a crash for one.",
    "install": "Install the service of systemd, and start it.",
    "upgrade": "Bring the service to another version.",
    "uninstall": "Stop the service and remove it.",
    "engine": "Run the bundled reference engine; `engine bench` measures any engine.",
}


class LazyGroup(click.Group):
    """A group whose commands live in agent.commands and are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, or None."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"agent.commands.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
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
    """The console script: a stream that is closed or full ends a command with one sentence, not a traceback."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  it lives as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115  it lives as long as the process
    try:
        main(prog_name="steadytok")
    except BrokenPipeError:
        os._exit(1)  # whoever read us has left, and there is nobody to tell
    except OSError as error:
        with contextlib.suppress(OSError):  # nowhere left to say it
            sys.stderr.write(f"steadytok: cannot write: {error.strerror}\n")
            sys.stderr.flush()
        os._exit(1)


if __name__ == "__main__":
    run()
