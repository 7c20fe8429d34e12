"""`steadytok engine` executes the reference engine, a separate program; `engine bench` measures any engine."""

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

ADOPTION_TIMEOUT = 15.0  # seconds for a running agent to adopt a baseline; it checks every five


class EngineGroup(click.Group):
    """A group whose arguments, unless they begin with `bench`, go to the engine with its own options and help."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses `steadytok engine --size 64MiB` as `steadytok engine serve --size 64MiB`."""
        return super().parse_args(ctx, args if args[:1] in (["bench"], ["serve"]) else ["serve", *args])


@click.group(name="engine", cls=EngineGroup, add_help_option=False)
def command() -> None:
    """Run the bundled reference engine, or measure any engine."""


@command.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> None:
    """Run the bundled reference engine; `steadytok engine --help` shows the engine's options."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "engine", *arguments])


@command.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--url", metavar="URL", help="An OpenAI-compatible engine; without a URL the reference engine is started."
)
@click.option(
    "-n", "--requests", default=20, show_default=True, type=click.IntRange(1, 100_000), help="Number of requests."
)
@click.option(
    "-c",
    "--concurrency",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1024),
    help="Requests in flight at once.",
)
@click.option("--tokens", default=128, show_default=True, type=click.IntRange(2, 1 << 20), help="Tokens per request.")
@click.option("--prompt", default=None, help="The prompt of every request, so that the work is always the same.")
@click.option("--model", default="", help="The model's name; without one the first of /v1/models.")
@click.option("--endpoint", type=click.Choice(["completions", "chat"]), help="API to use; detected by default.")
@click.option("--key-file", type=click.Path(path_type=Path, dir_okay=False), help="A file with the engine's API key.")
@click.option("--timeout", default="2m", show_default=True, help="Time without a byte after which a request fails.")
@click.option(
    "--warm-up",
    default=1,
    show_default=True,
    type=click.IntRange(1, 1000),
    help="Warm-up requests before measuring.",
)
@click.option("--save", is_flag=True, help="Give the measured speed to the agent as this engine's baseline.")
@click.option("--name", help="The engine's configured name, for --save; else the one with this URL.")
@click.option(
    "--state", "state_dir", type=click.Path(path_type=Path), help="The state folder, if not the configured one."
)
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write an SVG of the run to this file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of the table.")
@_options.config
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ENGINE OPTIONS]")
def bench(**options: Any) -> None:
    """
    Send an engine the same request again and again, and report whether its speed is steady.

    Reports the speed of each request, percentiles of the time to the first token and between tokens, temperatures and
    throttling during the run, and a verdict. Exit status 1 if requests failed.
    """
    from agent import configuration
    from agent.config.loader import ConfigError
    from agent.enginebench.bench import run
    from agent.enginebench.client import EngineError
    from agent.runtime.entry_points import PluginError
    from agent.sampling import binding
    from agent.text import log

    log.configure(sys.stderr, level=40)  # the engine's own log lines are not printed
    try:
        config, modules = configuration.load_configuration(options["config_path"])
        plan = _make_plan(config, options)
        with _show_progress(plan.requests) as progress:
            result = run(plan, modules, binding.bind_collectors(config, modules), progress)
    except ConfigError as error:
        _options.exit_with_errors(error.messages, 2)
    except (PluginError, EngineError) as error:
        _options.exit_with_errors([str(error)], 1)
    except KeyboardInterrupt:
        _options.exit_with_errors(["stopped before the first result"], 130)
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
        _options.exit_with_errors(
            [f"{' '.join(engine_arguments)}: options for a new engine, but --url names a running one"],
            2,
        )
    if url is not None and not url.startswith(("http://", "https://")):
        _options.exit_with_errors([f"--url must begin with http:// or https://, and is {url!r}"], 2)
    if options["save"]:
        _check_save(config, options)
    return BenchPlan(
        url=url,
        engine_arguments=engine_arguments
        or canary_arguments(config.engine.size),  # as the canary, whose baseline it becomes
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
        _options.exit_with_errors(["--save sets the baseline of one request at a time: leave --concurrency out"], 2)
    if options["arguments"]:
        _options.exit_with_errors(
            ["--save sets the canary's baseline, which has no options of its own: leave them out"], 2
        )
    if options["url"] is not None and _find_engine_name(config, options) is None:
        names = ", ".join(engine.name for engine in config.engines) or "none"
        _options.exit_with_errors(
            [f"--save needs the engine's name in the configuration (it has: {names}): give --name"], 2
        )


def _find_engine_name(config: AgentConfig, options: dict[str, Any]) -> str | None:
    def strip_path(url: str) -> str:
        return url.rstrip("/").removesuffix("/metrics").removesuffix("/v1")

    if options["name"] is not None or options["url"] is None:
        return options["name"]  # type: ignore[no-any-return]  # click's options come as Any
    return next(
        (engine.name for engine in config.engines if strip_path(engine.url) == strip_path(options["url"])), None
    )


def _read_key(path: Path | None) -> str:
    from agent.runtime.errors import describe_reason
    from agent.storage.secret_file import read_secret

    if path is None:
        return ""
    try:
        return read_secret(path)
    except (OSError, ValueError) as error:
        _options.exit_with_errors([f"--key-file: {path}: {describe_reason(error)}"], 2)


def _parse_seconds(text: str) -> float:
    from agent.text.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        _options.exit_with_errors([f"--timeout: {error}"], 2)


@contextmanager
def _show_progress(requests: int) -> Iterator[Callable[[LoadRun], None]]:
    """Shows a progress bar on standard error if it is a terminal."""
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
            _options.exit_with_errors([f"--plot: cannot write {options['plot']}: {error.strerror}"], 1)
        say(f"plot: {options['plot']}", err=True)


def _hand_over_baseline(result: BenchResult, state_dir: Path | None, config: AgentConfig) -> None:
    """Writes the baseline for the agent, and reports whether a running agent has adopted it."""
    from agent.engines import baseline_handover
    from agent.storage.state_dir import StateError, find_state_dir

    speed, key = result.baseline, result.key
    if speed is None or result.run.failures or result.run.stop_reason:
        _options.exit_with_errors(["the run is incomplete, so the baseline stays as it was"], 1)
    try:
        folder_path = state_dir or find_state_dir(config.state.dir)
        path = baseline_handover.hand_over(
            folder_path, baseline_handover.MeasuredBaseline(key.engine, key.model, key.batch, speed)
        )
    except StateError as error:
        _options.exit_with_errors([str(error)], 1)
    except OSError as error:
        _options.exit_with_errors([f"cannot write to the state folder: {error}; give the agent's with --state"], 1)
    origin = "counted by the engine" if result.engine_speeds else "measured here, because the engine does not count it"
    model = f" ({key.model.partition(':')[0]})" if key.model else ""
    say(f"baseline of {key.engine}{model}: {speed:.1f} decode tokens/s, {origin}", err=True)
    if not baseline_handover.is_agent_running(folder_path):
        say(f"no agent runs with {folder_path}: the next one that starts there will adopt it", err=True)
    elif baseline_handover.wait_until_adopted(path, ADOPTION_TIMEOUT):
        say("the running agent has adopted it", err=True)
    else:
        seconds = f"{ADOPTION_TIMEOUT:g} s"
        _options.exit_with_errors(
            [f"the agent that runs with {folder_path} has not adopted {path} within {seconds}"], 1
        )
