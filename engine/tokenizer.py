"""Bytes as tokens: what a model without a vocabulary of its own speaks."""

from __future__ import annotations

import codecs

BEGIN = 256
VOCAB = 257  # 256 bytes and BEGIN; no end token, so that a request is a fixed piece of work


def encode(text: str) -> list[int]:
    """BEGIN and the bytes of UTF-8; UnicodeEncodeError on a lone surrogate."""
    return [BEGIN, *text.encode()]


class Decoder:
    """Tokens of one answer to text, piece by piece; a character appears when its last byte is there."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def text(self, token: int, *, last: bool = False) -> str:
        """The text that this token completes; BEGIN is silent."""
        return self._utf8.decode(b"" if token == BEGIN else bytes([token]), final=last)
