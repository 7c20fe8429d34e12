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

MOST = 256
"""Connections at a time, those that still agree on TLS among them: below the usual limit of 1024 open files."""

HEAD = 10.0
"""Seconds from a request's first byte, or from connecting, to the end of its head; and for TLS to be agreed on."""

ANSWER = 30.0
"""Seconds in which a client must take something of what it asked for."""

IDLE = 120.0
"""Seconds that a connection may stay without a request: longer than the interval of any usual scrape."""

MOST_AT_ONCE = 8 << 20
"""Bytes that may come from one head to the next: far more than a body may have (door.py), so it is refused already."""

BACKLOG = 1024
AGAIN = 0.1  # seconds until accepting is tried again after the system had no file descriptor left
QUIET = 60.0  # seconds without such a fault after which it is news again

Make = Callable[[], asyncio.Protocol]


class Listener:
    """Accepts connections; `context` may be exchanged at any time, and holds for those that come after."""

    def __init__(self, make: Make, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.turned_away = 0
        self._make = make
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        # In the order in which they began to wait; those that still agree on TLS are among them.
        self._guards: dict[asyncio.BaseProtocol, Guard] = {}
        self._log = structlog.get_logger()

    def listen(self, host: str, port: int) -> int:
        """Opens the socket; returns the port, which the kernel chose where 0 was asked for. Raises OSError."""
        # A name can have several addresses, as localhost has: all of them, with one port.
        found = list(dict.fromkeys(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        for family, kind, _, _, address in found:
            try:
                port = self._listen_at(family, kind, (address[0], port, *address[2:]))
            except OSError as error:
                absent = error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
                last_chance = not self._sockets and address is found[-1][4]
                if last_chance or not absent:
                    raise
                self._log.info("not listening there: this host has no such address", address=address[0])
        return port

    def _listen_at(self, family: int, kind: int, address: tuple[Any, ...]) -> int:
        one = socket.socket(family, kind)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setblocking(False)
            one.bind(address)
            one.listen(BACKLOG)
        except OSError:
            one.close()
            raise
        self._sockets.append(one)
        accepting = asyncio.get_running_loop().create_task(self._accept_for_ever(one), name="accept")
        self._accepting.append(accepting)
        return int(one.getsockname()[1])

    @property
    def connections(self) -> int:
        """How many are connected, or are agreeing on TLS."""
        return len(self._guards)

    def guard(self, protocol: asyncio.BaseProtocol) -> Guard | None:
        """Who watches over a connection; None once it has gone."""
        return self._guards.get(protocol)

    async def close(self) -> None:
        """Stops listening; connections that are there are their protocols' to end."""
        tasks = [*self._accepting, *(guard.greeting for guard in self._guards.values() if guard.greeting)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in self._sockets:
            one.close()

    async def _accept_for_ever(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        told, failed = None, 0.0
        while True:
            try:
                connection, _ = await loop.sock_accept(listening)
            except OSError as error:  # no file descriptors left, or the client has gone already
                if error.errno != told or loop.time() > failed + QUIET:
                    self._log.warning("a connection cannot be accepted", reason=error.strerror)
                told, failed = error.errno, loop.time()
                await asyncio.sleep(AGAIN)
                continue
            if self._room():
                self._take(connection)
            else:
                self.turned_away += 1
                connection.close()
            # A flood would be accepted at one go, and whoever came first make room before anything he said was read.
            await asyncio.sleep(0)

    def _room(self) -> bool:
        if self.connections < MOST:
            return True
        idle = next((guard for guard in self._guards.values() if guard.idle), None)
        if idle is None:
            return False
        self.turned_away += 1
        idle.abort()
        return True

    def _take(self, connection: socket.socket) -> None:
        guard = Guard(self._make(), self._guards)
        guard.greeting = asyncio.get_running_loop().create_task(self._greet(connection, guard), name="greet")
        # Not in the task itself, which may be cancelled before its first line.
        guard.greeting.add_done_callback(lambda task: connection.close() if task.cancelled() else None)

    async def _greet(self, connection: socket.socket, guard: Guard) -> None:
        loop = asyncio.get_running_loop()
        limit = None if self.context is None else HEAD
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: guard, connection, ssl=self.context, ssl_handshake_timeout=limit, ssl_shutdown_timeout=limit
            )
        except OSError:  # no TLS, no certificate that holds, or gone: the client's affair, and it can come in floods
            guard.leave()
            connection.close()


class Guard(asyncio.Protocol):
    """Stands between one connection and its protocol, and looks at the clock."""

    def __init__(self, inner: asyncio.Protocol, guards: dict[asyncio.BaseProtocol, Guard]) -> None:
        self.greeting: asyncio.Task[None] | None = None
        self._inner = inner
        self._guards = guards
        self._guards[inner] = self
        self._transport: asyncio.Transport | None = None
        self._limit: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._came = 0
        self._waiting = True
        self._working = False

    @property
    def idle(self) -> bool:
        """Whether it is the client's turn: to send a request, or to take the answer to one."""
        return not self._working or self._unread is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._cut_in(HEAD)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.leave()
        for handle in (self._limit, self._unread):
            if handle is not None:
                handle.cancel()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._working and not self._waiting:
            self._waiting = True
            self._cut_in(HEAD)
        self._came += len(data)
        if self._came > MOST_AT_ONCE:
            self.abort()
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._unread = asyncio.get_running_loop().call_later(ANSWER, self.abort)
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self._inner.resume_writing()

    def headed(self) -> None:
        """The head of a request is there; its body has a limit of its own."""
        self._came = 0
        self._waiting = True
        if self._limit is not None:
            self._limit.cancel()

    def begun(self) -> None:
        """All of a request is there, and it may be answered: now it is our turn."""
        self._working = True

    def ended(self) -> None:
        """The request has its answer; the next may come, or not."""
        if self._inner not in self._guards:
            return
        self._guards[self._inner] = self._guards.pop(self._inner)  # behind those that were idle before
        self._working = self._waiting = False
        self._cut_in(IDLE)

    def abort(self) -> None:
        """Cuts it off at once; its place is free."""
        self.leave()
        if self._transport is not None:
            self._transport.abort()
        elif self.greeting is not None:
            self.greeting.cancel()

    def leave(self) -> None:
        """It is no longer counted."""
        self._guards.pop(self._inner, None)

    def _cut_in(self, seconds: float) -> None:
        if self._limit is not None:
            self._limit.cancel()
        self._limit = asyncio.get_running_loop().call_later(seconds, self.abort)
