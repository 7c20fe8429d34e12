"""
The one address of an engine with several workers: each request goes to the worker that has fewest.

What a worker answers is passed on as it comes, byte for byte; a client that leaves is told to the worker by closing.
A worker that is full (429) or gone before it has answered costs the request nothing: the next one is asked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from engine.summed import Summed, Told
from engine.workers import Worker, Workers

LARGEST_BODY = 32 << 20  # bytes; what is too much for a worker it says itself
LARGEST_HEAD = 1 << 16  # bytes of a worker's status line and headers
ASKED = 0.3  # seconds for a worker's /metrics; the agent waits for 0.4 s in all
PREFIX = "steadytok_reference_"
_OF_A_CONNECTION = {"connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}


class Lease(NamedTuple):
    """A pace that was taken: who asked for it, and until when (monotonic) it holds."""

    authorization: str
    duty: float
    until: float


class Front(ThreadingHTTPServer):
    """Listens from the moment it is made; serve_forever answers."""

    daemon_threads = True
    request_queue_size = 128  # as the workers have it

    def __init__(self, address: tuple[str, int], workers: Workers) -> None:
        self.workers = workers
        self.summed = Summed()
        self.lease: Lease | None = None
        self.pacing = threading.Lock()
        self.summing = threading.Lock()
        super().__init__(address, Exchange)

    @property
    def url(self) -> str:
        """Where it answers, with the port that port 0 became."""
        return f"http://{self.server_name}:{self.server_port}"

    def server_bind(self) -> None:
        """Binds without the name look-up of HTTPServer, which hangs on hosts whose resolver is out of reach."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error; anything else keeps its traceback."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)

    def greet(self, worker: Worker) -> None:
        """A worker that takes another's place is held to the lease that its fellows have."""
        with self.pacing:
            lease = self.lease
            if lease is not None and (left := lease.until - time.monotonic()) > 0:
                body = json.dumps({"duty": lease.duty, "ttl": round(left, 3)}).encode()
                _ask(worker, "PUT", "/pace", body, {"Authorization": lease.authorization}, timeout=5.0)

    def metrics(self) -> str:
        """What all workers tell, and how they do."""
        with ThreadPoolExecutor(len(self.workers.all)) as pool:
            texts = list(pool.map(_metrics_of, self.workers.all))
        told = {
            worker.name: Told(worker.starts, text)
            for worker, text in zip(self.workers.all, texts, strict=True)
            if text is not None
        }
        with self.summing:  # it remembers: two scrapes at once must not count a successor twice
            return self.summed.merged(told) + "".join(self._own())

    def _own(self) -> Iterator[str]:
        for name, kind, text, values in (
            ("worker_up", "gauge", "Whether this worker serves.", [int(w.port is not None) for w in self.workers.all]),
            ("worker_starts_total", "counter", "Times it was started.", [w.starts for w in self.workers.all]),
            ("worker_requests_total", "counter", "Requests it was given.", [w.taken for w in self.workers.all]),
        ):
            yield f"# HELP {PREFIX}{name} {text}\n# TYPE {PREFIX}{name} {kind}\n"
            for worker, value in zip(self.workers.all, values, strict=True):
                yield f'{PREFIX}{name}{{worker="{worker.name}"}} {value}\n'


