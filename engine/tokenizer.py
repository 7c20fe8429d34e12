"""Text to tokens and back; bytes as tokens are what a model without a vocabulary of its own speaks."""

from __future__ import annotations

import codecs
from typing import Protocol

BEGIN = 256
VOCAB = 257  # 256 bytes and BEGIN; no end token, so that a request is a fixed piece of work


class TextOf(Protocol):
    """What turns the tokens of one answer into text; a character appears when its last byte is there."""

    def text(self, token: int, *, last: bool = False) -> str:
        """The text that this token completes."""


class Tokenizer(Protocol):
    """The vocabulary of a model."""

    vocab: int
    stop_tokens: frozenset[int]  # those with which the model ends its answer
    chat_template: str | None  # Jinja, as Hugging Face has it

    def encode(self, text: str, *, special: bool) -> list[int]:
        """The tokens of a text, with those that begin a sequence where `special`."""

    def decoder(self) -> TextOf:
        """For one answer."""


def encode(text: str) -> list[int]:
    """BEGIN and the bytes of UTF-8; UnicodeEncodeError on a lone surrogate."""
    return [BEGIN, *text.encode()]


class Bytes:
    """Bytes of UTF-8 as tokens."""

    vocab = VOCAB
    stop_tokens: frozenset[int] = frozenset()
    chat_template: str | None = None

    def encode(self, text: str, *, special: bool) -> list[int]:
        """See the function `encode`; BEGIN only where `special`."""
        return encode(text)[0 if special else 1 :]

    def decoder(self) -> Decoder:
        """For one answer."""
        return Decoder()


class Decoder:
    """Tokens of one answer to text, piece by piece."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def text(self, token: int, *, last: bool = False) -> str:
        """The text that this token completes; BEGIN is silent."""
        return self._utf8.decode(b"" if token == BEGIN else bytes([token]), final=last)
