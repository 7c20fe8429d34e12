"""Alertmanagers that turn hostile: errors and answers without end, and a few bytes that unpack to a gigabyte."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.hostile_peers import compress_zeros

PIECE = b"a" * (1 << 20)
ENDLESS = 4096  # pieces: 4 GiB


class HostilePeer(BaseHTTPRequestHandler):
    """Answers as its server's attack says, once the gate is open; before that like a sound Alertmanager."""

    server: HostileServer

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        attack = self.server.attack if self.server.gate.is_set() else None
        with contextlib.suppress(OSError):  # the agent has hung up, as it should
            attack(self) if attack is not None else self.answer(200, b"[]")
        self.server.hits += attack is not None
        self.close_connection = True

    do_POST = do_GET  # noqa: N815  http.server's own names

    def answer(self, status: int, body: bytes | None, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Sends an answer; without a body one that never ends."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if body is not None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for piece in [PIECE] * ENDLESS if body is None else [body]:
            self.wfile.write(piece)

    def log_message(self, *_: object) -> None:
        return


class HostileServer(ThreadingHTTPServer):
    """One peer; `hits` counts the attacks that the agent has outlived or cut off."""

    daemon_threads = True

    def __init__(self, attack: Callable[[HostilePeer], None], gate: threading.Event) -> None:
        super().__init__(("127.0.0.1", 0), HostilePeer)
        self.attack, self.gate, self.hits = attack, gate, 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Says nothing: whoever attacks is hung up on."""


ATTACKS: tuple[Callable[[HostilePeer], None], ...] = (
    lambda peer: peer.answer(500, None),
    lambda peer: peer.answer(200, None),
    lambda peer: peer.answer(500, compress_zeros(), (("Content-Encoding", "gzip"),)),
    lambda peer: peer.answer(200, compress_zeros(), (("Content-Encoding", "gzip"),)),
    lambda peer: peer.answer(400, b'{"x":' * 100_000),
)


@contextlib.contextmanager
def serve_hostile_peers(gate: threading.Event) -> Iterator[list[HostileServer]]:
    """Serves one peer for each attack."""
    servers = [HostileServer(attack, gate) for attack in ATTACKS]
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()
