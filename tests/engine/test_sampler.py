"""Choosing tokens and turning them into text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.sampler import Sampler
from engine.tokenizer import BEGIN, Decoder, encode


def logits_of(*values: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Logits (n,)."""
    return np.array(values, np.float32)


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-5])
def test_greedy_takes_the_largest(temperature: float) -> None:
    """Temperature 0, and what would overflow float32, is the largest logit."""
    assert Sampler(temperature, 1)(logits_of(0.1, 5.0, 4.9999)) == 1


def test_frequencies_follow_softmax() -> None:
    """At temperature 2 the chances are softmax(logits / 2)."""
    logits = logits_of(0.0, 1.0, 2.0)
    sampler = Sampler(2.0, 11)
    drawn = np.bincount([sampler(logits) for _ in range(4000)], minlength=3) / 4000
    expected = np.exp([0, 0.5, 1]) / np.exp([0, 0.5, 1]).sum()

    assert drawn == pytest.approx(expected, abs=0.03)


def test_same_seed_same_choices() -> None:
    """A seed makes the choices repeatable and another seed makes others."""
    logits = np.zeros(257, np.float32)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(1.0, seed)
        return [sampler(logits) for _ in range(20)]

    assert draw(5) == draw(5)
    assert draw(5) != draw(6)


def test_impossible_tokens_are_never_drawn() -> None:
    """A logit of minus infinity is never chosen, also at either end."""
    sampler = Sampler(1.0, 0)
    logits = logits_of(-np.inf, 0.0, 0.0, -np.inf)

    assert {sampler(logits) for _ in range(500)} == {1, 2}


@given(st.text())
def test_text_comes_back(text: str) -> None:
    """Tokens of a text decode to the same text, whatever characters are split between tokens."""
    tokens = encode(text)
    decoder = Decoder()

    assert tokens[0] == BEGIN
    assert "".join(decoder.text(token, last=i == len(tokens)) for i, token in enumerate(tokens, 1)) == text


def test_unfinished_character_is_replaced() -> None:
    """A character whose bytes never came appears as U+FFFD with the last token and not before."""
    decoder = Decoder()

    assert decoder.text(0xE2) == ""
    assert decoder.text(0x82, last=True) == "\N{REPLACEMENT CHARACTER}"
