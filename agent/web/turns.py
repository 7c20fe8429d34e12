"""Queues that take turns, so that who fills one keeps nobody in another waiting."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address
from typing import Generic, TypeVar

_Job = TypeVar("_Job")
_IPV6_PREFIX = 64  # bits: one customer has all addresses below them


class Turns(Generic[_Job]):
    """Jobs of several queues; any thread may add and take."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Hashable, deque[_Job]] = OrderedDict()
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, key: Hashable, job: _Job, limit: int) -> _Job | None:
        """Adds a job to the queue of `key`; beyond `limit` jobs removes and returns the oldest of the longest queue."""
        with self._changed:
            self._queues.setdefault(key, deque()).append(job)
            self._changed.notify()
            if len(self) <= limit:
                return None
            longest = max(self._queues, key=lambda name: len(self._queues[name]))
            return self._pop(longest)

    def close(self) -> None:
        """Ends `take`; jobs that wait are dropped."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self) -> _Job | None:
        """Waits for a job and returns it, None once closed; the queues come one after the other, each with one job."""
        with self._changed:
            self._changed.wait_for(lambda: self._queues or self._is_closed)
            if self._is_closed:
                return None
            key = next(iter(self._queues))
            self._queues.move_to_end(key)
            return self._pop(key)

    def _pop(self, key: Hashable) -> _Job:
        job = self._queues[key].popleft()
        if not self._queues[key]:
            del self._queues[key]
        return job


def group_address(address: str) -> str:
    """Returns the address, of IPv6 its network: a stranger with a network of addresses is one stranger."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> _IPV6_PREFIX << _IPV6_PREFIX))
    return str(parsed)
