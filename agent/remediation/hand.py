"""
The agent's end of the hand: the client of its socket, and the child process of `hand: direct`.

One JSON object a line each way, in a thread that may wait.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from agent.actions import ChangedError, FailedError, UnknownError
from agent.runtime.child_process import ChildProcess
from agent.storage.ownership import find_changeable
from agent.storage.state_dir import StateError

SOCKET = "/run/steadytok/hand.sock"
MAX_REQUEST_BYTES = 4096  # bytes of a request
# Bytes: `hello` names every lease, and a large host has a frequency policy for each processor
MAX_ANSWER_BYTES = 1 << 20
REQUEST_TIMEOUT = 90.0  # seconds: dropping the cache of a terabyte takes a minute
WAKE_TIMEOUT = 10.0  # seconds: at the first connection systemd starts the hand, slowly on a host in trouble
END_TIMEOUT = 15.0  # seconds in which a hand restores its leases, as systemd gives it; killed, it would leave them


def describe_setup(path: str) -> str:
    """Returns the advice for an operator without a hand."""
    return f"there is no hand at {path}: start `steadytok-hand` as root (or `systemctl enable --now steadytok-hand`)"


def send_request(path: str, verb: str, arguments: dict[str, Any], timeout: float = REQUEST_TIMEOUT) -> dict[str, Any]:
    """Returns the result of one request; FailedError, ChangedError, or UnknownError if the outcome is not known."""
    line = msgspec.json.encode({"verb": verb, "arguments": arguments}) + b"\n"
    if len(line) > MAX_REQUEST_BYTES:
        raise FailedError(f"the request to the hand has {len(line)} bytes, more than {MAX_REQUEST_BYTES}")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
        except OSError as error:
            raise FailedError(f"{describe_setup(path)} ({error.strerror or error})") from error
        try:
            with contextlib.suppress(BrokenPipeError):  # it may refuse without reading: its answer is still there
                connection.sendall(line)
            answer = _read_line(connection)
        except OSError as error:
            raise UnknownError(f"the hand did not answer {verb}: {error.strerror or error}") from error
    return _parse_result(verb, answer)


def explain_missing_verbs(path: str, verbs: Sequence[str]) -> str:
    """Returns one sentence on why the hand at a path can do none of these verbs; empty if it can do one."""
    hello = _fetch_hello(path)
    if not hello:
        return describe_setup(path)
    if set(verbs) & set(hello["verbs"]):
        return ""
    missing = hello.get("missing", {})
    return "; ".join(f"the hand cannot do {verb} here: {missing.get(verb, 'it has no such verb')}" for verb in verbs)


def _fetch_hello(path: str) -> dict[str, Any]:
    if not Path(path).exists():
        return {}
    try:
        hello = send_request(path, "hello", {}, WAKE_TIMEOUT)
    except (FailedError, UnknownError, ChangedError):
        return {}
    return hello if isinstance(hello.get("verbs"), list) else {}


def _read_line(connection: socket.socket) -> bytes:
    received, deadline = b"", time.monotonic() + (connection.gettimeout() or REQUEST_TIMEOUT)
    while not received.endswith(b"\n"):
        chunk = connection.recv(1 << 16)
        if not chunk:
            raise OSError("the answer ended early" if received else "the connection was closed")
        received += chunk
        connection.settimeout(max(0.001, deadline - time.monotonic()))  # for the whole answer, not its pauses
        if len(received) > MAX_ANSWER_BYTES:
            raise OSError(f"it answers with more than {MAX_ANSWER_BYTES} bytes")
    return received


def _parse_result(verb: str, line: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnknownError(f"the hand's answer to {verb} is not JSON") from error
    if answer.get("ok") is True and isinstance(answer.get("result"), dict):
        result: dict[str, Any] = answer["result"]
        return result
    message = str(answer.get("error") or "it gave no reason")
    if answer.get("code") == "changed":
        raise ChangedError(message)
    if answer.get("code") == "ambiguous":
        raise UnknownError(f"the hand: {message}")
    raise FailedError(f"the hand: {message}")


class HandProcess:
    """The path of the hand's socket, and the child process behind it if the setting is `direct`."""

    def __init__(self, setting: str, folder: Path) -> None:
        """Raises StateError for `direct` as root in a state folder that others can change."""
        self._direct = setting == "direct"
        if self._direct and os.geteuid() == 0 and (changeable := find_changeable(folder)):
            raise StateError(
                f"remediation.hand: direct changes this host as the state folder {folder} says, and others can change "
                f"{changeable}; set state.dir to a folder that only root can change, all the way from /"
            )
        own_socket = str(folder / "hand.sock")
        self.path = {"socket": SOCKET, "direct": own_socket}.get(setting, setting)
        self._log = structlog.get_logger()
        path_options = ("--socket", own_socket, "--state", str(folder / "hand"))
        arguments = ("hand", "--direct", *path_options, "--until-stdin-closes")
        self._child = ChildProcess(
            "hand", arguments, on_line=self._log_line, on_end=lambda: None, grace_period=END_TIMEOUT
        )

    def _log_line(self, line: bytes) -> None:
        self._log.info("hand output", line=line.decode("utf-8", "replace").strip())

    def start(self) -> None:
        """Starts the child process if the setting is `direct`."""
        if not self._direct:
            return
        if os.geteuid() != 0:
            self._log.warning("remediation.hand: direct needs root; actions that need the hand are refused")
            return
        self._child.start()

    async def close(self) -> None:
        """Ends the child process, which undoes its leases."""
        if self._child.is_started:
            await self._child.close()
