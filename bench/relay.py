"""
A relay for UDP on loopback that makes a BMC slow, or its network bad.

`python -m bench.relay PORT TARGET MILLISECONDS` relays until it is ended.
"""

from __future__ import annotations

import heapq
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable

_LONGEST = 65535


class Relay:
    """Between clients that know only `port` and the target; answers are held back, and some are lost."""

    def __init__(self, target: int, *, port: int = 0, delay: float = 0.0) -> None:
        """`delay` is seconds for which each answer is held back; it may be changed while the relay runs."""
        self.delay = delay
        self.lost: Callable[[], bool] = lambda: False
        """Asked for each packet of either direction."""
        self.packets = 0
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", port))
        self.port = int(self._front.getsockname()[1])
        self._target = ("127.0.0.1", target)
        self._backs: dict[tuple[str, int], socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._front, selectors.EVENT_READ)
        self._waiting: list[tuple[float, int, bytes, tuple[str, int]]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self.run, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for door in (self._front, *self._backs.values()):
            door.close()
        self._selector.close()

    def run(self) -> None:
        """Relays until the end of the `with`."""
        while not self._ended.is_set():
            left = self._waiting[0][0] - time.monotonic() if self._waiting else 0.1
            for key, _ in self._selector.select(max(0.0, min(left, 0.1))):
                door = key.fileobj
                assert isinstance(door, socket.socket)
                self._forth(*door.recvfrom(_LONGEST)) if door is self._front else self._back(door, key.data)
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                _, _, packet, client = heapq.heappop(self._waiting)
                self._front.sendto(packet, client)

    def _forth(self, packet: bytes, client: tuple[str, int]) -> None:
        if client not in self._backs:
            back = self._backs[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            back.connect(self._target)
            back.setblocking(False)
            self._selector.register(back, selectors.EVENT_READ, client)
        self.packets += 1
        if not self.lost():
            self._send(self._backs[client], packet)

    @staticmethod
    def _send(back: socket.socket, packet: bytes) -> None:
        try:
            back.send(packet)
        except ConnectionRefusedError:
            return  # the target is not up: what is sent there is lost, as on a real network

    def _back(self, back: socket.socket, client: tuple[str, int]) -> None:
        try:
            packet = back.recv(_LONGEST)
        except (ConnectionRefusedError, BlockingIOError):
            return  # as above; or a send took the refusal that made it readable, and nothing is there
        if not self.lost():
            heapq.heappush(self._waiting, (time.monotonic() + self.delay, self.packets, packet, client))


if __name__ == "__main__":
    own, target, milliseconds = sys.argv[1:]
    Relay(int(target), port=int(own), delay=float(milliseconds) / 1000).run()
