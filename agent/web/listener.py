"""
The listening socket: limits the number of connections, and the time that each may take to send and to receive.

aiohttp has no timeout for a request that arrives a byte at a time, and no limit of connections. Both are here, between
the socket and its protocol. A client is cut off after HEAD_TIMEOUT without a whole request head, and after
ANSWER_TIMEOUT without taking any of its answer. At MAX_CONNECTIONS the connection that has been idle longest is closed
for a new one, even before its TLS handshake. So strangers who only hold connections open cannot keep a scrape out.
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
"""Connections at a time, TLS handshakes included; below the usual limit of 1024 open files."""

HEAD_TIMEOUT = 10.0
"""Seconds from a request's first byte, or from connecting, to the end of its head; also for the TLS handshake."""

ANSWER_TIMEOUT = 30.0
"""Seconds in which a client must take some of its answer."""

MAX_UNSENT = 32 << 20
"""Bytes of answers that wait for slow readers, of all connections together; an answer of a query can have 9 MB."""

IDLE_TIMEOUT = 120.0
"""Seconds that a connection may stay without a request; longer than any usual scrape interval."""

MAX_UNPARSED = 8 << 20
"""Bytes between one request head and the next: far more than access.py lets a body have."""

BACKLOG = 1024
ACCEPT_RETRY = 0.1  # seconds between attempts while the system has no file descriptor left
ACCEPT_LOG_INTERVAL = 60.0  # seconds without a fault after which the next one is logged again

ProtocolFactory = Callable[[], asyncio.Protocol]


class Listener:
    """Accepts connections. `context` may be replaced at any time; new connections use it."""

    def __init__(self, make_protocol: ProtocolFactory, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.refused_connections = 0
        self._make_protocol = make_protocol
        self._sockets: list[socket.socket] = []
        self._accept_tasks: list[asyncio.Task[None]] = []
        # Ordered by the time since which they are idle; connections in their TLS handshake are included.
        self._guards: dict[asyncio.BaseProtocol, ConnectionGuard] = {}
        self._log = structlog.get_logger()

    def listen(self, host: str, port: int) -> int:
        """Opens the socket and returns its port; the kernel chooses one for port 0. Raises OSError."""
        # Listens at every address of the name (localhost has several), with one port.
        addresses = list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        for family, kind, _, _, address in addresses:
            try:
                port = self._listen_at_address(family, kind, (address[0], port, *address[2:]))
            except OSError as error:
                absent = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                last_chance = not self._sockets and address is addresses[-1][4]
                if last_chance or not absent:
                    raise
                self._log.info("not listening: this host has no such address", address=address[0])
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
        """The number of connections, TLS handshakes included."""
        return len(self._guards)

    def find_guard(self, protocol: asyncio.BaseProtocol) -> ConnectionGuard | None:
        """Returns the guard of a connection; None after it closed."""
        return self._guards.get(protocol)

    async def close(self) -> None:
        """Stops listening; open connections are left to their protocols."""
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
            # Yields: a flood accepted in one go would push out a client before its request is read.
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
        # A callback: the task may be cancelled before its first line.
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
        except (
            OSError
        ):  # no TLS, no valid certificate, or gone: the client's fault, not logged since it can come in floods
            guard.unregister()
            connection.close()


class ConnectionGuard(asyncio.Protocol):
    """Enforces the time limits of one connection, between its socket and its protocol."""

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
        """True while the client must act: send a request, or take its answer."""
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

    @property
    def unsent_bytes(self) -> int:
        """Bytes of its answer that the client has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        self._write_timer = asyncio.get_running_loop().call_later(ANSWER_TIMEOUT, self.abort)
        self._inner.pause_writing()
        self._make_room_for_answer()

    def _make_room_for_answer(self) -> None:
        """Cuts off the other slow readers, the one that has waited longest first, until all answers fit."""
        slow = [guard for guard in self._guards.values() if guard._write_timer is not None and guard is not self]
        slow.sort(key=lambda guard: guard._write_timer.when() if guard._write_timer else 0.0)
        unsent = self.unsent_bytes + sum(guard.unsent_bytes for guard in slow)
        for guard in slow:
            if unsent <= MAX_UNSENT:
                return
            unsent -= guard.unsent_bytes
            guard.abort()

    def resume_writing(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._inner.resume_writing()

    def on_head_received(self) -> None:
        """Stops the timer of the head; the body has its own limit."""
        self._received = 0
        self._request_begun = True
        if self._timer is not None:
            self._timer.cancel()

    def on_request_received(self) -> None:
        """Marks the connection as busy: the request is complete and allowed."""
        self._answering = True

    def on_answer_sent(self) -> None:
        """Marks the connection as idle until its next request."""
        if self._inner not in self._guards:
            return
        self._guards[self._inner] = self._guards.pop(self._inner)  # moves behind the connections that were idle before
        self._answering = self._request_begun = False
        self._restart_timer(IDLE_TIMEOUT)

    def abort(self) -> None:
        """Closes the connection at once and frees its slot."""
        self.unregister()
        if self._transport is not None:
            self._transport.abort()
        elif self.handshake is not None:
            self.handshake.cancel()

    def unregister(self) -> None:
        """Stops counting the connection."""
        self._guards.pop(self._inner, None)

    def _restart_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)
