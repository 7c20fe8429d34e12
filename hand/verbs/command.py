"""
command: starts a program that root has named, with fixed arguments, as the user that root has named.

What an alert says reaches it in environment variables alone, of names that root has listed and of harmless characters.
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
from hand.config import COMMAND, VARIABLE, Command
from hand.errors import AmbiguousError, HandError, InvalidError, RefusedError
from hand.limits import Limit
from hand.verb import Bench, Ready, Result, Verb

_VALUE = re.compile(r"[A-Za-z0-9 ._:/%+@,-]{0,128}")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOST_VARIABLES = 32
MOST_OUTPUT = 1024  # characters of output that are told


def _prepare(bench: Bench, arguments: Arguments) -> Ready:
    name = arguments.text("name", COMMAND, "a name of hand.toml's commands")
    command = bench.config.commands.get(name)
    if command is None:
        raise RefusedError(f"hand.toml has no [commands.{name}]")
    environment = _environment(arguments.texts("environment", MOST_VARIABLES), command)
    arguments.done()
    return lambda: _run(command, environment)


def _environment(given: dict[str, Any], command: Command) -> dict[str, str]:
    for name, value in given.items():
        if not VARIABLE.fullmatch(name) or name not in command.environment:
            raise InvalidError(f"environment: {ascii(name)[:60]} is not among those that hand.toml lists for it")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise InvalidError(f"environment: {name} has characters that no label of ours needs")
    return {"PATH": _PATH, "LANG": "C.UTF-8", **given}


def _run(command: Command, environment: dict[str, str]) -> Result:
    began = time.monotonic()
    try:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=environment,
            start_new_session=True,
            **_as(command.user),
        )
    except OSError as error:
        raise HandError(f"{command.argv[0]}: {error.strerror}") from error
    output = _output(process, command.timeout)
    return {"status": process.returncode, "output": output, "seconds": time.monotonic() - began}


def _as(user: str) -> dict[str, Any]:
    """Nothing where we are nobody special ourselves, as in a test."""
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}


def _output(process: subprocess.Popen[bytes], timeout: float) -> str:
    """The end of what it says, until it ends; AmbiguousError, its whole session killed, where that takes too long."""
    assert process.stdout is not None  # it was asked for
    until, tail = time.monotonic() + timeout, b""
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, until - time.monotonic())):
            if not (part := os.read(stream.fileno(), 1 << 16)):
                break
            tail = (tail + part)[-MOST_OUTPUT:]
    try:
        process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise AmbiguousError(f"it did not end within {timeout:g} s and was killed") from None
    return tail.decode(errors="replace")


def _missing(bench: Bench) -> str:
    return "" if bench.config.commands else "hand.toml names no command"


VERB = Verb("command", Limit(60, 3600.0), _prepare, _missing)
