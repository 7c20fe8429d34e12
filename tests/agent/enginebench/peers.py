"""Fake engines: servers on loopback that answer as vLLM, llama.cpp, SGLang and Ollama do."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """The reply to one request: a status, a type, and pieces of the body with a pause before each."""

    pieces: Sequence[bytes]
    status: int = 200
    content_type: str = "text/event-stream"
    pause: float = 0.0


Behave = Callable[[str, dict[str, Any]], Reply]


class Peer:
    """A server that replies as `behave` decides and keeps its requests."""

    def __init__(self, behave: Behave, models: Reply | None) -> None:
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._exchange(behave, models))
        self._server.daemon_threads = False  # `close` waits for them: a late one would disturb another test
        self._over = threading.Event()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Ends the server and its open replies."""
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    def _exchange(peer: Peer, behave: Behave, models: Reply | None) -> type[BaseHTTPRequestHandler]:  # noqa: N805  # `self` is the request's
        class Exchange(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                reply = models if self.path == "/v1/models" else None
                self._send(reply or Reply([b"404 page not found"], 404, "text/plain"))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                peer.requests.append((self.path, body))
                peer.headers.append(dict(self.headers.items()))
                self._send(behave(self.path, body))

            def _send(self, reply: Reply) -> None:
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # the client has left, as some tests want it to
                    for piece in reply.pieces:
                        if peer._over.wait(reply.pause):
                            return
                        self.wfile.write(piece)
                        self.wfile.flush()

            def log_message(self, format: str, *arguments: Any) -> None:
                """Logs nothing."""

        return Exchange


def data(value: Any) -> bytes:
    """Encodes one event."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


MODELS = Reply([b'{"object": "list", "data": [{"id": "the-model"}]}'], 200, "application/json")
