"""
Serves the Unix socket: checks callers, reads one request a line, and bounds the size and time of all input.

Each connection has a thread; there are few connections, and an incomplete line times out after LINE_TIMEOUT.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import threading
import time

from hand import peer
from hand.config import HandConfig
from hand.errors import HandError, InvalidRequestError, LimitExceededError
from hand.service import Log, Service

MAX_LINE_BYTES = 4096  # bytes of a request
MAX_CONNECTIONS = 8
LINE_TIMEOUT = 5.0  # seconds from the first byte of a line to its last
IDLE_TIMEOUT = 300.0  # seconds between two requests
ACCEPT_RETRY = 0.1  # seconds after a failed accept


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
        self._connections: set[socket.socket] = set()
        self._is_closed = False
        # Neither closing a socket nor shutting systemd's down would wake the thread that waits for a connection.
        self._wakeup, self._closer = socket.socketpair()

    def serve(self) -> None:
        """Accepts connections, each in a thread; returns after `close`, with the listener closed."""
        self._listener.setblocking(False)
        with self._listener, self._wakeup, selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ)
            selector.register(self._wakeup, selectors.EVENT_READ)
            while not self._is_closed:
                selector.select()
                if not self._is_closed:
                    self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return  # another hand has accepted it, or the caller has hung up
        except OSError as error:  # a caller that hung up meanwhile, or no file descriptor left
            self._log(f"cannot accept a connection: {error.strerror}")
            time.sleep(ACCEPT_RETRY)
            return
        connection.setblocking(True)
        if not self._free_slots.acquire(blocking=False):
            refuse_connection(connection, LimitExceededError(f"already serving {MAX_CONNECTIONS} callers"))
            return
        self._connections.add(connection)
        try:
            threading.Thread(target=self._handle_connection, args=(connection,), daemon=True).start()
        except RuntimeError as error:  # no thread left: RLIMIT_NPROC or TasksMax
            self._forget(connection)
            self._log(f"cannot serve a connection: {error}")
            refuse_connection(connection, LimitExceededError(f"the host has no thread left: {error}"))

    def close(self) -> None:
        """Stops accepting connections; connected callers may still hear the answers to what they have sent."""
        self._is_closed = True
        self._closer.close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # the caller has hung up
                connection.shutdown(socket.SHUT_RD)

    def wait_until_answered(self, timeout: float) -> None:
        """Returns when every caller has its answer, or after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        for _ in range(MAX_CONNECTIONS):
            self._free_slots.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def _forget(self, connection: socket.socket) -> None:
        self._connections.discard(connection)
        self._free_slots.release()

    def _handle_connection(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._answer_requests(connection)
        except OSError:
            return  # the caller has hung up
        finally:
            self._forget(connection)

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


def refuse_connection(connection: socket.socket, reason: HandError) -> None:
    """Tells a caller why it is not served, and closes the connection."""
    with contextlib.suppress(OSError), connection:  # a caller that hangs up must not end the accept loop
        _send_response(connection, _format_error(reason))


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
