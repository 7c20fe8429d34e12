"""
The HTTP face: POST /v1/completions and /v1/chat/completions (OpenAI's shapes, SSE when streaming), GET /v1/models,
PUT /pace, GET /metrics, GET /healthz.

http.server with a thread per connection: an event loop would add 15 MB and 0.1 s at start (aiohttp) to a canary that is
to be small, and the few requests that share a model need no thousands of connections.
"""

from __future__ import annotations

import hmac
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

from engine.decoder.sampler import Sampler
from engine.memory.locality import Locality
from engine.serving.http_connection import Exchange, Listener
from engine.serving.json_fields import RefusedError
from engine.serving.metrics import CONTENT_TYPE, exposition
from engine.serving.request_stream import FailedError, Request
from engine.serving.requests import Completion, Terms, parse_chat, parse_completion, parse_lease
from engine.serving.responses import Answer, ChatAnswer, model, models
from engine.serving.scheduler import Batch, ClosingError, FullError
from engine.serving.transcript import Transcript

BYTES_PER_TOKEN = 16  # of a body, at most: text, its escapes and the JSON around it
ROUTES = {
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
    "/v1/models": "GET",
    "/pace": "PUT",
    "/metrics": "GET",
    "/healthz": "GET",
}


@dataclass(frozen=True)
class Served:
    """The model, and what the server says about it."""

    name: str
    batch: Batch
    terms: Terms
    threads: int
    sgemv: float | None = None  # bytes per second; None where it was not measured
    locality: Locality | None = None
    started: float = field(default_factory=time.time)


class Server(Listener):
    """Listens from the moment it is made; serve_forever answers."""

    def __init__(self, address: tuple[str, int], served: Served, token: str | None) -> None:
        """`token` is what PUT /pace needs; without one it is refused."""
        self.served = served
        self.token = token
        self._changed = threading.Condition()
        self._answering = 0
        super().__init__(address, Door)

    def answering(self, change: int) -> None:
        """An answer begins (1) or is out (-1)."""
        with self._changed:
            self._answering += change
            self._changed.notify_all()

    def quiet(self, timeout: float) -> bool:
        """Waits until every answer is out; False where that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._answering, timeout)


class Door(Exchange):
    """What is answered at which path."""

    server: Server

    def answer(self, path: str, body: bytes) -> None:
        """Finds the route; raises RefusedError where there is none."""
        route = "/v1/models" if path.startswith("/v1/models/") else path
        if route not in ROUTES:
            raise RefusedError(404, f"There is nothing here: this engine has {', '.join(ROUTES)}.")
        if self.command != ROUTES[route]:
            raise RefusedError(405, f"{route} is asked with {ROUTES[route]}.")
        self.server.answering(1)
        try:
            self._answer(path, body)
        finally:
            self.server.answering(-1)

    def setup(self) -> None:
        """A long context needs a long body."""
        self.largest_body = max(self.largest_body, BYTES_PER_TOKEN * self.server.served.terms.context)
        super().setup()

    def _answer(self, path: str, body: bytes) -> None:
        served = self.server.served
        match path:
            case "/v1/completions":
                asked = parse_completion(body, served.terms)
                self._complete(asked, Answer(asked, served.name))
            case "/v1/chat/completions":
                asked = parse_chat(body, served.terms)
                self._complete(asked, ChatAnswer(asked, served.name))
            case "/pace":
                self._pace(body)
            case "/metrics":
                text = exposition(served.batch, served.name, served.threads, served.sgemv)
                text += "" if served.locality is None else served.locality.exposition()
                self.send(200, text.encode(), CONTENT_TYPE)
            case "/healthz":
                closing = served.batch.closing
                self.send_json(503 if closing else 200, {"status": "closing" if closing else "ok"})
            case _:
                self._models(path)

    def _models(self, path: str) -> None:
        served = self.server.served
        wanted = urllib.parse.unquote(path.removeprefix("/v1/models").removeprefix("/"))
        if wanted not in ("", served.name):
            raise RefusedError(404, f"There is no model {wanted[:80]!r} here: this engine has {served.name!r}.")
        answer = model if wanted else models
        self.send_json(200, answer(served.name, served.started, served.terms.context))

    def _pace(self, body: bytes) -> None:
        if self.server.token is None:
            raise RefusedError(403, "The pace cannot be set: this engine was started without a token (--token-file).")
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            raise RefusedError(401, "The pace is set with Authorization: Bearer and the engine's token.")
        lease = parse_lease(body)
        self.server.served.batch.pace.hold(lease.duty, lease.ttl)
        self.send_json(200, {"duty": lease.duty, "ttl": lease.ttl})

    def _complete(self, asked: Completion, answer: Answer) -> None:
        request = self._submitted(asked)
        try:
            if not asked.stream:
                self.send_json(200, answer.whole(request.pieces()))
                return
            for event in answer.events(request.pieces()):
                self.send_event(event)
            self.end_stream()
        except FailedError as error:
            raise RefusedError(500, f"The engine could not make this answer: {error}.") from None
        finally:
            request.cancel()  # whatever went wrong with the connection, its slot is free within a step

    def _submitted(self, asked: Completion) -> Request:
        served = self.server.served
        request = Request(
            asked.prompt,
            asked.max_tokens,
            Sampler(asked.temperature, asked.seed, asked.top_p),
            Transcript(served.terms.tokenizer.decoder(), asked.stop),
            self.gone,
            frozenset() if asked.ignore_eos else served.terms.tokenizer.stop_tokens,
        )
        try:
            served.batch.submit(request)
        except FullError as full:
            raise RefusedError(429, "Too many requests wait already: come back later.", full.retry_after) from None
        except ClosingError:
            self.close_connection = True
            raise RefusedError(503, "This engine is ending and takes nothing new.", 5) from None
        return request


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    return host == "localhost" or (host.startswith("127.") and host.count(".") == 3)
