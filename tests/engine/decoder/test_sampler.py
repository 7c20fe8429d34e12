"""Choosing tokens and turning them into text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.tokenizer import BEGIN, ByteDecoder, encode_bytes
from engine.decoder.sampler import TokenSampler, select_nucleus


def logits_of(*values: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Logits (n,)."""
    return np.array(values, np.float32)


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-5])
def test_greedy_takes_the_largest(temperature: float) -> None:
    """Temperature 0, and one that would overflow float32, choose the largest logit."""
    assert TokenSampler(temperature, 1)(logits_of(0.1, 5.0, 4.9999)) == 1


def test_frequencies_follow_softmax() -> None:
    """At temperature 2 the probabilities are softmax(logits / 2)."""
    logits = logits_of(0.0, 1.0, 2.0)
    sampler = TokenSampler(2.0, 11)
    drawn = np.bincount([sampler(logits) for _ in range(4000)], minlength=3) / 4000
    expected = np.exp([0, 0.5, 1]) / np.exp([0, 0.5, 1]).sum()

    assert drawn == pytest.approx(expected, abs=0.03)


def test_same_seed_same_choices() -> None:
    """The same seed repeats the choices; another seed gives others."""
    logits = np.zeros(257, np.float32)

    def draw(seed: int) -> list[int]:
        sampler = TokenSampler(1.0, seed)
        return [sampler(logits) for _ in range(20)]

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_impossible_tokens_are_never_drawn() -> None:
    """A logit of minus infinity is never chosen, also at either end."""
    sampler = TokenSampler(1.0, 0)
    logits = logits_of(-np.inf, 0.0, 0.0, -np.inf)

    assert {sampler(logits) for _ in range(500)} == {1, 2}


@given(st.text())
def test_text_comes_back(text: str) -> None:
    """Tokens of a text decode to the same text, whatever characters are split between tokens."""
    tokens = encode_bytes(text)
    decoder = ByteDecoder()

    assert tokens[0] == BEGIN
    assert "".join(decoder.decode_token(token, last=i == len(tokens)) for i, token in enumerate(tokens, 1)) == text


def test_unfinished_character_is_replaced() -> None:
    """An incomplete character appears as U+FFFD with the last token, not before."""
    decoder = ByteDecoder()

    assert decoder.decode_token(0xE2) == ""
    assert decoder.decode_token(0x82, last=True) == "\N{REPLACEMENT CHARACTER}"


@given(
    st.lists(st.floats(0.001, 1), min_size=1, max_size=60),
    st.floats(0, 0.999),
)
def test_nucleus_is_the_smallest_that_holds_top_p(weights: list[float], top_p: float) -> None:
    """The nucleus has the likeliest tokens up to top_p together, not one more, and at least one."""
    chances = np.array(weights, np.float32) / np.float32(sum(weights))
    nucleus = select_nucleus(chances, top_p)
    summed = np.cumsum(chances[nucleus])

    assert len(nucleus) >= 1
    assert summed[-1] >= top_p - 1e-5
    assert len(nucleus) == 1 or summed[-2] < top_p
    assert chances[nucleus].min() >= np.delete(chances, nucleus).max(initial=0)


def test_nucleus_of_a_large_vocabulary() -> None:
    """The short way over the 1,024 likeliest and the long way choose the tokens of a full sort."""
    generator = np.random.default_rng(3)
    for spread in (0.01, 5.0):  # flat: needs more than 1,024; steep: needs a few
        chances = np.exp(spread * generator.standard_normal(5000)).astype(np.float32)
        chances /= chances.sum()
        order = np.argsort(-chances, kind="stable")
        max_size = int(np.searchsorted(np.cumsum(chances[order]), 0.9)) + 1

        assert abs(len(select_nucleus(chances, 0.9)) - max_size) <= 1
        assert set(select_nucleus(chances, 0.9)) <= set(order[: max_size + 1])


def test_top_p_leaves_the_tail_out() -> None:
    """A token outside the nucleus is never drawn, one inside it is drawn as often as its share."""
    sampler = TokenSampler(1.0, 5, top_p=0.8)
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    drawn = np.bincount([sampler(logits) for _ in range(3000)], minlength=4) / 3000

    assert drawn[2:].sum() == 0
    assert drawn[:2] == pytest.approx([0.625, 0.375], abs=0.03)


def test_top_p_of_nothing_is_greedy() -> None:
    """At top_p 0 the likeliest token is always drawn."""
    sampler = TokenSampler(2.0, 5, top_p=0.0)

    assert {sampler(logits_of(1.0, 1.1, 0.9)) for _ in range(50)} == {1}
