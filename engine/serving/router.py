"""
The common address of several workers: each request goes to the worker with the fewest running requests.

Forwards a worker's response byte for byte as it arrives, and closes the worker's connection if the client leaves.
If a worker is full (429) or ends before it has answered, the next worker gets the request.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from engine.serving.http_connection import MAX_CONNECTIONS, HttpConnection, HttpListener
from engine.serving.json_fields import HttpError
from engine.serving.merged_metrics import MergedMetrics, WorkerMetrics
from engine.serving.metrics import CONTENT_TYPE, PREFIX
from engine.serving.pace_proof import PaceToken
from engine.serving.workers import Worker, Workers

MAX_BODY_BYTES = 32 << 20  # bytes; a worker has its own, lower limit
MAX_ANSWER_BYTES = 4 << 20  # of a worker to the router
MAX_HEAD_BYTES = 1 << 16  # bytes of a worker's status line and headers
METRICS_TIMEOUT = 0.3  # seconds for a worker's /metrics; the agent waits 0.4 s for all
_HOP_BY_HOP_HEADERS = {"connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}


class ActiveLease(NamedTuple):
    """A granted pace, and its end on the monotonic clock."""

    duty: float
    expires_at: float


class Router(HttpListener):
    """Listens for clients; has the workers, their merged metrics and the active lease."""

    def __init__(self, address: tuple[str, int], workers: Workers, token: str | None = None) -> None:
        """`token` is the one that the workers have too; without it PUT /pace is refused."""
        self.workers = workers
        self.pace_token = None if token is None else PaceToken(token)
        self.merged_metrics = MergedMetrics()
        self.lease: ActiveLease | None = None
        self.lease_lock = threading.Lock()
        self.merge_lock = threading.Lock()
        super().__init__(address, RouterConnection, MAX_CONNECTIONS * len(workers.all))

    def restore_lease(self, worker: Worker) -> None:
        """Sets the active lease on a worker that has just started."""
        with self.lease_lock:
            lease = self.lease
            if lease is not None and (remaining := lease.expires_at - time.monotonic()) > 0:
                self.pace_worker(worker, json.dumps({"duty": lease.duty, "ttl": round(remaining, 3)}).encode())

    def pace_worker(self, worker: Worker, body: bytes) -> tuple[int, bytes] | None:
        """Sends PUT /pace, signed: another program may have the port of a worker that has just died."""
        assert self.pace_token is not None
        headers = {"Authorization": self.pace_token.sign_request("PUT", "/pace", body)}
        return _call_worker(worker, "PUT", "/pace", body, headers, timeout=5.0)

    def render_exposition(self) -> str:
        """Renders the merged metrics of all workers, and metrics about the workers."""
        with ThreadPoolExecutor(len(self.workers.all)) as pool:
            texts = list(pool.map(_scrape_metrics, self.workers.all))
        scrapes = {
            worker.name: WorkerMetrics(worker.start_count, text)
            for worker, text in zip(self.workers.all, texts, strict=True)
            if text is not None
        }
        with self.merge_lock:  # merging is stateful: two scrapes at once must not count a successor twice
            return self.merged_metrics.merge(scrapes) + "".join(self._render_worker_metrics())

    def _render_worker_metrics(self) -> Iterator[str]:
        for name, kind, help_text, values in (
            ("worker_up", "gauge", "1 while this worker serves.", [int(w.port is not None) for w in self.workers.all]),
            ("worker_starts_total", "counter", "Starts of this worker.", [w.start_count for w in self.workers.all]),
            (
                "worker_requests_total",
                "counter",
                "Requests forwarded to this worker.",
                [w.assigned_count for w in self.workers.all],
            ),
        ):
            yield f"# HELP {PREFIX}{name} {help_text}\n# TYPE {PREFIX}{name} {kind}\n"
            for worker, value in zip(self.workers.all, values, strict=True):
                yield f'{PREFIX}{name}{{worker="{worker.name}"}} {value}\n'


class RouterConnection(HttpConnection):
    """One request: workers close their connection after a response, and so does the router."""

    server: Router
    max_body_bytes = MAX_BODY_BYTES

    do_DELETE = do_HEAD = do_OPTIONS = HttpConnection.do_GET  # noqa: N815  the names are http.server's

    def respond(self, path: str, body: bytes) -> None:
        """Answers requests about all workers, and forwards the others."""
        self.close_connection = True
        match self.command, path:
            case "GET", "/metrics":
                self.send(200, self.server.render_exposition().encode(), CONTENT_TYPE)
            case "GET", "/healthz":
                statuses = {w.name: "up" if w.port is not None else "down" for w in self.server.workers.all}
                is_any_up = "up" in statuses.values()
                self.send_json(
                    200 if is_any_up else 503, {"status": "ok" if is_any_up else "down", "workers": statuses}
                )
            case "PUT", "/pace":
                self._set_pace(body)
            case _:
                self._forward(body)

    def _set_pace(self, body: bytes) -> None:
        """Sets the pace on all workers, which share one token; the first refusal, if any, is the response."""
        nonce = self.check_pace_token(self.server.pace_token, body)
        with self.server.lease_lock:
            responses = [
                response for worker in self.server.workers.all if (response := self.server.pace_worker(worker, body))
            ]
            if not responses:
                raise HttpError(503, "No worker is up: they are being restarted.", 1)
            status, text = next((response for response in responses if response[0] != 200), responses[0])
            if status == 200:
                granted = json.loads(text)
                self.server.lease = ActiveLease(granted["duty"], time.monotonic() + granted["ttl"])
        self.send_proven(self.server.pace_token, nonce, status, text)

    def _forward(self, body: bytes) -> None:
        tried: list[Worker] = []
        full_response = b""  # of the last worker that was full
        while True:
            with self.server.workers.borrow_least_busy(tried) as worker:
                if worker is None:
                    break
                tried.append(worker)
                try:
                    refusal = self._relay(worker, body)
                except ConnectionRefusedError:
                    continue  # the worker has just ended, and got no request
                if refusal is None:
                    return
                full_response = refusal or full_response
        if not full_response:
            raise HttpError(503, "No worker is up: they are being restarted.", 1)
        self._send_start(full_response)

    def _relay(self, worker: Worker, body: bytes) -> bytes | None:
        """
        Forwards one request to a worker; returns None once the client has its response, or has left.

        Otherwise the client got nothing, and the next worker must be tried: returns then the response of a full worker
        (429), or b"" for a worker that ended.
        """
        if worker.port is None:
            return b""
        with socket.create_connection(("127.0.0.1", worker.port), timeout=5.0) as upstream:
            upstream.settimeout(None)
            upstream.sendall(self._encode_request(body))
            reader = _UpstreamReader(self.connection, upstream)
            head = b""
            while b"\r\n\r\n" not in head and len(head) < MAX_HEAD_BYTES:
                part = reader.read_next()
                if part is None:
                    return None  # the client has left
                if not part:
                    return b""  # ended before it answered: the client knows nothing of it
                head += part
            if head[9:12] == b"429":
                return _read_to_end(head, reader)
            self._copy_stream(worker, head, reader)
        return None

    def _encode_request(self, body: bytes) -> bytes:
        fields = [(name, value) for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP_HEADERS]
        fields += [("Connection", "close"), ("Content-Length", str(len(body)))]
        lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _send_start(self, received: bytes) -> None:
        """Sends the head of a worker's response, with Connection: close, and the bytes after it."""
        head, _, rest = received.partition(b"\r\n\r\n")
        if b"\r\nconnection:" not in head.lower():
            head += b"\r\nConnection: close"
        self.wfile.write(head + b"\r\n\r\n" + rest)

    def _copy_stream(self, worker: Worker, received: bytes, reader: _UpstreamReader) -> None:
        self._send_start(received)
        head, _, rest = received.partition(b"\r\n\r\n")
        lower_head, tail = head.lower(), rest[-64:]
        while part := reader.read_next():
            self.wfile.write(part)
            tail = (tail + part)[-64:]
        if part is not None and b"text/event-stream" in lower_head and b"[DONE]" not in tail:
            # A client detects a cut chunked body, but not the reason, and not a cut body of another kind: so tell it.
            message = f"The worker of node {worker.name} ended in the middle of this answer."
            error = {"error": {"message": message, "type": "server_error", "code": 502}}
            event = b"data: " + json.dumps(error).encode() + b"\n\n"
            chunked = b"\r\ntransfer-encoding: chunked" in lower_head
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)


