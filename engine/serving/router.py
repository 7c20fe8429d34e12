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
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from engine.serving.http_connection import MOST_CONNECTIONS, Exchange, Listener
from engine.serving.json_fields import RefusedError
from engine.serving.merged_metrics import Summed, Told
from engine.serving.metrics import CONTENT_TYPE, PREFIX
from engine.serving.workers import Worker, Workers

LARGEST_BODY = 32 << 20  # bytes; what is too much for a worker it says itself
LARGEST_HEAD = 1 << 16  # bytes of a worker's status line and headers
ASKED = 0.3  # seconds for a worker's /metrics; the agent waits for 0.4 s in all
_OF_A_CONNECTION = {"connection", "keep-alive", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}


class Lease(NamedTuple):
    """A pace that was taken: who asked for it, and until when (monotonic) it holds."""

    authorization: str
    duty: float
    until: float


class Front(Listener):
    """The address, what it knows of the workers, and the lease that they are held to."""

    def __init__(self, address: tuple[str, int], workers: Workers) -> None:
        self.workers = workers
        self.summed = Summed()
        self.lease: Lease | None = None
        self.pacing = threading.Lock()
        self.summing = threading.Lock()
        super().__init__(address, Door, MOST_CONNECTIONS * len(workers.all))

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


class Door(Exchange):
    """One request: the workers close after their answer, and so do we."""

    server: Front
    largest_body = LARGEST_BODY

    do_DELETE = do_HEAD = do_OPTIONS = Exchange.do_GET  # noqa: N815  the names are http.server's

    def answer(self, path: str, body: bytes) -> None:
        """Answers itself what is about all workers; else passes on."""
        self.close_connection = True
        match self.command, path:
            case "GET", "/metrics":
                self.send(200, self.server.metrics().encode(), CONTENT_TYPE)
            case "GET", "/healthz":
                up = {w.name: "up" if w.port is not None else "down" for w in self.server.workers.all}
                some = "up" in up.values()
                self.send_json(200 if some else 503, {"status": "ok" if some else "down", "workers": up})
            case "PUT", "/pace":
                self._pace(body)
            case _:
                self._pass_on(body)

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
                raise RefusedError(503, "No worker is up to be paced: they are being started again.", 1)
            status, text = next((answer for answer in answers if answer[0] != 200), answers[0])
            if status == 200:
                taken = json.loads(text)
                self.server.lease = Lease(authorization, taken["duty"], time.monotonic() + taken["ttl"])
        self.send(status, text, "application/json")

    def _pass_on(self, body: bytes) -> None:
        tried: list[Worker] = []
        full = b""  # what the last one that has no room answered
        while True:
            with self.server.workers.least_running(tried) as worker:
                if worker is None:
                    break
                tried.append(worker)
                try:
                    unanswered = self._through(worker, body)
                except ConnectionRefusedError:
                    continue  # it has just ended: nothing was asked of it yet
                if unanswered is None:
                    return
                full = unanswered or full
        if not full:
            raise RefusedError(503, "No worker is up: they are being started again.", 1)
        self._begin(full)

    def _through(self, worker: Worker, body: bytes) -> bytes | None:
        """
        One exchange with a worker; None where the client has its answer, or has left.

        Else nothing was sent to the client, and another is to be asked: the whole 429 of a full one, b"" of a gone one.
        """
        if worker.port is None:
            return b""
        with socket.create_connection(("127.0.0.1", worker.port), timeout=5.0) as upstream:
            upstream.settimeout(None)
            upstream.sendall(self._request(body))
            stream = _Stream(self.connection, upstream)
            head = b""
            while b"\r\n\r\n" not in head and len(head) < LARGEST_HEAD:
                part = stream.next()
                if part is None:
                    return None  # the client has left
                if not part:
                    return b""  # ended before it answered: whether it had begun, nobody was told
                head += part
            if head[9:12] == b"429":
                return _whole(head, stream)
            self._copy(worker, head, stream)
        return None

    def _request(self, body: bytes) -> bytes:
        fields = [(name, value) for name, value in self.headers.items() if name.lower() not in _OF_A_CONNECTION]
        fields += [("Connection", "close"), ("Content-Length", str(len(body)))]
        lines = [f"{self.command} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + body

    def _begin(self, start: bytes) -> None:
        """What a worker has sent so far, its head among it, with the word that we close."""
        head, _, rest = start.partition(b"\r\n\r\n")
        if b"\r\nconnection:" not in head.lower():
            head += b"\r\nConnection: close"
        self.wfile.write(head + b"\r\n\r\n" + rest)

    def _copy(self, worker: Worker, start: bytes, stream: _Stream) -> None:
        self._begin(start)
        head, _, rest = start.partition(b"\r\n\r\n")
        low, tail = head.lower(), rest[-64:]
        while part := stream.next():
            self.wfile.write(part)
            tail = (tail + part)[-64:]
        if part is not None and b"text/event-stream" in low and b"[DONE]" not in tail:
            # A chunked body without its end is known to be cut, and why is told here; others end as if all were well.
            words = f"The worker of node {worker.name} ended in the middle of this answer."
            error = {"error": {"message": words, "type": "server_error", "code": 502}}
            event = b"data: " + json.dumps(error).encode() + b"\n\n"
            chunked = b"\r\ntransfer-encoding: chunked" in low
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)


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


def _whole(start: bytes, stream: _Stream) -> bytes | None:
    """A short answer to its end; None where the client has left."""
    while part := stream.next():
        start += part
    return None if part is None else start


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
