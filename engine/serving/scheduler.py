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
from engine.memory.bandwidth import DecodeTraffic
from engine.serving.counters import Counters
from engine.serving.pace import Pace
from engine.serving.request_stream import GenerationFailedError, GenerationRequest, StoppedError

MAX_WAITING = 64  # requests; each holds a thread and a connection
CLIENT_CHECK_INTERVAL = 0.25  # seconds between looks whether the clients that wait are still there
MAX_RETRY_AFTER = 60  # seconds


class QueueFullError(Exception):
    """As many requests wait as may; the argument is when to come back, in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class ClosingError(Exception):
    """The engine is ending: it finishes what it has and takes nothing new."""


class BatchScheduler:
    """
    The requests of one model. `submit`, `refuse`, `idle` and `stop` are for any thread.

    `step` is for one only: the one that `start` makes, or the caller's own where it is not started.
    """

    def __init__(self, model: Model, pace: Pace, clock: Callable[[], float], max_waiting: int = MAX_WAITING) -> None:
        """`clock` is monotonic, in seconds."""
        self.model = model
        self.pace = pace
        self.counters = Counters(clock)
        self._clock = clock
        self._max_waiting = max_waiting
        self._traffic = DecodeTraffic(model.weights)
        self._changed = threading.Condition()
        self._waiting: deque[GenerationRequest] = deque()
        self._running: list[GenerationRequest] = []  # in the order in which they joined
        self._free_slots = list(range(model.slots))  # those that are free
        self._last_client_check = clock()
        self._closing = False
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="batch", daemon=True)

    @property
    def running_count(self) -> int:
        """Requests that have a slot."""
        return len(self._running)

    @property
    def waiting_count(self) -> int:
        """Requests that wait for a slot."""
        return len(self._waiting)

    @property
    def is_closing(self) -> bool:
        """Whether nothing new is taken any more."""
        return self._closing

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache that holds tokens of running requests; 0 when idle."""
        return sum(request.position for request in tuple(self._running)) / (self.model.slots * self.model.context)

    def start(self) -> None:
        """Begins to work, in a thread of its own."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        """Puts a request at the end of the queue; raises FullError or ClosingError."""
        with self._changed:
            if self._closing:
                raise ClosingError
            if len(self._running) + len(self._waiting) >= self.model.slots + self._max_waiting:
                raise QueueFullError(self._retry_after())
            request.mark_queued(self._clock())
            self._waiting.append(request)
            self._changed.notify_all()

    def stop_accepting(self) -> None:
        """Takes nothing new from now on; what was taken goes on."""
        with self._changed:
            self._closing = True

    def wait_until_idle(self, timeout: float) -> bool:
        """Waits until no request is left; False where that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._has_requests(), timeout)

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
        self._drop_abandoned()
        self._admit()
        self._prefill()
        self._decode()

    def _run(self) -> None:
        while self._await_work():
            self.counters.enter_phase("paced")
            self.pace.rest(self._should_stop_resting)
            self.counters.enter_phase("sampling")
            started = self._clock()
            try:
                self.step()
            except Exception as error:  # whatever it is: these requests fail, and the engine lives for the next
                traceback.print_exc(file=sys.stderr)
                self._finish_all(
                    "error", GenerationFailedError(f"{type(error).__name__} in the engine"), include_waiting=False
                )
            self.pace.charge(self._clock() - started)
        self._finish_all("cancelled", StoppedError(), include_waiting=True)

    def _await_work(self) -> bool:
        """Waits for a request; False where the engine stops."""
        with self._changed:
            if not self._has_requests():
                self.counters.enter_phase("idle")
                self._changed.wait_for(lambda: self._stopping or self._has_requests())
                self.pace.begin_work()
            return not self._stopping

    def _has_requests(self) -> bool:
        return bool(self._running or self._waiting)

    def _should_stop_resting(self) -> bool:
        """Asked while it rests: whether there is nothing to rest for."""
        self._drop_abandoned()
        return self._stopping or not self._has_requests()

    def _retry_after(self) -> int:
        """When the queue has probably been worked off."""
        durations = self.counters.request_seconds
        mean = durations.total / max(1, sum(durations.counts))
        return min(max(1, math.ceil(mean * len(self._waiting) / self.model.slots)), MAX_RETRY_AFTER)

    def _drop_abandoned(self) -> None:
        for request in [request for request in self._running if request.is_abandoned()]:
            self._finish_request(request, "cancelled", StoppedError())
        now = self._clock()
        if now - self._last_client_check < CLIENT_CHECK_INTERVAL:
            return
        self._last_client_check = now
        for request in [request for request in tuple(self._waiting) if request.is_abandoned()]:
            self._finish_request(request, "cancelled", StoppedError())

    def _admit(self) -> None:
        with self._changed:
            while self._free_slots and self._waiting:
                if self._waiting[0].is_abandoned():
                    self._finish_request(self._waiting[0], "cancelled", StoppedError())
                    continue
                request = self._waiting.popleft()
                request.slot = self._free_slots.pop(0)
                self._running.append(request)
                request.prefill_passes = self.model.prefill(request.prompt[:-1], request.slot)

    def _prefill(self) -> None:
        request = next((request for request in self._running if not request.is_prefilled), None)
        if request is None or request.prefill_passes is None:
            return
        self.counters.enter_phase("prefill")
        position = next(request.prefill_passes)
        self.counters.count_prefill(position - request.position, self.counters.enter_phase("sampling"))
        request.position = position

    def _decode(self) -> None:
        ready = [request for request in self._running if request.is_prefilled]
        if not ready:
            return
        slots, positions = [request.slot for request in ready], [request.position for request in ready]
        self.counters.enter_phase("decode")
        logits = self.model.decode([request.token for request in ready], slots, positions)  # (n, vocab)
        seconds = self.counters.enter_phase("sampling")
        self.counters.count_decode(len(ready), seconds, self._traffic.count_bytes(positions))
        for request, row in zip(ready, logits, strict=True):
            request.position += 1
            self._add_token(request, request.sampler(row))

    def _add_token(self, request: GenerationRequest, token: int) -> None:
        now = self._clock()
        self.counters.count_token(first=request.generated_count == 0, seconds=now - request.last_token_at)
        request.last_token_at = now
        piece = request.add_token(token)
        if piece.finish_reason is None:
            request.send(piece)
        else:
            self._finish_request(request, piece.finish_reason, piece)

    def _finish_request(self, request: GenerationRequest, reason: str, outcome: object) -> None:
        """Frees the slot first: who hears that his answer is whole finds it free."""
        with self._changed:
            if request in self._running:
                self._running.remove(request)
                self._free_slots.append(request.slot)
            else:
                self._waiting.remove(request)
            self.counters.count_finish(reason, self._clock() - request.arrived_at)
            self._changed.notify_all()
        request.send(outcome)

    def _finish_all(self, reason: str, outcome: Exception, *, include_waiting: bool) -> None:
        for request in [*self._running, *(self._waiting if include_waiting else ())]:
            self._finish_request(request, reason, outcome)
