"""
A UDP relay on loopback that delays or drops packets of a BMC.

`python -m bench.relay PORT TARGET MILLISECONDS` relays until a signal.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

_MAX_DATAGRAM = 65535


class Relay:
    """Relays packets between the clients of `port` and the target; delays answers, and drops some packets."""

    def __init__(self, target: int, *, port: int = 0, delay: float = 0.0) -> None:
        """`delay` is the seconds by which each answer is delayed; it may change while the relay runs."""
        self.delay = delay
        self.should_drop: Callable[[], bool] = lambda: False
        """Called for each packet of either direction."""
        self.packets = 0
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listener.bind(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._target = ("127.0.0.1", target)
        self._upstreams: dict[tuple[str, int], socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._delayed: list[tuple[float, int, bytes, tuple[str, int]]] = []
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self.run, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self._thread.join()
        for open_socket in (self._listener, *self._upstreams.values()):
            open_socket.close()
        self._selector.close()

    def run(self) -> None:
        """Relays until the end of the `with` block."""
        while not self._stop_event.is_set():
            remaining = self._delayed[0][0] - time.monotonic() if self._delayed else 0.1
            for key, _ in self._selector.select(max(0.0, min(remaining, 0.1))):
                ready_socket = key.fileobj
                assert isinstance(ready_socket, socket.socket)
                self._forward(
                    *ready_socket.recvfrom(_MAX_DATAGRAM)
                ) if ready_socket is self._listener else self._receive_response(ready_socket, key.data)
            while self._delayed and self._delayed[0][0] <= time.monotonic():
                _, _, packet, client = heapq.heappop(self._delayed)
                self._listener.sendto(packet, client)

    def _forward(self, packet: bytes, client: tuple[str, int]) -> None:
        if client not in self._upstreams:
            upstream = self._upstreams[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            upstream.connect(self._target)
            upstream.setblocking(False)
            self._selector.register(upstream, selectors.EVENT_READ, client)
        self.packets += 1
        if not self.should_drop():
            self._send(self._upstreams[client], packet)

    @staticmethod
    def _send(upstream: socket.socket, packet: bytes) -> None:
        try:
            upstream.send(packet)
        except ConnectionRefusedError:
            return  # the target is down: the packet is lost, as on a real network

    def _receive_response(self, upstream: socket.socket, client: tuple[str, int]) -> None:
        try:
            packet = upstream.recv(_MAX_DATAGRAM)
        except (ConnectionRefusedError, BlockingIOError):
            return  # as above; or `send` has consumed the refusal that made the socket readable
        if not self.should_drop():
            heapq.heappush(self._delayed, (time.monotonic() + self.delay, self.packets, packet, client))


if __name__ == "__main__":
    listen_port, target_port, milliseconds = sys.argv[1:]
    Relay(int(target_port), port=int(listen_port), delay=float(milliseconds) / 1000).run()
