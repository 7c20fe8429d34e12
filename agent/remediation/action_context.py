"""The context of a running action: a snapshot of History, HTTP, the hand, and the machine's files."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.actions import PATIENCE, ActionContext, FailedError, Http, QueryRows, UnknownError
from agent.remediation.hand import send_request
from agent.remediation.pace_proof import request_with_proof
from agent.runtime.errors import describe_error, describe_reason
from agent.storage.secret_file import read_secret
from agent.text.units import hide_secrets, url_origin
from collectors import Host, request_http
from rules import promql
from rules.history.snapshot import Snapshot

MAX_ANSWER_BYTES = 1 << 20  # bytes of an answer


class LiveActionContext(ActionContext):
    """The context of one act, made anew for each, so that threads share nothing."""

    def __init__(self, snapshot: Snapshot, at_ms: int, root: str, hand_path: str, token_file: Path) -> None:
        self.host = Host(root)
        self._snapshot = snapshot
        self._at_ms = at_ms
        self._hand_path = hand_path
        self._token_file = token_file

    def query(self, expr: str) -> QueryRows:
        """Returns the value of an expression."""
        return promql.compile(expr).evaluate_at(self._snapshot, self._at_ms).to_dicts()

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Sends one request to the hand."""
        return send_request(self._hand_path, verb, arguments)

    def token(self, file: str | None) -> str:
        """Reads a credential; without a file that of the engines, which is good for PUT /pace and nothing else."""
        path = Path(file) if file is not None else self._token_file
        try:
            return read_secret(path)
        except (OSError, ValueError) as error:
            reason = describe_reason(error)
            raise FailedError(f"the token in {path} cannot be used: {reason}") from error

    def wait(self, seconds: float) -> None:
        """Sleeps in the act's own thread."""
        time.sleep(seconds)

    def line(self, address: str, text: str) -> str:
        """Sends one line to a socket and reads until it closes."""
        deadline = time.monotonic() + PATIENCE
        with contextlib.closing(_connect(address)) as connection:
            try:
                connection.sendall(text.encode() + b"\n")
                received = b""
                while (part := connection.recv(1 << 16)) and len(received) < MAX_ANSWER_BYTES:
                    received += part
                    # PATIENCE is for the whole answer, not for each of its pauses.
                    connection.settimeout(max(0.001, deadline - time.monotonic()))
            except OSError as error:
                raise UnknownError(f"{address} did not answer: {error.strerror or error}") from error
        return received.decode("utf-8", "replace")

    def http(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> Http:
        """Sends one request; an answer of any status is returned."""
        try:
            # The end of a long answer is not needed: that it came says that the request was done.
            answer = request_http(
                method, url, body=body, headers=headers, timeout=patience, limit=MAX_ANSWER_BYTES, cut=True
            )
        except (OSError, ValueError) as error:
            raise _classify_failure(url, error) from error
        is_refusal = answer.status // 100 != 2
        return Http(answer.status, hide_secrets(answer.text, url, headers or {}) if is_refusal else answer.text)

    def http_with_proof(self, method: str, url: str, body: bytes, patience: float = PATIENCE) -> Http:
        """Sends one request with the proof that the agent knows the pace token, which stays here."""
        token = self.token(None)
        try:
            answer = request_with_proof(method, url, body, token, timeout=patience, limit=MAX_ANSWER_BYTES)
        except (OSError, ValueError) as error:
            raise _classify_failure(url, error) from error
        return Http(answer.status, answer.text)


def _connect(address: str) -> socket.socket:
    """Connects to a socket; FailedError if that is refused or not permitted."""
    try:
        if not address.startswith("/"):
            host, _, port = address.rpartition(":")
            return socket.create_connection((host.strip("[]"), int(port)), PATIENCE)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(PATIENCE)
            connection.connect(address)
        except OSError:
            connection.close()
            raise
    except (OSError, ValueError) as error:
        raise FailedError(f"{address}: {describe_reason(error)}") from error
    return connection


def _classify_failure(url: str, error: Exception) -> FailedError | UnknownError:
    """Returns FailedError if no connection was made, so that nothing was done; else UnknownError."""
    if isinstance(error, (ConnectionRefusedError, socket.gaierror, ValueError)):
        return FailedError(f"{url_origin(url)}: {describe_reason(error)}")
    return UnknownError(f"{url_origin(url)}: {describe_error(error)}")