class _UpstreamReader:
    """Reads the bytes of a worker until the client leaves."""

    def __init__(self, client: socket.socket, upstream: socket.socket) -> None:
        self._client = client
        self._upstream = upstream
        self._poll = select.poll()
        self._poll.register(client, select.POLLRDHUP)
        self._poll.register(upstream, select.POLLIN)

    def read_next(self) -> bytes | None:
        """Returns the next bytes, b"" at the end or once the worker has died, None once the client has left."""
        ready = dict(self._poll.poll())
        if ready.get(self._client.fileno(), 0) & (select.POLLRDHUP | select.POLLHUP | select.POLLERR):
            return None
        try:
            return self._upstream.recv(1 << 16)
        except ConnectionError:
            return b""  # reset: the process was killed with unread data


def _read_to_end(received: bytes, reader: _UpstreamReader) -> bytes | None:
    """Reads a short response to its end; returns None if the client has left."""
    while part := reader.read_next():
        received += part
    return None if part is None else received


def _scrape_metrics(worker: Worker) -> str | None:
    response = _call_worker(worker, "GET", "/metrics", b"", {}, timeout=METRICS_TIMEOUT)
    return response[1].decode("utf-8", "replace") if response is not None and response[0] == 200 else None


def _call_worker(
    worker: Worker, method: str, path: str, body: bytes, headers: dict[str, str], *, timeout: float
) -> tuple[int, bytes] | None:
    """Returns status and body of a short response; None if the worker does not answer as a whole in time."""
    if worker.port is None:
        return None
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=timeout)
    with contextlib.closing(connection):
        try:
            connection.connect()
            with _end_after(timeout, connection.sock):
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                return response.status, response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException):
            return None  # it is being replaced, or busy: the caller continues without it


@contextlib.contextmanager
def _end_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """Ends the connection after `seconds`: the timeout of a socket is for each of its reads alone."""

    def end() -> None:
        with contextlib.suppress(OSError):  # it has closed by itself
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
