"""
Builds a tokenizer from the vocabulary in the header of a GGUF file.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from engine.checkpoints.vocabulary import VocabularyTokenizer

GetMetadata = Callable[..., Any]

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # token types
# Expressions that split a text before BPE, by the name in tokenizer.ggml.pre; taken from the models.
_WORD_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST_PATTERN = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CONTRACTION_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
SPLIT_PATTERNS = {
    "llama-bpe": _CONTRACTION_PATTERN + _WORD_PATTERN + r"\p{N}{1,3}" + _REST_PATTERN,
    "qwen2": _CONTRACTION_PATTERN + _WORD_PATTERN + r"\p{N}" + _REST_PATTERN,
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


def make_tokenizer_from_metadata(get: GetMetadata) -> VocabularyTokenizer:
    """Builds the tokenizer of the keys `tokenizer.*`; raises ValueError if its kind is not supported."""
    kind, tokens = get("tokenizer.ggml.model"), get("tokenizer.ggml.tokens")
    if kind not in _BUILDERS or not tokens:
        raise ValueError(f"a tokenizer of the kind {kind!r} is not supported: expected {', '.join(_BUILDERS)}")
    backend = _BUILDERS[kind](tokens, get)
    _add_special_tokens(backend, tokens, get("tokenizer.ggml.token_type") or [])
    begin, end = get("tokenizer.ggml.bos_token_id"), get("tokenizer.ggml.eos_token_id")
    if begin is not None and get("tokenizer.ggml.add_bos_token", kind == "llama"):
        _prepend_token(backend, tokens[begin], begin)
    stop = (end, get("tokenizer.ggml.eot_token_id"), get("tokenizer.ggml.eom_token_id"))
    return VocabularyTokenizer(
        backend,
        frozenset(token for token in stop if token is not None),
        get("tokenizer.chat_template"),
        {name: tokens[token] for name, token in (("bos_token", begin), ("eos_token", end)) if token is not None},
    )


def _build_byte_level(tokens: list[str], get: GetMetadata) -> Tokenizer:
    """Builds GPT-2's BPE over bytes: Llama 3 and Qwen."""
    pre_tokenizer = get("tokenizer.ggml.pre", "gpt-2")
    if pre_tokenizer not in SPLIT_PATTERNS:
        raise ValueError(
            f"a tokenizer that splits texts like {pre_tokenizer!r} is not supported: expected "
            f"{', '.join(SPLIT_PATTERNS)}"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in get("tokenizer.ggml.merges") or []]
    # Llama 3 encodes a word that is a token as that token, even if its merges would not produce it.
    backend = Tokenizer(BPE(_index_tokens(tokens), merges, ignore_merges=pre_tokenizer == "llama-bpe"))
    if pre_tokenizer == "qwen2":
        backend.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(SPLIT_PATTERNS[pre_tokenizer]), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    return backend


def _build_sentence_piece(tokens: list[str], get: GetMetadata) -> Tokenizer:
    """Builds SentencePiece's BPE with byte fallback: Llama 2 and Mistral."""
    vocab, scores = _index_tokens(tokens), get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise ValueError("the tokenizer has no score for each of its tokens")
    # SentencePiece merges the pair with the best score first: pairs in the order of their scores are merges of BPE.
    merges = sorted(_list_merges(tokens, vocab, scores), key=lambda pair: (-pair[0], pair[1]))
    unknown = get("tokenizer.ggml.unknown_token_id")
    backend = Tokenizer(
        BPE(
            vocab,
            [(first, second) for _score, _order, first, second in merges],
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = [normalizers.Replace(" ", "▁")]
    prefix = [normalizers.Prepend("▁")] if get("tokenizer.ggml.add_space_prefix", True) else []
    backend.normalizer = normalizers.Sequence(prefix + spaces)
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return backend


_BUILDERS: dict[str, Callable[[list[str], GetMetadata], Tokenizer]] = {
    "gpt2": _build_byte_level,
    "llama": _build_sentence_piece,
}


def _list_merges(
    tokens: list[str], vocab: dict[str, int], scores: list[float]
) -> Iterator[tuple[float, tuple[int, int], str, str]]:
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            first, second = token[:cut], token[cut:]
            if first in vocab and second in vocab:
                yield score, (vocab[first], vocab[second]), first, second


def _index_tokens(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _add_special_tokens(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    typed_tokens = list(zip(tokens, types, strict=False))
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in typed_tokens if kind == CONTROL]
    )
    backend.add_tokens([AddedToken(t, normalized=False) for t, kind in typed_tokens if kind == USER_DEFINED])


def _prepend_token(backend: Tokenizer, text: str, token: int) -> None:
    backend.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", pair=f"{text} $A {text} $B", special_tokens=[(text, token)]
    )
