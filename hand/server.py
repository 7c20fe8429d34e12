"""
Serves the Unix socket: checks callers, reads one request a line, and bounds the size and time of all input.

Each connection has a thread; there are few connections, and an incomplete line times out after LINE_TIMEOUT.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path

from hand import peer
from hand.config import HandConfig
from hand.errors import HandError, InvalidRequestError, LimitExceededError
from hand.service import Log, Service

MAX_LINE_BYTES = 4096  # bytes of a request
MAX_CONNECTIONS = 8
LINE_TIMEOUT = 5.0  # seconds from the first byte of a line to its last
IDLE_TIMEOUT = 300.0  # seconds between two requests
ACCEPT_RETRY = 0.1  # seconds after a failed accept


def create_listener(path: Path) -> socket.socket:
    """Creates a socket at that path for the owner and its group; raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o660)
    listener.listen(MAX_CONNECTIONS)
    return listener


def inherit_listener() -> socket.socket | None:
    """
    Returns the socket that systemd passed, or None when systemd passed none.

    https://www.freedesktop.org/software/systemd/man/latest/sd_listen_fds.html
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=3)


class HandServer:
    """Answers requests until `close`."""

    def __init__(self, listener: socket.socket, config: HandConfig, service: Service, log: Log) -> None:
        self._listener = listener
        self._config = config
        self._service = service
        self._log = log
        self._free_slots = threading.Semaphore(MAX_CONNECTIONS)
        self._is_closed = False

    def serve(self) -> None:
        """Accepts connections, each in a thread; returns after `close`."""
        while not self._is_closed:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if not self._is_closed:  # a caller that hung up meanwhile, or no file descriptor left
                    self._log(f"cannot accept a connection: {error.strerror}")
                    time.sleep(ACCEPT_RETRY)
                continue
            if self._free_slots.acquire(blocking=False):
                threading.Thread(target=self._handle_connection, args=(connection,), daemon=True).start()
            else:
                refuse_connection(connection)

    def close(self) -> None:
        """Stops accepting connections."""
        self._is_closed = True
        self._listener.close()

    def _handle_connection(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._answer_requests(connection)
        except OSError:
            return  # the caller has hung up
        finally:
            self._free_slots.release()

    def _answer_requests(self, connection: socket.socket) -> None:
        try:
            caller = peer.get_peer(connection)
            peer.check_peer(caller, self._config)
        except HandError as error:
            self._log(f"refused a connection: {error}")
            _send_response(connection, _format_error(error))
            return
        reader = LineReader(connection)
        while True:
            try:
                line = reader.read_line()
            except InvalidRequestError as error:
                _send_response(connection, _format_error(error))
                return
            if line is None:
                return
            _send_response(connection, self._service.answer(line, f"process {caller.pid}"))


def refuse_connection(connection: socket.socket) -> None:
    """Tells a caller that all slots are in use, and closes the connection."""
    with contextlib.suppress(OSError), connection:  # a caller that hangs up must not end the accept loop
        _send_response(connection, _format_error(LimitExceededError(f"already serving {MAX_CONNECTIONS} callers")))


class LineReader:
    """Reads the lines of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def read_line(self) -> bytes | None:
        """Returns the next line without its newline, None at the end; raises InvalidRequestError for a bad line."""
        deadline = time.monotonic() + (LINE_TIMEOUT if self._buffer else IDLE_TIMEOUT)
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE_BYTES:
                break
            self._connection.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                chunk = self._connection.recv(MAX_LINE_BYTES)
            except TimeoutError:
                if not self._buffer:
                    return None
                raise InvalidRequestError(
                    f"incomplete line: its end did not arrive within {LINE_TIMEOUT:g} s"
                ) from None
            if not chunk:
                return None
            if not self._buffer:
                deadline = time.monotonic() + LINE_TIMEOUT
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise InvalidRequestError(f"a line has more than {MAX_LINE_BYTES} bytes")
        return line


def _format_error(error: HandError) -> dict[str, object]:
    return {"ok": False, "code": error.code, "error": str(error)}


def _send_response(connection: socket.socket, response: dict[str, object]) -> None:
    connection.settimeout(LINE_TIMEOUT)
    connection.sendall(json.dumps(response).encode() + b"\n")
