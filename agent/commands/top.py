"""`steadytok top`: shows the running agent's overview page in a terminal."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import click

from agent.commands import _options, _running
from agent.text.terminal import write


@click.command(name="top")
@_options.config
@click.option("--url", metavar="URL", help="The agent's URL; without one, from web.listen of the configuration.")
@click.option("--once", is_flag=True, help="Print it once as tab-separated lines, for scripts.")
@click.option(
    "--every",
    metavar="SECONDS",
    type=click.FloatRange(0.5, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between updates.",
)
def command(config_path: Path | None, url: str | None, once: bool, every: float) -> None:
    """Show speed, heat, memory, alerts, remedies and collectors of the running agent, live."""
    from agent.console.panels import load_panels
    from agent.console.rows import format_lines
    from agent.console.top_client import NoAnswerError

    client, panel_list = _open_agent(config_path, url), load_panels()
    try:
        overview = client.fetch_overview(panel_list)
    except NoAnswerError as error:
        _options.exit_with_errors([str(error)], 1)
    if once or not sys.stdout.isatty():
        write("".join(f"{line}\n" for line in format_lines(overview)))
        return
    try:
        _run_live(client, panel_list, overview, every)
    except ImportError:
        _options.exit_with_errors(["the live table needs rich: pip install 'steadytok[tui]'; --once needs nothing"], 1)
    except KeyboardInterrupt:
        return  # Ctrl-C ends the command


def _open_agent(config_path: Path | None, url: str | None) -> Any:
    """Returns a client for the URL, without a credential; or for the configured agent, with its token if readable."""
    from urllib.parse import urlsplit

    from agent.console.top_client import AgentClient

    if url is None:
        config = _running.load_or_exit(config_path)
        return AgentClient(*_running.resolve_endpoint(config), _build_credential(config))
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        _options.exit_with_errors([f"--url: expected http://HOST:PORT, found {url!r}"], 2)
    return AgentClient(url)


def _build_credential(config: Any) -> dict[str, str]:
    """Returns the token's header; empty if it cannot be read, which is enough for an agent with open reading."""
    from agent.storage.state_dir import TOKEN, StateError, find_state_dir, read_token_of_agent

    try:
        folder = find_state_dir(config.state.dir)
        token = read_token_of_agent(folder)
    except (StateError, OSError, ValueError):
        return {}
    _running.refuse_stranger(config, folder / TOKEN)
    return {"Authorization": f"Bearer {token}"}


def _run_live(client: Any, panel_list: Any, overview: Any, every: float) -> None:
    """Redraws until interrupted; while the agent does not answer, the last table stays with a notice."""
    from rich.console import Console
    from rich.live import Live

    from agent.console.live_table import build_table
    from agent.console.overview import STEP
    from agent.console.rows import build_rows
    from agent.console.top_client import NoAnswerError

    def build() -> Any:
        return build_table(
            build_rows(overview), f"drawings: the last five minutes, {STEP} s each   Ctrl-C ends", notice
        )

    last_answer_at, notice = time.time(), ""
    live = Live(build(), console=Console(), screen=True, auto_refresh=False, vertical_overflow="crop")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # restores the screen on SIGTERM too
    try:
        live.start()
        while True:
            time.sleep(every)
            try:
                overview, last_answer_at, notice = client.fetch_overview(panel_list), time.time(), ""
            except NoAnswerError as error:
                notice = f"No answer since {time.strftime('%H:%M:%S', time.localtime(last_answer_at))}: {error}"
            live.update(build(), refresh=True)
    finally:  # not `with`: an interrupt during its entry would leave the terminal on the alternate screen
        live.stop()
