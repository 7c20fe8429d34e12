"""The interface of a tokenizer, and the byte tokenizer of models without a vocabulary."""

from __future__ import annotations

import codecs
from collections.abc import Mapping
from typing import Protocol

BEGIN = 256
VOCAB = 257  # 256 bytes and BEGIN; no end token, so that a request is a fixed piece of work


class TextDecoder(Protocol):
    """Decodes the tokens of one answer piece by piece; a character appears with its last byte."""

    def decode_token(self, token: int, *, last: bool = False) -> str:
        """Returns the text that this token completes, often none; `last` also returns an incomplete rest, as U+FFFD."""


class Tokenizer(Protocol):
    """Converts text to tokens and back; safe in several threads, if each answer has its own decoder."""

    @property
    def vocab(self) -> int:
        """Number of tokens: they are 0 to vocab - 1."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Tokens that end an answer and are not text; empty if only the length ends an answer."""

    @property
    def chat_template(self) -> str | None:
        """Source of the checkpoint's Jinja template, which is untrusted; None if the checkpoint has no template."""

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Texts that a chat template uses by name: `bos_token`, `eos_token`."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """
        Encodes a text; raises UnicodeEncodeError on a lone surrogate.

        `special` adds the tokens that begin a text, such as BOS; a rendered chat template has them already.
        """

    def create_decoder(self) -> TextDecoder:
        """Returns a new decoder for one answer."""


def encode_bytes(text: str) -> list[int]:
    """Returns BEGIN and the bytes of UTF-8; raises UnicodeEncodeError on a lone surrogate."""
    return [BEGIN, *text.encode()]


class ByteDecoder:
    """Decodes the bytes of one answer."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def decode_token(self, token: int, *, last: bool = False) -> str:
        """Returns the text that this token completes; BEGIN has no text."""
        return self._utf8.decode(b"" if token == BEGIN else bytes([token]), final=last)


class ByteTokenizer:
    """The tokenizer of seeded weights: one token per byte."""

    vocab = VOCAB
    stop_tokens: frozenset[int] = frozenset()
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = {}

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Returns the bytes of UTF-8, after BEGIN if `special`; raises UnicodeEncodeError on a lone surrogate."""
        return encode_bytes(text)[0 if special else 1 :]

    def create_decoder(self) -> ByteDecoder:
        """Returns a new decoder for one answer."""
        return ByteDecoder()
