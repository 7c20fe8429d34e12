"""
The text of one answer as it grows, ended by stop strings.

Text that may be the beginning of a stop string is held back until it is known: what was sent cannot be taken back. The
string that is complete first ends the answer, wherever the borders of tokens are.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.checkpoints.tokenizer import TextDecoder


class TextUpdate(NamedTuple):
    """Text that may be sent, and whether a stop string has ended the answer."""

    text: str
    is_stopped: bool


class Transcript:
    """What of one answer may be sent so far."""

    def __init__(self, decoder: TextDecoder, stops: tuple[str, ...]) -> None:
        """`stops` are not empty strings."""
        self._decoder = decoder
        self._stops = stops
        self._pending = ""

    def add_token(self, token: int, *, last: bool) -> TextUpdate:
        """One token more; with the `last` one nothing is held back."""
        return self._append_text(self._decoder.decode_token(token, last=last), last=last)

    def flush(self) -> str:
        """What is still held back, when no further token comes."""
        pending, self._pending = self._pending, ""
        return pending

    def _append_text(self, text: str, *, last: bool) -> TextUpdate:
        text = self._pending + text
        self._pending = ""
        matches = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            return TextUpdate(text[: min(matches)[1]], True)
        pending_length = 0 if last else self._find_longest_overlap(text)
        self._pending = text[len(text) - pending_length :]
        return TextUpdate(text[: len(text) - pending_length], False)

    def _find_longest_overlap(self, text: str) -> int:
        """The length of the longest end of the text with which a stop string begins."""
        return max((_measure_overlap(text, stop) for stop in self._stops), default=0)


def _measure_overlap(text: str, stop: str) -> int:
    max_length = min(len(text), len(stop) - 1)
    return next((length for length in range(max_length, 0, -1) if text.endswith(stop[:length])), 0)
