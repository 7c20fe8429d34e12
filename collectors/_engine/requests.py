"""Sends requests side by side, each in a thread, and no second one to who has not answered the first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

_T = TypeVar("_T")


class _Request(threading.Thread, Generic[_T]):
    """One request in progress; a daemon thread, so that a dripped answer cannot keep the process alive."""

    def __init__(self, name: str, send: Callable[[], _T | None], condition: threading.Condition) -> None:
        super().__init__(name=f"ask {name}", daemon=True)
        self.answer: _T | None = None
        self.done = False
        self._send = send
        self._condition = condition

    def run(self) -> None:
        """Sends the request, and notifies the waiting pass."""
        answer = None
        try:
            answer = self._send()
        finally:
            with self._condition:
                self.answer, self.done = answer, True
                self._condition.notify_all()


class Round(NamedTuple, Generic[_T]):
    """The answers that came in time, None for a failed request, and why the others are missing, by name."""

    answers: Mapping[str, _T | None]
    missing: Mapping[str, str]


class OpenRequests(Generic[_T]):
    """The requests that are open from pass to pass, by name."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._requests: dict[str, _Request[_T]] = {}

    def send(self, senders: Mapping[str, Callable[[], _T | None]], timeout: float) -> Round[_T]:
        """Sends all at once and waits; an answer to an earlier pass's request is too old and is dropped."""
        self._requests = {name: request for name, request in self._requests.items() if not request.done}
        overdue = self._requests.keys() & senders.keys()
        new = {
            name: _Request(name, send, self._condition) for name, send in senders.items() if name not in self._requests
        }
        self._requests.update(new)
        for request in new.values():
            request.start()
        with self._condition:
            self._condition.wait_for(lambda: all(request.done for request in new.values()), timeout=timeout)
            answers = {name: request.answer for name, request in new.items() if request.done}
        missing = dict.fromkeys(overdue, "has not answered the request of an earlier pass")
        missing |= dict.fromkeys(new.keys() - answers.keys(), f"no complete answer within {timeout:g} s")
        return Round(answers, missing)
