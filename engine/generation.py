"""One model, one decode at a time: turns, prefill, the decode loop and what it counts."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from engine.model import Model
from engine.pace import Pace
from engine.sampler import Sampler

MOST_WAITING = 64  # requests; each holds a thread and a connection
LOOK = 0.25  # seconds between looks whether a waiting client is still there

Gone = Callable[[], bool]


class LeftError(Exception):
    """The client has gone or the engine is stopping: nobody waits for the answer."""


class FullError(Exception):
    """As many requests wait as may."""


class Work(NamedTuple):
    """What has been done since the start; tokens and seconds of the same passes."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    decode_seconds: float = 0.0


class Turns:
    """First come, first served, one at a time."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most_waiting = most_waiting
        self._changed = threading.Condition()
        self._tickets: deque[object] = deque()

    @property
    def running(self) -> int:
        """Requests whose turn it is: 0 or 1."""
        return min(1, len(self._tickets))

    @property
    def waiting(self) -> int:
        """Requests whose turn will come."""
        return max(0, len(self._tickets) - 1)

    @contextmanager
    def turn(self, gone: Gone) -> Iterator[None]:
        """Waits for the turn and keeps it; raises FullError, or LeftError where `gone` is true first."""
        ticket = object()
        with self._changed:
            if len(self._tickets) > self._most_waiting:
                raise FullError
            self._tickets.append(ticket)
        try:
            self._wait(ticket, gone)
            yield
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def idle(self, timeout: float) -> bool:
        """Waits until nobody has the turn; False where that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._tickets, timeout)

    def _wait(self, ticket: object, gone: Gone) -> None:
        while True:
            with self._changed:
                if self._tickets[0] is ticket:
                    return
                self._changed.wait(LOOK)
            if gone():
                raise LeftError


class Generation:
    """The one sequence being generated; `tokens` may run only inside a turn."""

    def __init__(self, model: Model, pace: Pace, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self.model = model
        self.pace = pace
        self.turns = Turns()
        self._clock = clock
        self._stopping = threading.Event()
        self._work = Work()
        self._position = 0

    @property
    def work(self) -> Work:
        """What has been done; replaced whole after each pass, so a reader never sees half of one."""
        return self._work

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache that the running sequence fills, 0 when idle."""
        return self._position / self.model.context

    def stop(self, timeout: float) -> bool:
        """Ends whatever runs within one pass; False where that takes longer than `timeout` seconds."""
        self._stopping.set()
        return self.turns.idle(timeout)

    @contextmanager
    def turn(self, gone: Gone) -> Iterator[None]:
        """The right to generate; raises FullError or LeftError."""
        with self.turns.turn(lambda: self._stopping.is_set() or gone()):
            try:
                yield
            finally:
                self._position = 0

    def tokens(self, prompt: Sequence[int], most: int, sampler: Sampler, gone: Gone) -> Iterator[int]:
        """
        `most` tokens after the prompt (at least one token long); raises LeftError between two passes.

        The last prompt token is decoded, not prefilled: each generated token then costs exactly one decode pass, and
        tokens per decode second do not depend on how short the answers are.
        """
        self.pace.begin()
        self._prefill(prompt[:-1], gone)
        token = prompt[-1]
        for position in range(len(prompt) - 1, len(prompt) - 1 + most):
            self._rest(gone)
            token = self._decode(token, position, sampler)
            yield token

    def _prefill(self, tokens: Sequence[int], gone: Gone) -> None:
        passes = self.model.prefill(tokens)
        while True:
            self._rest(gone)
            started = self._clock()
            done = next(passes, None)
            seconds = self._clock() - started
            if done is None:
                return
            work = self._work
            self._work = work._replace(
                prompt_tokens=work.prompt_tokens + done - self._position, prompt_seconds=work.prompt_seconds + seconds
            )
            self._position = done
            self.pace.spent(seconds)

    def _decode(self, token: int, position: int, sampler: Sampler) -> int:
        started = self._clock()
        logits = self.model.decode([token], [0], [position])[0]  # (vocab,)
        seconds = self._clock() - started
        self._position = position + 1
        self.pace.spent(seconds)
        work = self._work
        self._work = work._replace(
            generated_tokens=work.generated_tokens + 1, decode_seconds=work.decode_seconds + seconds
        )
        return sampler(logits)

    def _rest(self, gone: Gone) -> None:
        self.pace.rest(lambda: self._stopping.is_set() or gone())
        if self._stopping.is_set() or gone():
            raise LeftError
