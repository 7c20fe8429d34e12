"""`steadytok engine` becomes the reference engine, which imports nothing of ours; `engine bench` measures any."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.commands import _options
from agent.text.terminal import say, write

if TYPE_CHECKING:
    from agent.config.schema import Config
    from agent.enginebench.bench import Plan, Result
    from agent.enginebench.load import Run

PATIENCE = 15.0  # seconds for a running agent to take a baseline; it looks every five


class Engine(click.Group):
    """A group of one: whatever is not `bench` is the engine's own, which knows its options and its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`steadytok engine --size 64MiB` as `steadytok engine serve --size 64MiB`."""
        return super().parse_args(ctx, args if args[:1] in (["bench"], ["serve"]) else ["serve", *args])


@click.group(name="engine", cls=Engine, add_help_option=False)
def command() -> None:
    """Run the bundled reference engine, or measure any engine."""


@command.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> None:
    """Run the bundled reference engine; `steadytok engine --help` is its own help."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "engine", *arguments])


@command.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url", metavar="URL", help="The engine, OpenAI-compatible; without one the reference engine is started."
)
@click.option("-n", "--requests", default=20, show_default=True, type=click.IntRange(1, 100_000), help="In a row.")
@click.option("-c", "--concurrency", default=1, show_default=True, type=click.IntRange(1, 1024), help="At once.")
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(2, 1 << 20), help="Asked for each time.")
@click.option("--prompt", default=None, help="What is asked; always the same, so that the work is the same.")
@click.option("--model", default="", help="The model's name, if the first of /v1/models is not meant.")
@click.option("--endpoint", type=click.Choice(["completions", "chat"]), help="If it is not to be found out.")
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="A file with the engine's API key.")
@click.option("--timeout", default="2m", show_default=True, help="How long an engine may say nothing.")
@click.option("--warm-up", default=1, show_default=True, type=click.IntRange(1, 1000), help="Requests not counted.")
@click.option("--save", is_flag=True, help="Give what was measured to the agent as this engine's baseline.")
@click.option("--name", help="The engine's name in the configuration, for --save; else the one with this URL.")
@click.option("--state", "state_dir", type=click.Path(path_type=Path), help="The state folder, if not the configured.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write an SVG of the run there.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
@_options.config
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE OPTIONS]")
def bench(**given: Any) -> None:
    """
    Ask an engine for the same again and again, and say whether its speed holds.

    The speed of each request, percentiles of the time to the first token and between tokens, what heat did
    meanwhile, and a verdict. Exit status 1 where requests failed.
    """
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.enginebench.bench import run
    from agent.enginebench.client import EngineError
    from agent.sampling import plugins
    from agent.text import log

    log.configure(sys.stderr, level=40)  # an engine's every line is not ours to print
    try:
        config, modules = configuration.read(given["config_path"])
        plan = _plan(config, given)
        with _progress(plan.requests) as progress:
            result = run(plan, modules, configuration.bind_all(config, modules), progress)
    except ConfigError as error:
        _options.die(error.messages, 2)
    except (plugins.DiscoveryError, EngineError) as error:
        _options.die([str(error)], 1)
    except KeyboardInterrupt:
        _options.die(["stopped before there was anything to tell"], 130)
    _tell(result, given)
    if given["save"]:
        _save(result, given["state_dir"], config)
    sys.exit(1 if result.run.failures or not result.run.answers else 0)


def _plan(config: Config, given: dict[str, Any]) -> Plan:
    from agent.enginebench.bench import Plan
    from agent.enginebench.client import Order
    from agent.engines.canary import PROMPT, small

    own, url = given["arguments"], given["url"]
    if url is not None and own:
        _options.die([f"{' '.join(own)}: options for the engine, and --url names one that runs already"], 2)
    if url is not None and not url.startswith(("http://", "https://")):
        _options.die([f"--url must begin with http:// or https://, and is {url!r}"], 2)
    if given["save"]:
        _check_save(config, given)
    return Plan(
        url=url,
        own=own or small(config.engine.size),  # as the canary has it: that is what is compared
        name=_name(config, given) or "",
        model=given["model"],
        endpoint=given["endpoint"],
        key=_key(given["key_file"]),
        order=Order(PROMPT if given["prompt"] is None else given["prompt"], given["tokens"]),
        requests=given["requests"],
        concurrency=given["concurrency"],
        warm_up=given["warm_up"],
        patience=_seconds(given["timeout"]),
    )


def _check_save(config: Config, given: dict[str, Any]) -> None:
    if given["concurrency"] != 1:
        _options.die(["--save sets the baseline of one request at a time: leave --concurrency out"], 2)
    if given["arguments"]:
        _options.die(["--save sets the canary's baseline, which has no options of its own: leave them out"], 2)
    if given["url"] is not None and _name(config, given) is None:
        names = ", ".join(engine.name for engine in config.engines) or "none"
        _options.die([f"--save needs the engine's name in the configuration (it has: {names}): give --name"], 2)


def _name(config: Config, given: dict[str, Any]) -> str | None:
    def plain(url: str) -> str:
        return url.rstrip("/").removesuffix("/metrics").removesuffix("/v1")

    if given["name"] is not None or given["url"] is None:
        return given["name"]  # type: ignore[no-any-return]  # click's options come as Any
    return next((engine.name for engine in config.engines if plain(engine.url) == plain(given["url"])), None)


def _key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        _options.die([f"--key-file: {error}"], 2)


def _seconds(text: str) -> float:
    from agent.text.units import duration

    try:
        return duration(text)
    except ValueError as error:
        _options.die([f"--timeout: {error}"], 2)


@contextmanager
def _progress(requests: int) -> Iterator[Callable[[Run], None]]:
    """A bar on standard error, where there is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _run: None
        return
    with click.progressbar(length=requests, label="requests", file=sys.stderr, item_show_func=_speed) as bar:
        yield lambda run: bar.update(1, run)


