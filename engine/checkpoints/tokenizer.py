"""What a tokenizer is to this engine, and bytes as tokens: what a model without a vocabulary of its own speaks."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Protocol

BEGIN = 256
VOCAB = 257  # 256 bytes and BEGIN; no end token, so that a request is a fixed piece of work


class TextDecoder(Protocol):
    """Tokens of one answer to text, piece by piece; a character appears when its last byte is there."""

    def decode_token(self, token: int, *, last: bool = False) -> str:
        """The text that this token completes, often none; with `last` also what stays incomplete, as U+FFFD."""


class Tokenizer(Protocol):
    """Text to tokens and back; safe to use from several threads, each answer with a decoder of its own."""

    @property
    def vocab(self) -> int:
        """Tokens are 0 to vocab - 1."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end an answer and are no text; none where an answer ends by its length only."""

    @property
    def chat_template(self) -> str | None:
        """The checkpoint's own Jinja template, as text, not to be trusted; None where it has none."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """The texts that a chat template asks for by name: `bos_token`, `eos_token`."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """
        Tokens of a text; UnicodeEncodeError on a lone surrogate.

        `special` adds what begins a text, such as BOS; a rendered chat template has these already.
        """

    def create_decoder(self) -> TextDecoder:
        """A decoder for one answer."""


def encode_bytes(text: str) -> list[int]:
    """BEGIN and the bytes of UTF-8; UnicodeEncodeError on a lone surrogate."""
    return [BEGIN, *text.encode()]


class ByteDecoder:
    """Bytes of one answer to text."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def decode_token(self, token: int, *, last: bool = False) -> str:
        """The text that this token completes; BEGIN is silent."""
        return self._utf8.decode(b"" if token == BEGIN else bytes([token]), final=last)


class ByteTokenizer:
    """The Tokenizer of seeded weights."""

    vocab = VOCAB
    stop_tokens: frozenset[int] = frozenset()
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = {}

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The bytes of UTF-8, after BEGIN where `special`; UnicodeEncodeError on a lone surrogate."""
        return encode_bytes(text)[0 if special else 1 :]

    def create_decoder(self) -> ByteDecoder:
        """A decoder for one answer."""
        return ByteDecoder()
