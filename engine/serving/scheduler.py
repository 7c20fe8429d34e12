"""
Continuous batching: the requests that share the model, and the queue of those that wait for a slot.

Requests join and leave between two steps. A step is one chunk of one prompt, then one token for each request whose
prompt is done. So a long prompt does not stop the other requests; it delays each of their tokens by one chunk.
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
CLIENT_CHECK_INTERVAL = 0.25  # seconds between checks of the clients that wait
MAX_RETRY_AFTER = 60  # seconds


class QueueFullError(Exception):
    """The queue is full; the argument is the seconds of Retry-After."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after)
        self.retry_after = retry_after


class ClosingError(Exception):
    """The engine is closing: it finishes its requests and accepts no new ones."""


class BatchScheduler:
    """
    The running and waiting requests of one model.

    Any thread may call `submit`, `stop_accepting`, `wait_until_idle` and `stop`. Only one thread may call `step`: the
    thread of `start`, or the caller's thread without `start`.
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
        self._running: list[GenerationRequest] = []  # in order of their start
        self._free_slots = list(range(model.slots))
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
        """True once it accepts no new requests."""
        return self._closing

    @property
    def cache_usage(self) -> float:
        """Share of the KV cache that holds tokens of running requests; 0 when idle."""
        return sum(request.position for request in tuple(self._running)) / (self.model.slots * self.model.context)

    def start(self) -> None:
        """Starts the thread that calls `step`."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        """Appends a request to the queue; raises QueueFullError or ClosingError."""
        with self._changed:
            if self._closing:
                raise ClosingError
            if len(self._running) + len(self._waiting) >= self.model.slots + self._max_waiting:
                raise QueueFullError(self._estimate_retry_after())
            request.mark_queued(self._clock())
            self._waiting.append(request)
            self._changed.notify_all()

    def stop_accepting(self) -> None:
        """Accepts no new requests from now on; accepted requests continue."""
        with self._changed:
            self._closing = True

    def wait_until_idle(self, timeout: float) -> bool:
        """Waits until no request is left, nor any work on the last one; returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout)

    def stop(self, timeout: float) -> bool:
        """Ends all requests within one pass; returns False after `timeout` seconds."""
        with self._changed:
            self._closing = self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def step(self) -> None:
        """Prefills one chunk of the oldest unfinished prompt, then decodes one token for each other request."""
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
            except Exception as error:  # these requests fail, and the engine continues with the next
                traceback.print_exc(file=sys.stderr)
                self._finish_all(
                    "error", GenerationFailedError(f"{type(error).__name__} in the engine"), include_waiting=False
                )
            self.pace.charge(self._clock() - started)
        self._finish_all("cancelled", StoppedError(), include_waiting=True)

    def _is_idle(self) -> bool:
        return not self._has_requests() and (self.counters.phase == "idle" or not self._thread.is_alive())

    def _await_work(self) -> bool:
        """Waits for a request; returns False once the engine stops."""
        with self._changed:
            if not self._has_requests():
                self.counters.enter_phase("idle")
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping or self._has_requests())
                self.pace.begin_work()
            return not self._stopping

    def _has_requests(self) -> bool:
        return bool(self._running or self._waiting)

    def _should_stop_resting(self) -> bool:
        """Returns True if the engine stops or no request is left, so that a rest may end early."""
        self._drop_abandoned()
        return self._stopping or not self._has_requests()

    def _estimate_retry_after(self) -> int:
        """Estimates the seconds until the queue is empty."""
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
        """Frees the slot before it sends the outcome: a client that has its whole answer finds the slot free."""
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
