"""The counters of the engine: tokens, seconds by phase, and latencies of requests."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

WorkPhase = Literal["prefill", "decode", "sampling", "paced", "idle"]
PHASES: tuple[WorkPhase, ...] = ("prefill", "decode", "sampling", "paced", "idle")
RECENT_SECONDS = 1.0  # seconds of decoding in the running mean of the bandwidth

FIRST_TOKEN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)  # seconds
REQUEST_BUCKETS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # seconds
BETWEEN_TOKENS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0)  # seconds


class Work(NamedTuple):
    """The work since the start; tokens and seconds of the same passes."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    generated_tokens: int = 0
    decode_seconds: float = 0.0  # per request: a pass of 10 ms for four requests adds 40 ms
    passes: int = 0
    pass_seconds: float = 0.0  # each decode pass once
    streamed_bytes: int = 0


class Histogram(NamedTuple):
    """Counts of observations by upper bound, in seconds; the last count has no bound."""

    bounds: Sequence[float]
    counts: tuple[int, ...]
    total: float

    def add_observation(self, seconds: float) -> Histogram:
        """Returns the histogram with one more observation."""
        index = bisect_left(self.bounds, seconds)
        counts = (*self.counts[:index], self.counts[index] + 1, *self.counts[index + 1 :])
        return Histogram(self.bounds, counts, self.total + seconds)


def create_histogram(bounds: Sequence[float]) -> Histogram:
    """Returns a histogram without observations."""
    return Histogram(bounds, (0,) * (len(bounds) + 1), 0.0)


class Counters:
    """
    Counters that the scheduler's thread writes and any thread reads.

    Each value is an immutable object that is replaced after a pass, so a reader never sees a partial update.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._phase: WorkPhase = "idle"
        self._since = clock()
        self._seconds: dict[WorkPhase, float] = dict.fromkeys(PHASES, 0.0)
        self._recent_bytes = 0.0
        self._recent_seconds = 0.0
        self.work = Work()
        self.first_token = create_histogram(FIRST_TOKEN_BUCKETS)
        self.between_tokens = create_histogram(BETWEEN_TOKENS_BUCKETS)
        self.request_seconds = create_histogram(REQUEST_BUCKETS)
        self.finish_counts: Counter[str] = Counter({"stop": 0, "length": 0, "cancelled": 0, "error": 0})

    def enter_phase(self, phase: WorkPhase) -> float:
        """Starts a phase; returns the seconds of the phase before it."""
        with self._lock:
            now = self._clock()
            seconds = now - self._since
            self._seconds[self._phase] += seconds
            self._phase, self._since = phase, now
            return seconds

    @property
    def phase(self) -> WorkPhase:
        """What the engine does now."""
        return self._phase

    def get_phase_seconds(self) -> Mapping[str, float]:
        """Returns the seconds of each phase since the start; they add up to the time since the start."""
        with self._lock:
            elapsed = self._clock() - self._since
            return {phase: self._seconds[phase] + elapsed * (phase == self._phase) for phase in PHASES}

    def count_prefill(self, tokens: int, seconds: float) -> None:
        """Counts one pass over a part of a prompt."""
        work = self.work
        self.work = work._replace(
            prompt_tokens=work.prompt_tokens + tokens, prompt_seconds=work.prompt_seconds + seconds
        )

    def count_decode(self, tokens: int, seconds: float, streamed_bytes: int) -> None:
        """Counts one decode pass that generated `tokens` tokens, one per request, and read `streamed_bytes`."""
        work = self.work
        self.work = work._replace(
            generated_tokens=work.generated_tokens + tokens,
            decode_seconds=work.decode_seconds + tokens * seconds,
            passes=work.passes + 1,
            pass_seconds=work.pass_seconds + seconds,
            streamed_bytes=work.streamed_bytes + streamed_bytes,
        )
        decay = math.exp(-seconds / RECENT_SECONDS)
        with self._lock:
            self._recent_bytes = decay * self._recent_bytes + streamed_bytes
            self._recent_seconds = decay * self._recent_seconds + seconds

    def count_token(self, *, first: bool, seconds: float) -> None:
        """Observes the delay of a token, from the arrival of its request or from the token before."""
        if first:
            self.first_token = self.first_token.add_observation(seconds)
        else:
            self.between_tokens = self.between_tokens.add_observation(seconds)

    def count_finish(self, reason: str, seconds: float) -> None:
        """Counts a finished request; observes its duration only if it was not cut short."""
        self.finish_counts[reason] += 1
        if reason in ("stop", "length"):
            self.request_seconds = self.request_seconds.add_observation(seconds)

    def get_bandwidth(self) -> float | None:
        """Returns the bytes per second of about the last second of decoding; None before the first pass."""
        with self._lock:
            return self._recent_bytes / self._recent_seconds if self._recent_seconds > 0 else None
