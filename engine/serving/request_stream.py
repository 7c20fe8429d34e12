"""One answer under way: what was asked, how far it is, and the pieces of text that its client gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Literal, NamedTuple

from engine.decoder.sampler import TokenSampler
from engine.serving.transcript import Transcript

HasClientLeft = Callable[[], bool]


class StoppedError(Exception):
    """The client has gone or the engine is stopping: nobody waits for the answer."""


class GenerationFailedError(Exception):
    """The engine could not make the answer."""


class Piece(NamedTuple):
    """The text of one token, often less and sometimes more; the last one tells why there are no more."""

    text: str
    finish_reason: Literal["stop", "length"] | None


class GenerationRequest:
    """
    A sequence of the batch. The batch's thread moves it on; `pieces` and `cancel` are for the client's.

    The last prompt token is decoded, not prefilled: each generated token then costs exactly one decode pass, and
    tokens per decode second do not depend on how short the answers are.
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
        """`prompt` and `max_tokens` are one at least, and fit the model's context together."""
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.token = prompt[-1]  # what is decoded next
        self.generated_count = 0
        self.position = 0  # tokens in the KV cache
        self.slot = -1
        self.prefill_passes: Iterator[int] | None = None  # over the prompt
        self.arrived_at = self.last_token_at = math.nan  # of the clock, when it came and when it last got a token
        self._transcript = transcript
        self._has_client_left = has_client_left
        self._stop_tokens = stop_tokens
        self._cancelled = False
        self._outbox: SimpleQueue[object] = SimpleQueue()

    @property
    def is_prefilled(self) -> bool:
        """Whether the KV cache holds all of the prompt but its last token."""
        return self.position >= len(self.prompt) - 1

    def mark_queued(self, now: float) -> None:
        """It has been taken into the queue."""
        self.arrived_at = self.last_token_at = now

    def is_abandoned(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled or self._has_client_left()

    def add_token(self, token: int) -> Piece:
        """The token that was made; what of the text the client gets now."""
        self.token = token
        self.generated_count += 1
        if token in self._stop_tokens:
            return Piece(self._transcript.flush(), "stop")
        last = self.generated_count == self.max_tokens
        text, stopped = self._transcript.add_token(token, last=last)
        return Piece(text, "stop" if stopped else "length" if last else None)

    def send(self, message: object) -> None:
        """A Piece, or the exception that ends the answer."""
        self._outbox.put(message)

    def iter_pieces(self) -> Iterator[Piece]:
        """The answer as it is made, one piece for each token; raises StoppedError or FailedError."""
        while True:
            message = self._outbox.get()
            if isinstance(message, Exception):
                raise message
            assert isinstance(message, Piece)
            yield message
            if message.finish_reason is not None:
                return

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled = True
