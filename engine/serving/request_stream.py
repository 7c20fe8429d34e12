"""One request in progress: its prompt, its position, and the pieces of text for its client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Literal, NamedTuple

from engine.decoder.sampler import TokenSampler
from engine.serving.transcript import Transcript

HasClientLeft = Callable[[], bool]


class StoppedError(Exception):
    """The client has left or the engine is stopping: nobody waits for the answer."""


class GenerationFailedError(Exception):
    """The engine could not generate the answer."""


class Piece(NamedTuple):
    """The text of one token, sometimes less or more; the last piece has the finish reason."""

    text: str
    finish_reason: Literal["stop", "length"] | None


class GenerationRequest:
    """
    One request of the scheduler, whose thread advances it; `iter_pieces` and `cancel` are for the client's thread.

    The last prompt token is decoded, not prefilled, so that each generated token costs exactly one decode pass. Tokens
    per decode second then do not depend on the length of answers.
    """

    def __init__(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        sampler: TokenSampler,
        transcript: Transcript,
        has_client_left: HasClientLeft,
        stop_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """`prompt` has at least one token, `max_tokens` is at least 1, and together they fit the context."""
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.token = prompt[-1]  # the token to decode next
        self.generated_count = 0
        self.position = 0  # tokens in the KV cache
        self.slot = -1
        self.prefill_passes: Iterator[int] | None = None  # over the prompt
        self.arrived_at = self.last_token_at = math.nan  # seconds of the clock
        self._transcript = transcript
        self._has_client_left = has_client_left
        self._stop_tokens = stop_tokens
        self._cancelled = False
        self._outbox: SimpleQueue[object] = SimpleQueue()

    @property
    def is_prefilled(self) -> bool:
        """True once the KV cache has all of the prompt but its last token."""
        return self.position >= len(self.prompt) - 1

    def mark_queued(self, now: float) -> None:
        """Records the time at which the request joined the queue."""
        self.arrived_at = self.last_token_at = now

    def is_abandoned(self) -> bool:
        """Returns True once the client has left or the request was cancelled."""
        return self._cancelled or self._has_client_left()

    def add_token(self, token: int) -> Piece:
        """Adds a generated token; returns the text for the client."""
        self.token = token
        self.generated_count += 1
        if token in self._stop_tokens:
            return Piece(self._transcript.flush(), "stop")
        last = self.generated_count == self.max_tokens
        update = self._transcript.add_token(token, last=last)
        return Piece(update.text, "stop" if update.is_stopped else "length" if last else None)

    def send(self, message: object) -> None:
        """Sends a Piece, or the exception that ends the answer, to the client's thread."""
        self._outbox.put(message)

    def iter_pieces(self) -> Iterator[Piece]:
        """Yields the answer, one piece per token; raises StoppedError or GenerationFailedError."""
        while True:
            message = self._outbox.get()
            if isinstance(message, Exception):
                raise message
            assert isinstance(message, Piece)
            yield message
            if message.finish_reason is not None:
                return

    def cancel(self) -> None:
        """Marks the request as abandoned."""
        self._cancelled = True
