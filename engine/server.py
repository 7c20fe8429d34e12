"""
The HTTP face: POST /v1/completions (OpenAI's shape, SSE when streaming), PUT /pace, GET /metrics, GET /healthz.

http.server with a thread per connection: decoding blocks a thread in BLAS anyway and only one request decodes at a
time, so an event loop would add 15 MB and 0.1 s at start (aiohttp) to a canary that is to be small.
"""

from __future__ import annotations

import hmac
import json
import select
import socketserver
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from engine.generation import FullError, Generation, LeftError
from engine.metrics import CONTENT_TYPE, exposition
from engine.requests import Completion, RefusedError, parse_completion, parse_lease
from engine.sampler import Sampler
from engine.tokenizer import ByteTokenizer, Tokenizer

LARGEST_BODY = 1 << 20  # bytes
LARGEST_DRAIN = 32 << 20  # bytes read and thrown away, so that the client gets to read why it was refused
ROUTES = {"/v1/completions": "POST", "/pace": "PUT", "/metrics": "GET", "/healthz": "GET"}

Fields = dict[str, Any]


class Server(ThreadingHTTPServer):
    """Listens from the moment it is made; serve_forever answers."""

    daemon_threads = True
    request_queue_size = 128  # connections that come while a thread starts; the default of 5 loses bursts

    def __init__(
        self,
        address: tuple[str, int],
        generation: Generation,
        model_name: str,
        threads: int,
        token: str | None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.generation = generation
        self.model_name = model_name
        self.threads = threads
        self.token = token
        self.tokenizer = tokenizer or ByteTokenizer()
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


class Exchange(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "steadytok-reference"
    sys_version = ""
    timeout = 30  # seconds without a byte, after which a connection is dropped
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answers, or says in one sentence why not."""
        try:
            body = self._body()
            self._check_route()
            self._answer(body)
        except RefusedError as refused:
            self._refuse(refused)
        except LeftError:
            self.close_connection = True

    do_POST = do_PUT = do_GET  # noqa: N815  the names are http.server's

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a canary asked every five seconds must not fill a journal."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses, in the same shape as our own refusals."""
        self.close_connection = True
        self._refuse(RefusedError(code, f"{message or HTTPStatus(code).phrase}."))

    def _check_route(self) -> None:
        path = self.path.partition("?")[0]
        if path not in ROUTES:
            raise RefusedError(404, f"There is nothing here: this engine has {', '.join(ROUTES)}.")
        if self.command != ROUTES[path]:
            raise RefusedError(405, f"{path} is asked with {ROUTES[path]}.")

    def _answer(self, body: bytes) -> None:
        match self.path.partition("?")[0]:
            case "/v1/completions":
                self._complete(parse_completion(body, self.server.generation.model.context, self.server.tokenizer))
            case "/pace":
                self._pace(body)
            case "/metrics":
                text = exposition(self.server.generation, self.server.model_name, self.server.threads)
                self._send(200, text.encode(), CONTENT_TYPE)
            case _:
                self._send_json(200, {"status": "ok"})

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers:
            self.close_connection = True
            raise RefusedError(411, "Send the body with Content-Length, not in chunks.")
        if not (length.isascii() and length.isdecimal() and len(length) < 16):
            self.close_connection = True
            raise RefusedError(400, "Content-Length is not a whole number.")
        if int(length) > LARGEST_BODY:
            self.close_connection = True
            self._drain(min(int(length), LARGEST_DRAIN))
            raise RefusedError(400, f"The body has {length} bytes: at most {LARGEST_BODY} are taken.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise LeftError
        return body

    def _drain(self, length: int) -> None:
        while length > 0 and (part := self.rfile.read(min(length, 1 << 16))):
            length -= len(part)

    def _pace(self, body: bytes) -> None:
        if self.server.token is None:
            raise RefusedError(403, "The pace cannot be set: this engine was started without a token (--token-file).")
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            raise RefusedError(401, "The pace is set with Authorization: Bearer and the engine's token.")
        lease = parse_lease(body)
        self.server.generation.pace.hold(lease.duty, lease.ttl)
        self._send_json(200, {"duty": lease.duty, "ttl": lease.ttl})

    def _complete(self, asked: Completion) -> None:
        with self._turn():
            sampler = Sampler(asked.temperature, asked.seed)
            tokens = self.server.generation.tokens(asked.prompt, asked.max_tokens, sampler, self._gone)
            answer = Answer(asked, self.server.model_name, self.server.tokenizer)
            if not asked.stream:
                self._send_json(200, answer.whole(tokens))
                return
            self._start_stream()
            for event in answer.events(tokens):
                self.wfile.write(b"data: " + event + b"\n\n")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            with self.server.generation.turn(self._gone):
                yield
        except FullError:
            raise RefusedError(429, "Too many requests wait already: come back later.") from None

    def _gone(self) -> bool:
        """Whether the client has closed its side; what it may have sent ahead is left alone."""
        poll = select.poll()
        poll.register(self.connection, select.POLLIN | select.POLLRDHUP)
        ready = poll.poll(0)
        return bool(ready) and bool(ready[0][1] & (select.POLLRDHUP | select.POLLHUP | select.POLLERR))

    def _start_stream(self) -> None:
        self.close_connection = True  # the end of the connection is the end of the stream
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()

    def _refuse(self, refused: RefusedError) -> None:
        error = {"message": refused.sentence, "type": "invalid_request_error", "code": refused.status}
        self._send_json(refused.status, {"error": error})

    def _send_json(self, status: int, fields: Fields) -> None:
        self._send(status, json.dumps(fields).encode() + b"\n", "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        if status == HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            self.send_header("Retry-After", "1")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


class Answer:
    """One completion in OpenAI's shape, whole or as events."""

    def __init__(self, asked: Completion, model_name: str, tokenizer: Tokenizer) -> None:
        self._asked = asked
        self._decoder = tokenizer.decoder()
        self._stop = frozenset() if asked.ignore_eos else tokenizer.stop_tokens
        self._made = 0
        self._frame = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model_name,
        }

    def whole(self, tokens: Iterator[int]) -> Fields:
        """The answer in one piece."""
        pieces = list(self._pieces(tokens))
        return self._piece("".join(text for text, _ in pieces), pieces[-1][1]) | {"usage": self._usage()}

    def events(self, tokens: Iterator[int]) -> Iterator[bytes]:
        """One event per token, the last with its finish_reason; then usage if asked for, then [DONE]."""
        for text, finish_reason in self._pieces(tokens):
            yield json.dumps(self._piece(text, finish_reason)).encode()
        if self._asked.include_usage:
            yield json.dumps(self._frame | {"choices": [], "usage": self._usage()}).encode()
        yield b"[DONE]"

    def _pieces(self, tokens: Iterator[int]) -> Iterator[tuple[str, str | None]]:
        """The text of each token, with the finish_reason of the last; one that ends the answer has none."""
        for token in tokens:
            self._made += 1
            last = self._made == self._asked.max_tokens
            if token in self._stop:
                yield "", "stop"
                return
            yield self._decoder.text(token, last=last), "length" if last else None

    def _piece(self, text: str, finish_reason: str | None) -> Fields:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}
        return self._frame | {"choices": [choice]}

    def _usage(self) -> Fields:
        asked = len(self._asked.prompt)
        return {"prompt_tokens": asked, "completion_tokens": self._made, "total_tokens": asked + self._made}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    return host == "localhost" or (host.startswith("127.") and host.count(".") == 3)
