"""
The HTTP API of one engine: POST /v1/completions and /v1/chat/completions (as at OpenAI, SSE when streaming),
GET /v1/models, PUT /pace, GET /metrics, GET /healthz.

It uses http.server with a thread per connection, since few requests share a model. An event loop (aiohttp) would add
15 MB and 0.1 s to the start of the canary, which must be small.
"""

from __future__ import annotations

import json
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

from engine.decoder.sampler import TokenSampler
from engine.memory.locality import Locality
from engine.serving.http_connection import HttpConnection, HttpListener
from engine.serving.json_fields import HttpError
from engine.serving.metrics import CONTENT_TYPE, render_exposition
from engine.serving.pace_proof import PaceToken
from engine.serving.request_stream import GenerationFailedError, GenerationRequest
from engine.serving.requests import CompletionRequest, ModelSpec, parse_chat, parse_completion, parse_lease
from engine.serving.responses import ChatResponse, CompletionResponse, describe_model, list_models
from engine.serving.scheduler import BatchScheduler, ClosingError, QueueFullError
from engine.serving.transcript import Transcript

BYTES_PER_TOKEN = 16  # largest body per token: text, its escapes and the JSON around it
ROUTES = {
    "/v1/completions": "POST",
    "/v1/chat/completions": "POST",
    "/v1/models": "GET",
    "/pace": "PUT",
    "/metrics": "GET",
    "/healthz": "GET",
}


@dataclass(frozen=True)
class ServedModel:
    """The model with its scheduler, and the facts that the server reports."""

    name: str
    scheduler: BatchScheduler
    spec: ModelSpec
    threads: int
    sgemv: float | None = None  # bytes per second; None if not measured
    locality: Locality | None = None
    started_at: float = field(default_factory=time.time)


class EngineServer(HttpListener):
    """Listens once it is created; serve_forever answers."""

    def __init__(self, address: tuple[str, int], served_model: ServedModel, token: str | None) -> None:
        """`token` authorizes PUT /pace; without a token PUT /pace is refused."""
        self.served_model = served_model
        self.pace_token = None if token is None else PaceToken(token)
        self._changed = threading.Condition()
        self._open_responses = 0
        super().__init__(address, ApiConnection)

    def count_responses(self, change: int) -> None:
        """Counts a response that starts (1) or is sent (-1)."""
        with self._changed:
            self._open_responses += change
            self._changed.notify_all()

    def wait_for_responses(self, timeout: float) -> bool:
        """Waits until every response is sent; returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open_responses, timeout)


class ApiConnection(HttpConnection):
    """Answers the requests of one connection by path."""

    server: EngineServer

    def respond(self, path: str, body: bytes) -> None:
        """Dispatches to the route; raises HttpError if there is none."""
        route = "/v1/models" if path.startswith("/v1/models/") else path
        if route not in ROUTES:
            raise HttpError(404, f"There is nothing here: this engine has {', '.join(ROUTES)}.")
        if self.command != ROUTES[route]:
            raise HttpError(405, f"{route} requires the method {ROUTES[route]}.")
        self.server.count_responses(1)
        try:
            self._dispatch(path, body)
        finally:
            self.server.count_responses(-1)

    def setup(self) -> None:
        """Allows longer bodies for a longer context."""
        self.max_body_bytes = max(self.max_body_bytes, BYTES_PER_TOKEN * self.server.served_model.spec.context)
        super().setup()

    def _dispatch(self, path: str, body: bytes) -> None:
        served_model = self.server.served_model
        match path:
            case "/v1/completions":
                completion = parse_completion(body, served_model.spec)
                self._send_completion(completion, CompletionResponse(completion, served_model.name))
            case "/v1/chat/completions":
                completion = parse_chat(body, served_model.spec)
                self._send_completion(completion, ChatResponse(completion, served_model.name))
            case "/pace":
                self._set_pace(body)
            case "/metrics":
                text = render_exposition(
                    served_model.scheduler, served_model.name, served_model.threads, served_model.sgemv
                )
                text += "" if served_model.locality is None else served_model.locality.render_exposition()
                self.send(200, text.encode(), CONTENT_TYPE)
            case "/healthz":
                is_closing = served_model.scheduler.is_closing
                self.send_json(503 if is_closing else 200, {"status": "closing" if is_closing else "ok"})
            case _:
                self._send_models(path)

    def _send_models(self, path: str) -> None:
        served_model = self.server.served_model
        model_name = urllib.parse.unquote(path.removeprefix("/v1/models").removeprefix("/"))
        if model_name not in ("", served_model.name):
            raise HttpError(404, f"There is no model {model_name[:80]!r} here: this engine has {served_model.name!r}.")
        describe = describe_model if model_name else list_models
        self.send_json(200, describe(served_model.name, served_model.started_at, served_model.spec.context))

    def _set_pace(self, body: bytes) -> None:
        nonce = self.check_pace_token(self.server.pace_token, body)
        lease = parse_lease(body)
        self.server.served_model.scheduler.pace.set_lease(lease.duty, lease.ttl)
        answer = json.dumps({"duty": lease.duty, "ttl": lease.ttl}).encode() + b"\n"
        self.send_proven(self.server.pace_token, nonce, 200, answer)

    def _send_completion(self, completion: CompletionRequest, response: CompletionResponse) -> None:
        request = self._submit(completion)
        try:
            if not completion.stream:
                self.send_json(200, response.to_object(request.iter_pieces()))
                return
            for event in response.iter_events(request.iter_pieces()):
                self.send_event(event)
            self.close_stream()
        except GenerationFailedError as error:
            raise HttpError(500, f"The engine could not generate this answer: {error}.") from None
        finally:
            request.cancel()  # frees the slot within a step if the connection failed

    def _submit(self, completion: CompletionRequest) -> GenerationRequest:
        served_model = self.server.served_model
        request = GenerationRequest(
            completion.prompt,
            completion.max_tokens,
            TokenSampler(completion.temperature, completion.seed, completion.top_p),
            Transcript(served_model.spec.tokenizer.create_decoder(), completion.stop),
            self.has_client_left,
            frozenset() if completion.ignore_eos else served_model.spec.tokenizer.stop_tokens,
        )
        try:
            served_model.scheduler.submit(request)
        except QueueFullError as error:
            raise HttpError(429, "Too many requests wait already: come back later.", error.retry_after) from None
        except ClosingError:
            self.close_connection = True
            raise HttpError(503, "This engine is shutting down and accepts no new requests.", 5) from None
        return request


def is_loopback(host: str) -> bool:
    """Returns True if only this machine can reach a server that listens on `host`."""
    return host == "localhost" or (host.startswith("127.") and host.count(".") == 3)
