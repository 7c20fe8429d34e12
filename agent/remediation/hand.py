"""The agent's end of the hand's socket: one JSON object a line each way, in a thread that may wait."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from agent.actions import ChangedError, FailedError, UnknownError

SOCKET = "/run/steadytok/hand.sock"
LONGEST_LINE = 4096  # bytes of a request
LONGEST_ANSWER = 1 << 20  # bytes: `hello` names every lease, and a large host has a frequency policy for each processor
PATIENCE = 90.0  # seconds: dropping the cache of a terabyte takes a minute

WAKING = 10.0  # seconds: systemd starts it for whoever asks first, and on a host in trouble that is not at once


def how_to_give_one(path: str) -> str:
    """What an operator does who has no hand."""
    return f"there is no hand at {path}: start `steadytok-hand` as root (or `systemctl enable --now steadytok-hand`)"


def ask(path: str, verb: str, arguments: dict[str, Any], patience: float = PATIENCE) -> dict[str, Any]:
    """One request and its result; FailedError, ChangedError, or UnknownError where nobody knows what was done."""
    line = msgspec.json.encode({"verb": verb, "arguments": arguments}) + b"\n"
    if len(line) > LONGEST_LINE:
        raise FailedError(f"the request to the hand would have {len(line)} bytes, and {LONGEST_LINE} are taken")
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.settimeout(patience)
        try:
            connection.connect(path)
        except OSError as error:
            raise FailedError(f"{how_to_give_one(path)} ({error.strerror or error})") from error
        try:
            with contextlib.suppress(BrokenPipeError):  # it may refuse us unheard: what it said is there to read
                connection.sendall(line)
            answer = _line(connection)
        except OSError as error:
            raise UnknownError(f"the hand did not answer {verb}: {error.strerror or error}") from error
    return _result(verb, answer)


def usable(path: str) -> list[str]:
    """The verbs that the hand at a path can do; empty where there is none."""
    return [str(verb) for verb in _hello(path).get("verbs", [])]


def lacking(path: str, verbs: Sequence[str]) -> str:
    """Why the hand at a path can do none of these verbs, in a sentence; empty where it can do one."""
    told = _hello(path)
    if not told:
        return how_to_give_one(path)
    if set(verbs) & set(told["verbs"]):
        return ""
    missing = told.get("missing", {})
    return "; ".join(f"the hand cannot do {verb} here: {missing.get(verb, 'it has no such verb')}" for verb in verbs)


def _hello(path: str) -> dict[str, Any]:
    if not Path(path).exists():
        return {}
    try:
        told = ask(path, "hello", {}, WAKING)
    except (FailedError, UnknownError, ChangedError):
        return {}
    return told if isinstance(told.get("verbs"), list) else {}


def _line(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"\n"):
        part = connection.recv(1 << 16)
        if not part:
            raise OSError("half an answer" if received else "the connection was closed")
        received += part
        if len(received) > LONGEST_ANSWER:
            raise OSError(f"it answers with more than {LONGEST_ANSWER} bytes")
    return received


def _result(verb: str, line: bytes) -> dict[str, Any]:
    try:
        answer = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise UnknownError(f"the hand's answer to {verb} is not JSON") from error
    if answer.get("ok") is True and isinstance(answer.get("result"), dict):
        result: dict[str, Any] = answer["result"]
        return result
    says = str(answer.get("error") or "it gave no reason")
    if answer.get("code") == "changed":
        raise ChangedError(says)
    if answer.get("code") == "ambiguous":
        raise UnknownError(f"the hand: {says}")
    raise FailedError(f"the hand: {says}")
