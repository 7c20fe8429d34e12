"""
Continuous batching: requests that share the model, and those that wait for a slot.

Between two steps requests join, end and leave. A step is one chunk of one prompt, then one token for each request whose
prompt is done: a long prompt slows the others down, by a chunk a token, and does not stop them.
"""

from __future__ import annotations

import math
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable

from engine.decoder.model import Model
from engine.memory.bandwidth import Traffic
from engine.serving.counters import Tally
from engine.serving.pace import Pace
from engine.serving.request_stream import FailedError, Request, StoppedError

MOST_WAITING = 64  # requests; each holds a thread and a connection
LOOK = 0.25  # seconds between looks whether the clients that wait are still there
LONGEST_RETRY = 60  # seconds


class FullError(Exception):
    """As many requests wait as may; the argument is when to come back, in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class ClosingError(Exception):
    """The engine is ending: it finishes what it has and takes nothing new."""


class Batch:
    """
    The requests of one model. `submit`, `refuse`, `idle` and `stop` are for any thread.

    `step` is for one only: the one that `start` makes, or the caller's own where it is not started.
    """

    def __init__(self, model: Model, pace: Pace, clock: Callable[[], float], most_waiting: int = MOST_WAITING) -> None:
        """`clock` is monotonic, in seconds."""
        self.model = model
        self.pace = pace
        self.tally = Tally(clock)
        self._clock = clock
        self._most_waiting = most_waiting
        self._traffic = Traffic(model.weights)
        self._changed = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []  # in the order in which they joined
        self._slots = list(range(model.slots))  # those that are free
        self._looked = clock()
        self._closing = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="batch", daemon=True)

    @property
    def running(self) -> int:
        """Requests that have a slot."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def closing(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._closing

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache that holds tokens of running requests; 0 when idle."""
        return sum(request.position for request in tuple(self._running)) / (self.model.slots * self.model.context)

    def start(self) -> None:
        """Begins to work, in a thread of its own."""
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Puts a request at the end of the queue; raises FullError or ClosingError."""
        with self._changed:
            if self._closing:
                raise ClosingError
            if len(self._running) + len(self._waiting) >= self.model.slots + self._most_waiting:
                raise FullError(self._retry_after())
            request.joined(self._clock())
            self._waiting.append(request)
            self._changed.notify_all()

    def refuse(self) -> None:
        """Takes nothing new from now on; what was taken goes on."""
        with self._changed:
            self._closing = True

    def idle(self, timeout: float) -> bool:
        """Waits until no request is left; False where that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy(), timeout)

    def stop(self, timeout: float) -> bool:
        """Ends whatever there is within one pass; False where that takes longer than `timeout` seconds."""
        with self._changed:
            self._closing = self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def step(self) -> None:
        """One chunk of the oldest prompt that is not done, and one token for each request whose prompt is."""
        self._drop_gone()
        self._admit()
        self._prefill()
        self._decode()

    def _run(self) -> None:
        while self._await_work():
            self.tally.enter("paced")
            self.pace.rest(self._nobody)
            self.tally.enter("sampling")
            began = self._clock()
            try:
                self.step()
            except Exception as error:  # whatever it is: these requests fail, and the engine lives for the next
                traceback.print_exc(file=sys.stderr)
                self._end_all("error", FailedError(f"{type(error).__name__} in the engine"), waiting=False)
            self.pace.spent(self._clock() - began)
        self._end_all("cancelled", StoppedError(), waiting=True)

    def _await_work(self) -> bool:
        """Waits for a request; False where the engine stops."""
        with self._changed:
            if not self._busy():
                self.tally.enter("idle")
                self._changed.wait_for(lambda: self._stopping or self._busy())
                self.pace.begin()
            return not self._stopping

    def _busy(self) -> bool:
        return bool(self._running or self._waiting)

    def _nobody(self) -> bool:
        """Asked while it rests: whether there is nothing to rest for."""
        self._drop_gone()
        return self._stopping or not self._busy()

    def _retry_after(self) -> int:
        """When the queue has probably been worked off."""
        ended = self.tally.whole
        mean = ended.total / max(1, sum(ended.counts))
        return min(max(1, math.ceil(mean * len(self._waiting) / self.model.slots)), LONGEST_RETRY)

    def _drop_gone(self) -> None:
        for request in [request for request in self._running if request.gone()]:
            self._end(request, "cancelled", StoppedError())
        now = self._clock()
        if now - self._looked < LOOK:
            return
        self._looked = now
        for request in [request for request in tuple(self._waiting) if request.gone()]:
            self._end(request, "cancelled", StoppedError())

    def _admit(self) -> None:
        with self._changed:
            while self._slots and self._waiting:
                if self._waiting[0].gone():
                    self._end(self._waiting[0], "cancelled", StoppedError())
                    continue
                request = self._waiting.popleft()
                request.slot = self._slots.pop(0)
                self._running.append(request)
                request.passes = self.model.prefill(request.prompt[:-1], request.slot)

    def _prefill(self) -> None:
        request = next((request for request in self._running if not request.prefilled), None)
        if request is None or request.passes is None:
            return
        self.tally.enter("prefill")
        done = next(request.passes)
        self.tally.prefilled(done - request.position, self.tally.enter("sampling"))
        request.position = done

    def _decode(self) -> None:
        ready = [request for request in self._running if request.prefilled]
        if not ready:
            return
        slots, positions = [request.slot for request in ready], [request.position for request in ready]
        self.tally.enter("decode")
        logits = self.model.decode([request.token for request in ready], slots, positions)  # (n, vocab)
        seconds = self.tally.enter("sampling")
        self.tally.decoded(len(ready), seconds, self._traffic.of(positions))
        for request, row in zip(ready, logits, strict=True):
            request.position += 1
            self._made(request, request.sampler(row))

    def _made(self, request: Request, token: int) -> None:
        now = self._clock()
        self.tally.made(first=request.made == 0, seconds=now - request.since)
        request.since = now
        piece = request.take(token)
        if piece.finish_reason is None:
            request.tell(piece)
        else:
            self._end(request, piece.finish_reason, piece)

    def _end(self, request: Request, reason: str, last: object) -> None:
        """Frees the slot first: who hears that his answer is whole finds it free."""
        with self._changed:
            if request in self._running:
                self._running.remove(request)
                self._slots.append(request.slot)
            else:
                self._waiting.remove(request)
            self.tally.ended(reason, self._clock() - request.arrived)
            self._changed.notify_all()
        request.tell(last)

    def _end_all(self, reason: str, last: Exception, *, waiting: bool) -> None:
        for request in [*self._running, *(self._waiting if waiting else ())]:
            self._end(request, reason, last)
