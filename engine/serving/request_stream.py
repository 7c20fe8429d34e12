"""One answer under way: what was asked, how far it is, and the pieces of text that its client gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Literal, NamedTuple

from engine.decoder.sampler import Sampler
from engine.serving.transcript import Transcript

Gone = Callable[[], bool]


class StoppedError(Exception):
    """The client has gone or the engine is stopping: nobody waits for the answer."""


class FailedError(Exception):
    """The engine could not make the answer."""


class Piece(NamedTuple):
    """The text of one token, often less and sometimes more; the last one tells why there are no more."""

    text: str
    finish_reason: Literal["stop", "length"] | None


class Request:
    """
    A sequence of the batch. The batch's thread moves it on; `pieces` and `cancel` are for the client's.

    The last prompt token is decoded, not prefilled: each generated token then costs exactly one decode pass, and
    tokens per decode second do not depend on how short the answers are.
    """

    def __init__(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        sampler: Sampler,
        transcript: Transcript,
        gone: Gone,
        stop_tokens: frozenset[int] = frozenset(),
    ) -> None:
        """`prompt` and `max_tokens` are one at least, and fit the model's context together."""
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.token = prompt[-1]  # what is decoded next
        self.made = 0
        self.position = 0  # tokens in the KV cache
        self.slot = -1
        self.passes: Iterator[int] | None = None  # over the prompt
        self.arrived = self.since = math.nan  # of the clock, when it came and when it last got a token
        self._transcript = transcript
        self._gone = gone
        self._stop_tokens = stop_tokens
        self._cancelled = False
        self._told: SimpleQueue[object] = SimpleQueue()

    @property
    def prefilled(self) -> bool:
        """Whether the KV cache holds all of the prompt but its last token."""
        return self.position >= len(self.prompt) - 1

    def joined(self, now: float) -> None:
        """It has been taken into the queue."""
        self.arrived = self.since = now

    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled or self._gone()

    def take(self, token: int) -> Piece:
        """The token that was made; what of the text the client gets now."""
        self.token = token
        self.made += 1
        if token in self._stop_tokens:
            return Piece(self._transcript.end(), "stop")
        last = self.made == self.max_tokens
        text, stopped = self._transcript.add(token, last=last)
        return Piece(text, "stop" if stopped else "length" if last else None)

    def tell(self, what: object) -> None:
        """A Piece, or the exception that ends the answer."""
        self._told.put(what)

    def pieces(self) -> Iterator[Piece]:
        """The answer as it is made, one piece for each token; raises StoppedError or FailedError."""
        while True:
            told = self._told.get()
            if isinstance(told, Exception):
                raise told
            assert isinstance(told, Piece)
            yield told
            if told.finish_reason is not None:
                return

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._cancelled = True
