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
    from agent.config.schema import AgentConfig
    from agent.enginebench.bench import BenchPlan, BenchResult
    from agent.enginebench.load import LoadRun

ADOPTION_TIMEOUT = 15.0  # seconds for a running agent to take a baseline; it looks every five


class EngineGroup(click.Group):
    """A group of one: whatever is not `bench` is the engine's own, which knows its options and its help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`steadytok engine --size 64MiB` as `steadytok engine serve --size 64MiB`."""
        return super().parse_args(ctx, args if args[:1] in (["bench"], ["serve"]) else ["serve", *args])


@click.group(name="engine", cls=EngineGroup, add_help_option=False)
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
def bench(**options: Any) -> None:
    """
    Ask an engine for the same again and again, and say whether its speed holds.

    The speed of each request, percentiles of the time to the first token and between tokens, what heat did
    meanwhile, and a verdict. Exit status 1 where requests failed.
    """
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.enginebench.bench import run
    from agent.enginebench.client import EngineError
    from agent.runtime.entry_points import PluginError
    from agent.sampling import binding
    from agent.text import log

    log.configure(sys.stderr, level=40)  # an engine's every line is not ours to print
    try:
        config, modules = configuration.load_configuration(options["config_path"])
        plan = _make_plan(config, options)
        with _show_progress(plan.requests) as progress:
            result = run(plan, modules, binding.bind_collectors(config, modules), progress)
    except ConfigError as error:
        _options.die(error.messages, 2)
    except (PluginError, EngineError) as error:
        _options.die([str(error)], 1)
    except KeyboardInterrupt:
        _options.die(["stopped before there was anything to tell"], 130)
    _print_result(result, options)
    if options["save"]:
        _hand_over_baseline(result, options["state_dir"], config)
    sys.exit(1 if result.run.failures or not result.run.answers else 0)


def _make_plan(config: AgentConfig, options: dict[str, Any]) -> BenchPlan:
    from agent.enginebench.bench import BenchPlan
    from agent.enginebench.client import BenchRequest
    from agent.engines.canary import PROMPT, canary_arguments

    engine_arguments, url = options["arguments"], options["url"]
    if url is not None and engine_arguments:
        _options.die(
            [f"{' '.join(engine_arguments)}: options for the engine, and --url names one that runs already"], 2
        )
    if url is not None and not url.startswith(("http://", "https://")):
        _options.die([f"--url must begin with http:// or https://, and is {url!r}"], 2)
    if options["save"]:
        _check_save(config, options)
    return BenchPlan(
        url=url,
        engine_arguments=engine_arguments
        or canary_arguments(config.engine.size),  # as the canary has it: that is what is compared
        name=_find_engine_name(config, options) or "",
        model=options["model"],
        endpoint=options["endpoint"],
        key=_read_key(options["key_file"]),
        request=BenchRequest(PROMPT if options["prompt"] is None else options["prompt"], options["tokens"]),
        requests=options["requests"],
        concurrency=options["concurrency"],
        warm_up=options["warm_up"],
        timeout=_parse_seconds(options["timeout"]),
    )


def _check_save(config: AgentConfig, options: dict[str, Any]) -> None:
    if options["concurrency"] != 1:
        _options.die(["--save sets the baseline of one request at a time: leave --concurrency out"], 2)
    if options["arguments"]:
        _options.die(["--save sets the canary's baseline, which has no options of its own: leave them out"], 2)
    if options["url"] is not None and _find_engine_name(config, options) is None:
        names = ", ".join(engine.name for engine in config.engines) or "none"
        _options.die([f"--save needs the engine's name in the configuration (it has: {names}): give --name"], 2)


def _find_engine_name(config: AgentConfig, options: dict[str, Any]) -> str | None:
    def strip_path(url: str) -> str:
        return url.rstrip("/").removesuffix("/metrics").removesuffix("/v1")

    if options["name"] is not None or options["url"] is None:
        return options["name"]  # type: ignore[no-any-return]  # click's options come as Any
    return next(
        (engine.name for engine in config.engines if strip_path(engine.url) == strip_path(options["url"])), None
    )


def _read_key(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        _options.die([f"--key-file: {error}"], 2)


def _parse_seconds(text: str) -> float:
    from agent.text.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        _options.die([f"--timeout: {error}"], 2)


@contextmanager
def _show_progress(requests: int) -> Iterator[Callable[[LoadRun], None]]:
    """A bar on standard error, where there is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _run: None
        return
    with click.progressbar(length=requests, label="requests", file=sys.stderr, item_show_func=_format_speed) as bar:
        yield lambda run: bar.update(1, run)


def _format_speed(run: LoadRun | None) -> str:
    speed = run.answers[-1].speed if run is not None and run.answers else None
    return "" if speed is None else f"{speed:.1f} tokens/s"


def _print_result(result: BenchResult, options: dict[str, Any]) -> None:
    from agent.enginebench import plot, report

    run_parts = (result.engine, result.run, result.before, result.after)
    if options["as_json"]:
        report_object = {**report.to_json(*run_parts), "baseline_tokens_per_second": result.baseline}
        write(json.dumps(report_object, indent=1) + "\n")
    else:
        say(*report.format_lines(*run_parts))
    if options["plot"] is not None:
        try:
            options["plot"].write_text(plot.render_svg(*run_parts), encoding="utf-8")
        except OSError as error:
            _options.die([f"--plot: cannot write {options['plot']}: {error.strerror}"], 1)
        say(f"plot: {options['plot']}", err=True)


def _hand_over_baseline(result: BenchResult, state_dir: Path | None, config: AgentConfig) -> None:
    """Leaves the baseline for the agent, and says what came of it."""
    from agent.engines import baseline_handover as given
    from agent.storage.state_dir import StateError, find_state_dir

    speed, key = result.baseline, result.key
    if speed is None or result.run.failures or result.run.stop_reason:
        _options.die(["the run is not whole, so the baseline stays as it was"], 1)
    try:
        folder_path = state_dir or find_state_dir(config.state.dir)
        path = given.hand_over(folder_path, given.MeasuredBaseline(key.engine, key.model, key.batch, speed))
    except StateError as error:
        _options.die([str(error)], 1)
    except OSError as error:
        _options.die([f"cannot write to the state folder: {error}; give the agent's with --state"], 1)
    origin = (
        "by the engine's own count" if result.engine_speeds else "as measured here, for the engine does not count it"
    )
    model = f" ({key.model.partition(':')[0]})" if key.model else ""
    say(f"baseline of {key.engine}{model}: {speed:.1f} decode tokens/s, {origin}", err=True)
    if not given.is_agent_running(folder_path):
        say(f"no agent runs with {folder_path}: it will be taken when one starts there", err=True)
    elif given.wait_until_adopted(path, ADOPTION_TIMEOUT):
        say("the running agent has taken it", err=True)
    else:
        _options.die(
            [
                f"the agent that runs with {folder_path} has not taken it in {ADOPTION_TIMEOUT:g} s: {path} "
                "is still there"
            ],
            1,
        )
