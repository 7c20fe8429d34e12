"""
The growing text of one answer, which a stop string ends.

Text that may begin a stop string is withheld until that is decided, because sent text cannot be taken back. The stop
string that is complete first ends the answer, wherever the borders of tokens are.
"""

from __future__ import annotations

from typing import NamedTuple

from engine.checkpoints.tokenizer import TextDecoder


class TextUpdate(NamedTuple):
    """Text to send, and True if a stop string has ended the answer."""

    text: str
    is_stopped: bool


class Transcript:
    """Decodes the tokens of one answer and withholds possible stop strings."""

    def __init__(self, decoder: TextDecoder, stops: tuple[str, ...]) -> None:
        """`stops` has no empty string."""
        self._decoder = decoder
        self._stops = stops
        self._pending = ""

    def add_token(self, token: int, *, last: bool) -> TextUpdate:
        """Adds one token; withholds nothing after the `last`."""
        return self._append_text(self._decoder.decode_token(token, last=last), last=last)

    def flush(self) -> str:
        """Returns the withheld text when no further token comes."""
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
        """Returns the length of the longest suffix of the text that begins a stop string."""
        return max((_measure_overlap(text, stop) for stop in self._stops), default=0)


def _measure_overlap(text: str, stop: str) -> int:
    max_length = min(len(text), len(stop) - 1)
    return next((length for length in range(max_length, 0, -1) if text.endswith(stop[:length])), 0)
