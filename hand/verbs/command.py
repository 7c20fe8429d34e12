"""
command: starts a program of hand.toml with its fixed arguments, as its fixed user.

An alert's labels reach the program in environment variables alone; root lists their names, and values have harmless
characters only.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import selectors
import signal
import subprocess
import time
from typing import Any

from hand.arguments import Arguments
from hand.config import COMMAND_NAME, VARIABLE_NAME, AllowedCommand
from hand.errors import AmbiguousOutcomeError, HandError, HandRefusedError, InvalidRequestError
from hand.limits import RateLimit
from hand.verb import JsonObject, Operation, Verb, VerbContext

_VARIABLE_VALUE = re.compile(r"[A-Za-z0-9 ._:/%+@,-]{0,128}")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_VARIABLES = 32
MAX_OUTPUT = 1024  # bytes of output that are returned


def _prepare(context: VerbContext, arguments: Arguments) -> Operation:
    name = arguments.take_text("name", COMMAND_NAME, "a name of hand.toml's commands")
    command = context.config.commands.get(name)
    if command is None:
        raise HandRefusedError(f"hand.toml has no [commands.{name}]")
    environment = _build_environment(arguments.take_mapping("environment", MAX_VARIABLES), command)
    arguments.reject_unknown()
    return lambda: _run(command, environment)


def _build_environment(variables: dict[str, Any], command: AllowedCommand) -> dict[str, str]:
    for name, value in variables.items():
        if not VARIABLE_NAME.fullmatch(name) or name not in command.environment:
            raise InvalidRequestError(
                f"environment: {ascii(name)[:60]} is not among the variables that hand.toml lists"
            )
        if not isinstance(value, str) or not _VARIABLE_VALUE.fullmatch(value):
            raise InvalidRequestError(f"environment: {name} has characters that are not allowed")
    return {"PATH": _PATH, "LANG": "C.UTF-8", **variables}


def _run(command: AllowedCommand, environment: dict[str, str]) -> JsonObject:
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
            **_build_user_options(command.user),
        )
    except OSError as error:
        raise HandError(f"{command.argv[0]}: {error.strerror}") from error
    output = _collect_output(process, command.timeout)
    return {"status": process.returncode, "output": output, "seconds": time.monotonic() - started}


def _build_user_options(user: str) -> dict[str, Any]:
    """Returns the options that change the user; none when the hand does not run as root, as in a test."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def _collect_output(process: subprocess.Popen[bytes], timeout: float) -> str:
    """Returns the end of the output; after the timeout kills the whole session and raises AmbiguousOutcomeError."""
    assert process.stdout is not None  # Popen was called with PIPE
    deadline, tail = time.monotonic() + timeout, b""
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            if not (chunk := os.read(stream.fileno(), 1 << 16)):
                break
            tail = (tail + chunk)[-MAX_OUTPUT:]
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):  # the process ended meanwhile
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise AmbiguousOutcomeError(f"the command did not end within {timeout:g} s and was killed") from None
    return tail.decode(errors="replace")


def _check_support(context: VerbContext) -> str:
    return "" if context.config.commands else "hand.toml names no command"


VERB = Verb("command", RateLimit(60, 3600.0), _prepare, _check_support)
