"""
command: starts a program of hand.toml with its fixed arguments, as its fixed user.

An alert's labels reach the program in environment variables alone; root lists their names, and values have harmless
characters only. Every process that the command starts ends with it, in whatever session it is: a command that shall
leave a process running has systemd start a unit.
"""

from __future__ import annotations

import json
import re
import time
from typing import Any

from hand import run_command
from hand.arguments import Arguments
from hand.config import COMMAND_NAME, VARIABLE_NAME, AllowedCommand
from hand.errors import AmbiguousOutcomeError, HandError, HandRefusedError, InvalidRequestError
from hand.limits import RateLimit
from hand.verb import JsonObject, Operation, Verb, VerbContext

_VARIABLE_VALUE = re.compile(r"[A-Za-z0-9 ._:/%+@,-]{0,128}")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_VARIABLES = 32
MAX_OUTPUT = 1024  # bytes of output that are returned
SUPERVISOR_TIMEOUT = 10.0  # seconds beyond the command's, in which its processes are killed


def _prepare(context: VerbContext, arguments: Arguments) -> Operation:
    name = arguments.take_text("name", COMMAND_NAME, "a name of hand.toml's commands")
    command = context.config.commands.get(name)
    if command is None:
        raise HandRefusedError(f"hand.toml has no [commands.{name}]")
    environment = _build_environment(arguments.take_mapping("environment", MAX_VARIABLES), command)
    arguments.reject_unknown()
    return lambda: _run(context, command, environment)


def _build_environment(variables: dict[str, Any], command: AllowedCommand) -> dict[str, str]:
    for name, value in variables.items():
        if not VARIABLE_NAME.fullmatch(name) or name not in command.environment:
            raise InvalidRequestError(
                f"environment: {ascii(name)[:60]} is not among the variables that hand.toml lists"
            )
        if not isinstance(value, str) or not _VARIABLE_VALUE.fullmatch(value):
            raise InvalidRequestError(f"environment: {name} has characters that are not allowed")
    return {"PATH": _PATH, "LANG": "C.UTF-8", **variables}


def _run(context: VerbContext, command: AllowedCommand, environment: dict[str, str]) -> JsonObject:
    started = time.monotonic()
    report = _run_supervised(context, command, environment)
    if report["ending"] == run_command.NOT_STARTED:
        raise HandError(f"{command.argv[0]}: {report['output']}")
    if report["ending"] == run_command.TIMED_OUT:
        raise AmbiguousOutcomeError(f"the command did not end within {command.timeout:g} s and was killed")
    if report["ending"] == run_command.STOPPED:
        raise AmbiguousOutcomeError("the command was killed, because the hand ends")
    if not report["is_clean"]:
        raise AmbiguousOutcomeError("the command has ended, and a process that it started cannot be killed")
    return {"status": report["status"], "output": report["output"], "seconds": time.monotonic() - started}


def _run_supervised(context: VerbContext, command: AllowedCommand, environment: dict[str, str]) -> JsonObject:
    """Returns the report of `hand.run_command`, which kills what the command leaves behind."""
    request = {
        "argv": command.argv,
        "environment": environment,
        "user": command.user,
        "timeout": command.timeout,
        "max_output": MAX_OUTPUT,
    }
    completed = context.files.children.run(
        "hand.run_command", (), json.dumps(request).encode(), command.timeout + SUPERVISOR_TIMEOUT
    )
    if completed is None:
        raise AmbiguousOutcomeError("the command did not end, and neither did the program that runs it")
    try:
        report: JsonObject = json.loads(completed.output)
    except ValueError:
        reason = completed.error.decode(errors="replace").strip()[-200:] or f"exit status {completed.status}"
        raise AmbiguousOutcomeError(f"the program that runs the command failed: {reason}") from None
    return report


def _check_support(context: VerbContext) -> str:
    return "" if context.config.commands else "hand.toml names no command"


VERB = Verb("command", RateLimit(60, 3600.0), _prepare, _check_support)
