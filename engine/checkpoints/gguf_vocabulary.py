"""
A `tokenizers` object from the vocabulary in a GGUF file's header.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from engine.checkpoints.vocabulary import VocabularyTokenizer

Get = Callable[..., Any]

UNKNOWN, CONTROL, USER = 2, 3, 4  # token types
# How a text is cut before BPE, by the name in tokenizer.ggml.pre; these are the models' own expressions.
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
CUTS = {
    "llama-bpe": _SHORT + _WORDS + r"\p{N}{1,3}" + _REST,
    "qwen2": _SHORT + _WORDS + r"\p{N}" + _REST,
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}


def tokenizer_from_metadata(get: Get) -> VocabularyTokenizer:
    """The tokenizer that the keys `tokenizer.*` describe; ValueError where it is of a kind that is not known here."""
    kind, tokens = get("tokenizer.ggml.model"), get("tokenizer.ggml.tokens")
    if kind not in _KINDS or not tokens:
        raise ValueError(f"a tokenizer of the kind {kind!r} is not supported: expected {', '.join(_KINDS)}")
    own = _KINDS[kind](tokens, get)
    _add_special(own, tokens, get("tokenizer.ggml.token_type") or [])
    begin, end = get("tokenizer.ggml.bos_token_id"), get("tokenizer.ggml.eos_token_id")
    if begin is not None and get("tokenizer.ggml.add_bos_token", kind == "llama"):
        _begin_with(own, tokens[begin], begin)
    stop = (end, get("tokenizer.ggml.eot_token_id"), get("tokenizer.ggml.eom_token_id"))
    return VocabularyTokenizer(
        own,
        frozenset(token for token in stop if token is not None),
        get("tokenizer.chat_template"),
        {name: tokens[token] for name, token in (("bos_token", begin), ("eos_token", end)) if token is not None},
    )


def _byte_level(tokens: list[str], get: Get) -> Tokenizer:
    """GPT-2's BPE over bytes: Llama 3 and Qwen."""
    cut = get("tokenizer.ggml.pre", "gpt-2")
    if cut not in CUTS:
        raise ValueError(f"a tokenizer that cuts texts as {cut!r} does is not supported: expected {', '.join(CUTS)}")
    merges = [tuple(merge.split(" ", 1)) for merge in get("tokenizer.ggml.merges") or []]
    # Llama 3 takes a word that is a token whole, even where its merges would not make it.
    own = Tokenizer(BPE(_by_text(tokens), merges, ignore_merges=cut == "llama-bpe"))
    if cut == "qwen2":
        own.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(CUTS[cut]), "isolated")
    own.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    own.decoder = decoders.ByteLevel()
    return own


def _sentence_piece(tokens: list[str], get: Get) -> Tokenizer:
    """SentencePiece's BPE with bytes for what has no piece: Llama 2 and Mistral."""
    vocab, scores = _by_text(tokens), get("tokenizer.ggml.scores")
    if not scores or len(scores) != len(tokens):
        raise ValueError("the tokenizer has no score for each of its tokens")
    # SentencePiece merges the pair with the best score first: pairs in the order of their scores are merges of BPE.
    merges = sorted(_pairs(tokens, vocab, scores), key=lambda pair: (-pair[0], pair[1]))
    unknown = get("tokenizer.ggml.unknown_token_id")
    own = Tokenizer(
        BPE(
            vocab,
            [(left, right) for _score, _order, left, right in merges],
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = [normalizers.Replace(" ", "▁")]
    prefix = [normalizers.Prepend("▁")] if get("tokenizer.ggml.add_space_prefix", True) else []
    own.normalizer = normalizers.Sequence(prefix + spaces)
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return own


_KINDS: dict[str, Callable[[list[str], Get], Tokenizer]] = {"gpt2": _byte_level, "llama": _sentence_piece}


def _pairs(
    tokens: list[str], vocab: dict[str, int], scores: list[float]
) -> Iterator[tuple[float, tuple[int, int], str, str]]:
    for token, score in zip(tokens, scores, strict=True):
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocab and right in vocab:
                yield score, (vocab[left], vocab[right]), left, right


def _by_text(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _add_special(own: Tokenizer, tokens: list[str], types: list[int]) -> None:
    known = list(zip(tokens, types, strict=False))
    own.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in known if kind == CONTROL])
    own.add_tokens([AddedToken(t, normalized=False) for t, kind in known if kind == USER])


def _begin_with(own: Tokenizer, text: str, token: int) -> None:
    own.post_processor = processors.TemplateProcessing(
        single=f"{text} $A", pair=f"{text} $A {text} $B", special_tokens=[(text, token)]
    )
