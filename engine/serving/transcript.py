"""
The text of one answer as it grows, ended by stop strings.

Text that may be the beginning of a stop string is held back until it is known: what was sent cannot be taken back. The
string that is complete first ends the answer, wherever the borders of tokens are.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.checkpoints.tokenizer import TextDecoder


class Growth(NamedTuple):
    """Text that may be sent, and whether a stop string has ended the answer."""

    text: str
    stopped: bool


class Transcript:
    """What of one answer may be sent so far."""

    def __init__(self, decoder: TextDecoder, stops: tuple[str, ...]) -> None:
        """`stops` are not empty strings."""
        self._decoder = decoder
        self._stops = stops
        self._held = ""

    def add(self, token: int, *, last: bool) -> Growth:
        """One token more; with the `last` one nothing is held back."""
        return self._grow(self._decoder.text(token, last=last), last=last)

    def end(self) -> str:
        """What is still held back, when no further token comes."""
        held, self._held = self._held, ""
        return held

    def _grow(self, text: str, *, last: bool) -> Growth:
        text = self._held + text
        self._held = ""
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            return Growth(text[: min(found)[1]], True)
        keep = 0 if last else self._begun(text)
        self._held = text[len(text) - keep :]
        return Growth(text[: len(text) - keep], False)

    def _begun(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
