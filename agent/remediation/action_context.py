"""The context of a running action: a snapshot of History, HTTP, the hand, and the machine's files."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.actions import PATIENCE, ActionContext, FailedError, Http, QueryRows, UnknownError
from agent.remediation.hand import send_request
from agent.storage.secret_file import read_secret
from agent.text.units import url_origin
from collectors import Host
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
        """Reads the credential for PUT /pace."""
        path = Path(file) if file is not None else self._token_file
        try:
            return read_secret(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise FailedError(f"the token in {path} cannot be used: {reason}") from error

    def wait(self, seconds: float) -> None:
        """Sleeps in the act's own thread."""
        time.sleep(seconds)

    def line(self, address: str, text: str) -> str:
        """Sends one line to a socket and reads until it closes."""
        with contextlib.closing(_connect(address)) as connection:
            try:
                connection.sendall(text.encode() + b"\n")
                received = b""
                while (part := connection.recv(1 << 16)) and len(received) < MAX_ANSWER_BYTES:
                    received += part
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
        request = urllib.request.Request(url, data=body, headers=dict(headers or {}), method=method)
        try:
            with _OPENER.open(request, timeout=patience) as answer:
                return Http(answer.status, answer.read(MAX_ANSWER_BYTES).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            with error:
                return Http(error.code, error.read(MAX_ANSWER_BYTES).decode("utf-8", "replace"))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _classify_failure(url, error) from error


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
        raise FailedError(f"{address}: {getattr(error, 'strerror', None) or error}") from error
    return connection


def _classify_failure(url: str, error: Exception) -> FailedError | UnknownError:
    """Returns FailedError if the connection was refused, so that nothing was done; else UnknownError."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ConnectionRefusedError) or (isinstance(error, ValueError)):
        return FailedError(f"{url_origin(url)}: {getattr(reason, 'strerror', None) or reason}")
    return UnknownError(f"{url_origin(url)}: {reason or type(error).__name__}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follows no redirect, which could carry a credential elsewhere."""


# No proxies: engines are addressed directly, and a proxy would get the token.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
