"""
The listening socket: how many may be connected, and how long each may take for what it sends and receives.

aiohttp has no time-out for a request that comes a byte at a time, nor a limit of connections; both are here, between
the socket and its protocol. A client that has sent no whole request in HEAD seconds is cut off, one that takes nothing
of its answer for ANSWER seconds too. When all places are taken, whoever has waited longest without a request under
way makes room, also before TLS is agreed on, so that strangers who only hold connections open cannot keep a scrape out.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

import structlog

MAX_CONNECTIONS = 256
"""Connections at a time, those that still agree on TLS among them: below the usual limit of 1024 open files."""

HEAD_TIMEOUT = 10.0
"""Seconds from a request's first byte, or from connecting, to the end of its head; and for TLS to be agreed on."""

ANSWER_TIMEOUT = 30.0
"""Seconds in which a client must take something of what it asked for."""

IDLE_TIMEOUT = 120.0
"""Seconds that a connection may stay without a request: longer than the interval of any usual scrape."""

MAX_UNPARSED = 8 << 20
"""Bytes that may come from one head to the next: far more than a body may have (door.py), so it is refused already."""

BACKLOG = 1024
ACCEPT_RETRY = 0.1  # seconds until accepting is tried again after the system had no file descriptor left
ACCEPT_LOG_INTERVAL = 60.0  # seconds without such a fault after which it is news again

ProtocolFactory = Callable[[], asyncio.Protocol]


class Listener:
    """Accepts connections; `context` may be exchanged at any time, and holds for those that come after."""

    def __init__(self, make_protocol: ProtocolFactory, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.refused_connections = 0
        self._make_protocol = make_protocol
        self._sockets: list[socket.socket] = []
        self._accept_tasks: list[asyncio.Task[None]] = []
        # In the order in which they began to wait; those that still agree on TLS are among them.
        self._guards: dict[asyncio.BaseProtocol, ConnectionGuard] = {}
        self._log = structlog.get_logger()

    def listen(self, host: str, port: int) -> int:
        """Opens the socket; returns the port, which the kernel chose where 0 was asked for. Raises OSError."""
        # A name can have several addresses, as localhost has: all of them, with one port.
        addresses = list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        for family, kind, _, _, address in addresses:
            try:
                port = self._listen_at_address(family, kind, (address[0], port, *address[2:]))
            except OSError as error:
                absent = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                last_chance = not self._sockets and address is addresses[-1][4]
                if last_chance or not absent:
                    raise
                self._log.info("not listening there: this host has no such address", address=address[0])
        return port

    def _listen_at_address(self, family: int, kind: int, address: tuple[Any, ...]) -> int:
        server_socket = socket.socket(family, kind)
        try:
            server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server_socket.setblocking(False)
            server_socket.bind(address)
            server_socket.listen(BACKLOG)
        except OSError:
            server_socket.close()
            raise
        self._sockets.append(server_socket)
        accept_task = asyncio.get_running_loop().create_task(self._accept_connections(server_socket), name="accept")
        self._accept_tasks.append(accept_task)
        return int(server_socket.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many are connected, or are agreeing on TLS."""
        return len(self._guards)

    def find_guard(self, protocol: asyncio.BaseProtocol) -> ConnectionGuard | None:
        """Who watches over a connection; None once it has gone."""
        return self._guards.get(protocol)

    async def close(self) -> None:
        """Stops listening; connections that are there are their protocols' to end."""
        tasks = [*self._accept_tasks, *(guard.handshake for guard in self._guards.values() if guard.handshake)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server_socket in self._sockets:
            server_socket.close()

    async def _accept_connections(self, server_socket: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        last_errno, failed_at = None, 0.0
        while True:
            try:
                connection, _ = await loop.sock_accept(server_socket)
            except OSError as error:  # no file descriptors left, or the client has gone already
                if error.errno != last_errno or loop.time() > failed_at + ACCEPT_LOG_INTERVAL:
                    self._log.warning("a connection cannot be accepted", reason=error.strerror)
                last_errno, failed_at = error.errno, loop.time()
                await asyncio.sleep(ACCEPT_RETRY)
                continue
            if self._make_room():
                self._start_connection(connection)
            else:
                self.refused_connections += 1
                connection.close()
            # A flood would be accepted at one go, and whoever came first make room before anything he said was read.
            await asyncio.sleep(0)

    def _make_room(self) -> bool:
        if self.connections < MAX_CONNECTIONS:
            return True
        idle = next((guard for guard in self._guards.values() if guard.is_idle), None)
        if idle is None:
            return False
        self.refused_connections += 1
        idle.abort()
        return True

    def _start_connection(self, connection: socket.socket) -> None:
        guard = ConnectionGuard(self._make_protocol(), self._guards)
        guard.handshake = asyncio.get_running_loop().create_task(
            self._perform_handshake(connection, guard), name="greet"
        )
        # Not in the task itself, which may be cancelled before its first line.
        guard.handshake.add_done_callback(lambda task: connection.close() if task.cancelled() else None)

    async def _perform_handshake(self, connection: socket.socket, guard: ConnectionGuard) -> None:
        loop = asyncio.get_running_loop()
        timeout = None if self.context is None else HEAD_TIMEOUT
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: guard, connection, ssl=self.context, ssl_handshake_timeout=timeout, ssl_shutdown_timeout=timeout
            )
        except OSError:  # no TLS, no certificate that holds, or gone: the client's affair, and it can come in floods
            guard.unregister()
            connection.close()


class ConnectionGuard(asyncio.Protocol):
    """Stands between one connection and its protocol, and looks at the clock."""

    def __init__(self, inner: asyncio.Protocol, guards: dict[asyncio.BaseProtocol, ConnectionGuard]) -> None:
        self.handshake: asyncio.Task[None] | None = None
        self._inner = inner
        self._guards = guards
        self._guards[inner] = self
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._received = 0
        self._request_begun = True
        self._answering = False

    @property
    def is_idle(self) -> bool:
        """Whether it is the client's turn: to send a request, or to take the answer to one."""
        return not self._answering or self._write_timer is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._restart_timer(HEAD_TIMEOUT)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.unregister()
        for handle in (self._timer, self._write_timer):
            if handle is not None:
                handle.cancel()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._answering and not self._request_begun:
            self._request_begun = True
            self._restart_timer(HEAD_TIMEOUT)
        self._received += len(data)
        if self._received > MAX_UNPARSED:
            self.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._write_timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, self.abort)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._inner.resume_writing()

    def on_head_received(self) -> None:
        """The head of a request is there; its body has a limit of its own."""
        self._received = 0
        self._request_begun = True
        if self._timer is not None:
            self._timer.cancel()

    def on_request_received(self) -> None:
        """All of a request is there, and it may be answered: now it is our turn."""
        self._answering = True

    def on_answer_sent(self) -> None:
        """The request has its answer; the next may come, or not."""
        if self._inner not in self._guards:
            return
        self._guards[self._inner] = self._guards.pop(self._inner)  # behind those that were idle before
        self._answering = self._request_begun = False
        self._restart_timer(IDLE_TIMEOUT)

    def abort(self) -> None:
        """Cuts it off at once; its place is free."""
        self.unregister()
        if self._transport is not None:
            self._transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def unregister(self) -> None:
        """It is no longer counted."""
        self._guards.pop(self._inner, None)

    def _restart_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)
