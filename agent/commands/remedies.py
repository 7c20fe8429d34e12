"""`steadytok remedies`: shows and controls the remedies of the running agent, and prints its audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from agent.commands import _options, _running
from agent.text.event_words import describe_event
from agent.text.terminal import say
from agent.text.times import format_local, format_local_iso

PATH = "/api/v1/remedies"


@click.group(name="remedies")
def command() -> None:
    """List, pause and resume remedies, and read their audit log."""


@command.command(name="list")
@_options.config
def list_(config_path: Path | None) -> None:
    """List every remedy: what it does, whether it may act, and what it waits for."""
    status = _running.call_agent(config_path, "GET", PATH)
    mode = "observing: nothing is touched" if status["mode"] == "observe" else "enforcing"
    say(f"Remedies are {mode}.")
    for reason in filter(None, (status["halted"], "The kill-switch file exists." if status["killed"] else "")):
        say(reason)
    for pause in status["pauses"]:
        say(f"Paused: {pause}; `steadytok remedies resume {pause}` lifts it.")
    for latch in status["latches"]:
        say(f"All remedies are off: {latch['why']}; `steadytok remedies resume '*'` lifts it.")
    for remedy in status["remedies"]:
        say("", f"{remedy['name']}: {remedy['state']}, {remedy['left']} acts left this hour")
        say(f"  {remedy['does']}{'' if remedy['reversible'] else '; cannot be undone'}")
        say(f"  for {', '.join(remedy['match'])}")
        last = [f"last tried {format_local(remedy['last_ms'])}"] if remedy["last_ms"] is not None else []
        last += [f"last effect: {effect}"] if (effect := remedy.get("effect")) else []
        for line in [*filter(None, [remedy["why"]]), *remedy.get("now", ()), *last, *remedy["waiting"]]:
            say(f"  {line}")


@command.command()
@_options.config
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Number of entries.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def audit(config_path: Path | None, limit: int, as_json: bool) -> None:
    """Print the audit log: what was done, what was not, and why. It is read from the file, so no agent need run."""
    from agent.remediation import journal
    from agent.storage.state_dir import StateError, find_state_dir, state_dir_of_root

    try:
        path = state_dir_of_root(find_state_dir(_running.load_or_exit(config_path).state.dir), "/") / journal.FILE
        if not path.exists():
            _options.exit_with_errors([f"{path} does not exist: no agent with this state folder has run yet"], 1)
        entries = journal.read_audit(path, limit)
    except (StateError, journal.JournalError) as error:
        _options.exit_with_errors([str(error)], 1)
    for entry in entries:
        say(json.dumps(_to_json(entry)) if as_json else _format_entry(entry))


@command.command()
@_options.config
@click.argument("name", default="operator")
def pause(config_path: Path | None, name: str) -> None:
    """Start no action until `resume`; NAME names the pause. Actions in effect stay until their alert ends."""
    _running.call_agent(config_path, "POST", f"{PATH}/pause", {"name": name})
    say(f"Paused: {name}. Actions in effect stay until their alert ends; the kill-switch file undoes them at once.")


@command.command()
@_options.config
@click.argument("name", required=False)
def resume(config_path: Path | None, name: str | None) -> None:
    """Lift the pause NAME, or let the remedy NAME that has given up act again; without a NAME lift all."""
    answer = _running.call_agent(config_path, "POST", f"{PATH}/resume", {} if name is None else {"name": name})
    say(f"Resumed: {answer['resumed']}. Firing alerts must keep firing for one cooldown first.")


@command.command(name="try")
@_options.config
@click.argument("name")
def try_(config_path: Path | None, name: str) -> None:
    """Show what the remedy NAME would do now; nothing is touched."""
    answer = _running.call_agent(config_path, "POST", f"{PATH}/try", {"name": name})
    if answer["outcome"] != "intended":
        _options.exit_with_errors([f"{name} {describe_event(answer['outcome'])}: {answer['says']}"], 1)
    before = "" if answer["prior"] in (None, "null") else f" (before: {answer['prior']}, then: {answer['would_write']})"
    say(f"{name} would act: {answer['says']}{before}")


def _format_entry(entry: Any) -> str:
    """Returns a line such as `2026-11-24 03:12:07 free-full-node (NodeNearlyFull): done: freed 37.8 GiB in 4.1 s`."""
    alert = dict(entry.labels).get("alertname")
    subject = f"{entry.remedy} ({alert})" if alert else entry.remedy
    event = describe_event(entry.what, observed=entry.observed)
    if entry.what in ("begin", "tighten", "suppressed") and entry.value is not None:
        event += f" at a value of {entry.value:g}"
    message = ": ".join(filter(None, (subject, event, entry.says if entry.says != "only observed" else "")))
    return f"{format_local(entry.at_ms)} {message}"


def _to_json(entry: Any) -> dict[str, Any]:
    measures = {
        key: _measure_to_json(measure) for key in ("before", "after") if (measure := getattr(entry, key)) is not None
    }
    fields = {key: value for key, value in entry._asdict().items() if key not in ("before", "after")}
    return {**fields, "at": format_local_iso(entry.at_ms), "labels": dict(entry.labels), **measures}


def _measure_to_json(measure: Any) -> dict[str, Any]:
    """Returns the fields of a Measure; `shown` is the older name of expression_values, which scripts read."""
    return {"shown" if key == "expression_values" else key: value for key, value in measure._asdict().items()}
