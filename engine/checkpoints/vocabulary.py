"""The tokenizer of a checkpoint, run by the `tokenizers` library. https://huggingface.co/docs/tokenizers"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

INCOMPLETE = "\ufffd"  # the decoded form of bytes that are not, or not yet, a whole character
WINDOW_TOKENS, OVERLAP_TOKENS = 32, 8  # tokens of the decoder's window, and tokens that remain when it moves


@dataclass(frozen=True)
class VocabularyTokenizer:
    """A Tokenizer with a vocabulary."""

    backend: tokenizers.Tokenizer
    stop_tokens: frozenset[int]
    chat_template: str | None
    special_tokens: Mapping[str, str]

    @property
    def vocab(self) -> int:
        """One more than the largest token."""
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Encodes a text, with BOS and the like if `special`; raises UnicodeEncodeError on a lone surrogate."""
        text.encode()  # raises here: the library itself raises a bare TypeError on a surrogate
        return list(self.backend.encode(text, add_special_tokens=special).ids)

    def decode(self, tokens: list[int]) -> str:
        """
        Returns the text of all tokens at once, without special tokens.

        A VocabularyDecoder gives the same text piece by piece, except where SentencePiece's bytes are not UTF-8: this
        method drops characters before such bytes, and a decoder cannot take them back.
        """
        return str(self.backend.decode(tokens))

    def create_decoder(self) -> VocabularyDecoder:
        """A decoder for one answer."""
        return VocabularyDecoder(self.backend, self._byte_tokens)

    @cached_property
    def _byte_tokens(self) -> dict[int, int]:
        """Byte of each byte-fallback token of SentencePiece; empty for other vocabularies."""
        if not getattr(self.backend.model, "byte_fallback", False):
            return {}
        tokens = {byte: self.backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256)}
        return {token: byte for byte, token in tokens.items() if token is not None}


class VocabularyDecoder:
    """
    Decodes with the library a window of the last few tokens.

    The library's DecodeStream waits for ever on bytes that never become a character; small models produce them. Here
    only the last U+FFFD waits: the library decodes an incomplete character as one U+FFFD. It makes one U+FFFD for each
    incomplete byte token of SentencePiece; so this class decodes these bytes, and the window has "?" for them.
    """

    def __init__(self, backend: tokenizers.Tokenizer, byte_tokens: dict[int, int]) -> None:
        self._backend = backend
        self._byte_tokens = byte_tokens
        self._placeholder = next((token for token, byte in byte_tokens.items() if byte == ord("?")), -1)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._tokens: list[int] = []
        self._emitted = 0  # characters of the window's text

    def decode_token(self, token: int, *, last: bool = False) -> str:
        """Returns the text that this token completes; special tokens have no text."""
        byte = self._byte_tokens.get(token)
        if byte is None:
            return str(self._utf8.decode(b"", final=True)) + self._advance(token, last)
        self._advance(self._placeholder, last)
        return self._utf8.decode(bytes([byte]), final=last)

    def _advance(self, token: int, last: bool) -> str:
        self._tokens.append(token)
        window = self._backend.decode(self._tokens)
        ready = len(window) if last else _count_complete(window)
        new_text, self._emitted = window[self._emitted : ready], max(self._emitted, ready)
        if len(self._tokens) > WINDOW_TOKENS:
            self._tokens = self._tokens[
                -OVERLAP_TOKENS:
            ]  # a few remain: the first token of a text may lose its leading space
            self._emitted = _count_complete(self._backend.decode(self._tokens))
        return new_text


def _count_complete(text: str) -> int:
    return len(text) - text.endswith(INCOMPLETE)


def read_tokenizer_from_folder(folder: Path, stop_tokens: frozenset[int]) -> VocabularyTokenizer:
    """Reads tokenizer.json, tokenizer_config.json and chat_template.jinja; raises ValueError without a tokenizer."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ValueError(
            f"{folder} has no tokenizer.json: AutoTokenizer.from_pretrained(…).save_pretrained(…) writes one"
        )
    settings = _read_settings(folder / "tokenizer_config.json")
    return VocabularyTokenizer(
        _load_backend(path), stop_tokens, _read_chat_template(folder, settings), dict(_read_special_tokens(settings))
    )


def _load_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{path} is not a tokenizer: {error}") from None
    backend.no_truncation()  # a file may have the settings of its training
    backend.no_padding()
    return backend


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    return settings if isinstance(settings, dict) else {}


def _read_chat_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.exists():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several templates, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_special_tokens(settings: dict[str, Any]) -> list[tuple[str, str]]:
    entries = ((name, settings.get(name)) for name in ("bos_token", "eos_token"))
    texts = ((name, token.get("content") if isinstance(token, dict) else token) for name, token in entries)
    return [(name, text) for name, text in texts if isinstance(text, str)]
