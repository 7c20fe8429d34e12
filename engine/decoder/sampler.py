"""Chooses the next token from logits."""

from __future__ import annotations

import numpy as np

from engine.decoder.model import softmax
from engine.decoder.weights import Array

GREEDY_BELOW = 1e-4  # a lower temperature would overflow float32 and pick the largest logit anyway
NUCLEUS_TOKENS = (
    1024  # tokens; they nearly always reach top_p, and sorting 150,000 takes longer than a small model's pass
)


class TokenSampler:
    """Draws tokens at one temperature from the likeliest that together reach `top_p`; a seed repeats the draws."""

    def __init__(self, temperature: float, seed: int | None, top_p: float = 1.0) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = np.random.default_rng(seed)

    def __call__(self, logits: Array) -> int:
        """Returns one token for logits (vocab,)."""
        if self._temperature < GREEDY_BELOW:
            return int(logits.argmax())
        probabilities = logits / self._temperature  # (vocab,)
        softmax(probabilities)
        if self._top_p >= 1:
            return self._draw(probabilities)
        tokens = select_nucleus(probabilities, self._top_p)  # (nucleus,)
        return int(tokens[self._draw(probabilities[tokens])])

    def _draw(self, weights: Array) -> int:
        """Returns an index, drawn by weights (n,) that need not add up to 1."""
        cumulative = np.cumsum(weights)  # (n,)
        threshold = self._generator.random(dtype=np.float32) * cumulative[-1]
        return min(int(np.searchsorted(cumulative, threshold, side="right")), len(cumulative) - 1)


def select_nucleus(probabilities: Array, top_p: float) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """Returns the fewest tokens, at least one, whose probabilities (vocab,) add up to `top_p`; likeliest first."""
    order = _sort_likeliest(probabilities, top_p)  # (n,)
    cumulative = np.cumsum(probabilities[order])  # (n,)
    return order[: int(np.searchsorted(cumulative, top_p, side="left")) + 1]


def _sort_likeliest(probabilities: Array, top_p: float) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    if len(probabilities) > NUCLEUS_TOKENS:
        candidates = np.argpartition(-probabilities, NUCLEUS_TOKENS)[:NUCLEUS_TOKENS]  # (NUCLEUS,)
        if probabilities[candidates].sum() >= top_p:
            return candidates[np.argsort(-probabilities[candidates], kind="stable")]
    return np.argsort(-probabilities, kind="stable")