class Exchange(BaseHTTPRequestHandler):
    """One request: the workers close after their answer, and so do we."""

    server: Front
    protocol_version = "HTTP/1.1"
    server_version = "steadytok-reference"
    sys_version = ""
    timeout = 30  # seconds without a byte, after which a connection is dropped
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answers itself what is about all workers; else passes on."""
        self.close_connection = True
        body = self._body()
        if body is None:
            return
        match self.command, self.path.partition("?")[0]:
            case "GET", "/metrics":
                self._send(200, self.server.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
            case "GET", "/healthz":
                up = {w.name: "up" if w.port is not None else "down" for w in self.server.workers.all}
                some = "up" in up.values()
                self._send_json(200 if some else 503, {"status": "ok" if some else "down", "workers": up})
            case "PUT", "/pace":
                self._pace(body)
            case _:
                self._pass_on(body)

    do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815  the names are http.server's

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing, as the workers do."""

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            return self._refuse(411, "Send the body with Content-Length, not in chunks.")
        if not (length.isascii() and length.isdecimal() and len(length) < 16):
            return self._refuse(400, "Content-Length is not a whole number.")
        if int(length) > LARGEST_BODY:
            left = min(int(length), 2 * LARGEST_BODY)  # thrown away, so that the client gets to read why
            while left > 0 and (part := self.rfile.read(min(left, 1 << 16))):
                left -= len(part)
            return self._refuse(413, f"The body has {length} bytes: at most {LARGEST_BODY} are taken.")
        return self.rfile.read(int(length))

    def _pace(self, body: bytes) -> None:
        """To all workers; the first refusal is the answer, since they have one token and one opinion."""
        authorization = self.headers.get("Authorization", "")
        with self.server.pacing:
            answers = [
                answer
                for worker in self.server.workers.all
                if (answer := _ask(worker, "PUT", "/pace", body, {"Authorization": authorization}, timeout=5.0))
            ]
            if not answers:
                self._refuse(503, "No worker is up to be paced: they are being started again.")
                return
            status, text = next((answer for answer in answers if answer[0] != 200), answers[0])
            if status == 200:
                taken = json.loads(text)
                self.server.lease = Lease(authorization, taken["duty"], time.monotonic() + taken["ttl"])
        self._send(status, text, "application/json")

    def _pass_on(self, body: bytes) -> None:
        tried: list[Worker] = []
        while True:
            with self.server.workers.least_running(tried) as worker:
                if worker is None:
                    self._refuse(503, "No worker is up: they are being started again.")
                    return
                tried.append(worker)
                last = len(tried) == len(self.server.workers.all)
                try:
                    done = self._through(worker, body, may_refuse=last)
                except ConnectionRefusedError:
                    continue  # it has just ended: nothing was asked of it yet
                if done:
                    return

    def _through(self, worker: Worker, body: bytes, *, may_refuse: bool) -> bool:
        """One exchange with a worker; False where another is to be asked, and nothing was sent to the client."""
        if worker.port is None:
            return False
        with socket.create_connection(("127.0.0.1", worker.port), timeout=5.0) as upstream:
            upstream.settimeout(None)
            upstream.sendall(self._request(body))
            stream = _Stream(self.connection, upstream)
            head = b""
            while b"\r\n\r\n" not in head and len(head) < LARGEST_HEAD:
                part = stream.next()
                if part is None:
                    return True  # the client has left
                if not part:
                    return False  # ended before it answered: whether it had begun, nobody was told
                head += part
            if head[9:12] == b"429" and not may_refuse:
                return False
            self._copy(worker, head, stream)
        return True

    def _request(self, body: bytes) -> bytes:
        fields = [(name, value) for name, value in self.headers.items() if name.lower() not in _OF_A_CONNECTION]
        fields += [("Connection", "close"), ("Content-Length", str(len(body)))]
        lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _copy(self, worker: Worker, start: bytes, stream: _Stream) -> None:
        head, _, rest = start.partition(b"\r\n\r\n")
        low = head.lower()
        if b"\r\nconnection:" not in low:
            head += b"\r\nConnection: close"
        self.wfile.write(head + b"\r\n\r\n" + rest)
        open_ended = b"\r\ncontent-length:" not in low and b"\r\ntransfer-encoding:" not in low
        tail = rest[-64:]
        while part := stream.next():
            self.wfile.write(part)
            tail = (tail + part)[-64:]
        if part is not None and open_ended and b"text/event-stream" in low and b"[DONE]" not in tail:
            # Nothing in HTTP tells a client that such a stream was cut; OpenAI's own servers tell so in an event.
            words = f"The worker of node {worker.name} ended in the middle of this answer."
            error = {"error": {"message": words, "type": "server_error", "code": 502}}
            self.wfile.write(b"data: " + json.dumps(error).encode() + b"\n\n")

    def _refuse(self, status: int, sentence: str) -> None:
        self._send_json(status, {"error": {"message": sentence, "type": "server_error", "code": status}})

    def _send_json(self, status: int, fields: dict[str, Any]) -> None:
        self._send(status, json.dumps(fields).encode() + b"\n", "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)


class _Stream:
    """Bytes of a worker for as long as the client is there."""

    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self._client = client
        self._upstream = upstream
        self._poll = select.poll()
        self._poll.register(client, select.POLLRDHUP)
        self._poll.register(upstream, select.POLLIN)

    def next(self) -> bytes | None:
        """What came next, b"" at the end (or where the worker died), None where the client has left."""
        ready = dict(self._poll.poll())
        if ready.get(self._client.fileno(), 0) & (select.POLLRDHUP | select.POLLHUP | select.POLLERR):
            return None
        try:
            return self._upstream.recv(1 << 16)
        except ConnectionError:
            return b""  # reset: its process was killed with something unread


def _metrics_of(worker: Worker) -> str | None:
    answer = _ask(worker, "GET", "/metrics", b"", {}, timeout=ASKED)
    return answer[1].decode("utf-8", "replace") if answer is not None and answer[0] == 200 else None


def _ask(
    worker: Worker, method: str, path: str, body: bytes, headers: dict[str, str], *, timeout: float
) -> tuple[int, bytes] | None:
    """A short answer of a worker; None where it does not serve, or not in time."""
    if worker.port is None:
        return None
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None  # it is being replaced, or busy: the caller goes on without it
