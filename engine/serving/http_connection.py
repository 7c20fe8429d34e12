"""One HTTP connection: reads bodies, sends responses and event streams, and detects that the client has left."""

from __future__ import annotations

import io
import json
import select
import socket
import socketserver
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from engine.serving.client_places import IDLE_TIMEOUT, AnswerWriter, ClientPlaces, RequestReader
from engine.serving.json_fields import Fields, HttpError
from engine.serving.pace_proof import ANSWER_HEADER, PaceToken
from engine.serving.request_stream import StoppedError

MAX_CONNECTIONS = 256  # each has a thread; more than the scheduler's limit, so that /metrics and /pace still answer
MAX_DRAIN_BYTES = 32 << 20  # bytes read and discarded, so that the client can read the refusal
ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_TOO_MANY_CONNECTIONS = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"
    b"Too many connections are open already: come back later.\n"
)


class HttpListener(ThreadingHTTPServer):
    """Listens once it is created; serve_forever answers, each connection in its own thread."""

    daemon_threads = True
    request_queue_size = 128  # connections that arrive while a thread starts; the default of 5 loses bursts

    def __init__(
        self, address: tuple[str, int], connection_class: type[HttpConnection], max_connections: int = MAX_CONNECTIONS
    ) -> None:
        """Serves connections with `connection_class`, at most `max_connections` at a time. Raises OSError."""
        self.places = ClientPlaces()
        self.max_connections = max_connections
        super().__init__(address, connection_class)

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self.places)

    @property
    def url(self) -> str:
        """Its URL, with the actual port if port 0 was requested."""
        return f"http://{self.server_name}:{self.server_port}"

    def server_bind(self) -> None:
        """Binds without the name look-up of HTTPServer, which hangs on hosts whose resolver is unreachable."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Starts a thread for the connection, or answers 503 if there are too many and all are at work."""
        if not self.places.take(request, self.max_connections):
            request.send(_TOO_MANY_CONNECTIONS, socket.MSG_DONTWAIT)
            super().shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started: close this connection and release its place
            self.places.release(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answers all requests of one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints a traceback, except for a client that left."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class HttpConnection(BaseHTTPRequestHandler):
    """Reads requests and passes them to `respond`; an HttpError becomes its status and message."""

    protocol_version = "HTTP/1.1"
    server_version = "steadytok-reference"
    sys_version = ""
    timeout = IDLE_TIMEOUT  # until the first request; RequestReader has the deadlines from there
    disable_nagle_algorithm = True
    max_body_bytes = 1 << 20  # bytes
    _streaming = False  # True once the status is sent: later errors can only go into the stream

    server: HttpListener

    def setup(self) -> None:
        """Gives reading a deadline, and counts the time in which the client must act."""
        super().setup()
        place = self.server.places.find(self.connection)
        self._reader = RequestReader(place)
        self.rfile, self.wfile = io.BufferedReader(self._reader), AnswerWriter(place)

    def handle_one_request(self) -> None:
        """Reads and answers one request."""
        self._reader.begin_request()
        super().handle_one_request()

    def respond(self, path: str, body: bytes) -> None:
        """Answers one request, or raises HttpError or StoppedError."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Answers the request, or sends the reason of a refusal in one sentence."""
        try:
            self._reader.begin_body()
            body = self._read_body()
            self._reader.end_request()
            self.respond(self.path.partition("?")[0], body)
        except HttpError as refusal:
            self._send_refusal(refusal)
        except StoppedError:
            self.close_connection = True

    do_POST = do_PUT = do_GET  # noqa: N815  the names are http.server's

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: a canary that is probed every five seconds must not fill the journal."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Sends a refusal of http.server in the format of our own refusals."""
        self.close_connection = True
        self._send_refusal(HttpError(code, f"{message or HTTPStatus(code).phrase}."))

    def has_client_left(self) -> bool:
        """Returns True once the client has closed its side; reads no bytes. Safe in any thread."""
        poll = select.poll()
        try:
            poll.register(self.connection, select.POLLIN | select.POLLRDHUP)
        except ValueError:
            return True  # closed on our side
        ready = poll.poll(0)
        return bool(ready) and bool(ready[0][1] & (select.POLLRDHUP | select.POLLHUP | select.POLLERR))

    def send_json(self, status: int, fields: Fields) -> None:
        """Sends a response in JSON."""
        self.send(status, json.dumps(fields).encode() + b"\n", "application/json")

    def check_pace_token(self, token: PaceToken | None, body: bytes) -> str | None:
        """Returns the number of a signed request, None for a bearer token; raises HttpError without permission."""
        if token is None:
            raise HttpError(403, "The pace cannot be set: this engine was started without a token (--token-file).")
        return token.check(self.headers.get("Authorization", ""), self.command, self.path, body)

    def send_proven(self, token: PaceToken | None, nonce: str | None, status: int, body: bytes) -> None:
        """Sends a response in JSON; to a signed request with the proof that this engine knows the token, too."""
        headers = {} if token is None or nonce is None else {ANSWER_HEADER: token.sign_answer(nonce, status, body)}
        self.send(status, body, "application/json", headers=headers)

    def send(
        self,
        status: int,
        body: bytes,
        content_type: str,
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Sends a response in one piece."""
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_event(self, event: bytes) -> None:
        """Sends a server-sent event; the first starts the stream. https://html.spec.whatwg.org/#server-sent-events"""
        if not self._streaming:
            self._start_stream()
        self._send_chunk(b"data: " + event + b"\n\n")

    def close_stream(self) -> None:
        """Sends the last chunk, by whose absence a client detects a cut stream."""
        self._send_chunk(b"")
        self._streaming = False

    def _start_stream(self) -> None:
        self._streaming = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        if self._is_chunked():
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True  # the end of the connection ends the stream
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def _is_chunked(self) -> bool:
        return self.request_version != "HTTP/1.0"

    def _send_chunk(self, chunk: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked() else chunk)

    def _send_refusal(self, refusal: HttpError) -> None:
        kind = ERROR_TYPES.get(refusal.status, "server_error" if refusal.status >= 500 else "invalid_request_error")
        error = {"message": refusal.message, "type": kind, "param": None, "code": refusal.status}
        if self._streaming:
            self.close_connection = True
            self.send_event(json.dumps({"error": error}).encode())
            return
        self.send(
            refusal.status, json.dumps({"error": error}).encode() + b"\n", "application/json", refusal.retry_after
        )

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise HttpError(411, "Send the body with Content-Length, not in chunks.")
        if not (length.isascii() and length.isdecimal() and len(length) < 16):
            self.close_connection = True
            raise HttpError(400, "Content-Length is not a whole number.")
        if int(length) > self.max_body_bytes:
            self.close_connection = True
            self._drain_body(min(int(length), MAX_DRAIN_BYTES))
            raise HttpError(413, f"The body has {length} bytes: at most {self.max_body_bytes} are taken.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise StoppedError
        return body

    def _drain_body(self, length: int) -> None:
        while length > 0 and (part := self.rfile.read(min(length, 1 << 16))):
            length -= len(part)