def _speed(run: Run | None) -> str:
    speed = run.answers[-1].speed if run is not None and run.answers else None
    return "" if speed is None else f"{speed:.1f} tokens/s"


def _tell(result: Result, given: dict[str, Any]) -> None:
    from agent.enginebench import plot, report

    shown = (result.engine, result.run, result.before, result.after)
    if given["as_json"]:
        told = {**report.as_json(*shown), "baseline_tokens_per_second": result.baseline}
        write(json.dumps(told, indent=1) + "\n")
    else:
        say(*report.lines(*shown))
    if given["plot"] is not None:
        try:
            given["plot"].write_text(plot.svg(*shown), encoding="utf-8")
        except OSError as error:
            _options.die([f"--plot: cannot write {given['plot']}: {error.strerror}"], 1)
        say(f"plot: {given['plot']}", err=True)


def _save(result: Result, state_dir: Path | None, config: Config) -> None:
    """Leaves the baseline for the agent, and says what came of it."""
    from agent.engines import baseline_handover as given
    from agent.storage.state_dir import StateError, folder

    speed, key = result.baseline, result.key
    if speed is None or result.run.failures or result.run.stopped:
        _options.die(["the run is not whole, so the baseline stays as it was"], 1)
    try:
        where = state_dir or folder(config.state.dir)
        path = given.give(where, given.Given(key.engine, key.model, key.batch, speed))
    except StateError as error:
        _options.die([str(error)], 1)
    except OSError as error:
        _options.die([f"cannot write to the state folder: {error}; give the agent's with --state"], 1)
    whose = "by the engine's own count" if result.told else "as measured here, for the engine does not count it"
    model = f" ({key.model.partition(':')[0]})" if key.model else ""
    say(f"baseline of {key.engine}{model}: {speed:.1f} decode tokens/s, {whose}", err=True)
    if not given.has_agent(where):
        say(f"no agent runs with {where}: it will be taken when one starts there", err=True)
    elif given.is_taken(path, PATIENCE):
        say("the running agent has taken it", err=True)
    else:
        _options.die([f"the agent that runs with {where} has not taken it in {PATIENCE:g} s: {path} is still there"], 1)
