"""From logits to the next token."""

from __future__ import annotations

import numpy as np

from engine.decoder.model import softmax
from engine.decoder.weights import Array

GREEDY_BELOW = 1e-4  # a lower temperature would overflow float32 and pick the largest logit anyway
NUCLEUS_TOKENS = 1024  # tokens that nearly always hold top_p: to sort 150,000 takes longer than a pass of a small model


class TokenSampler:
    """Chooses tokens at one temperature, of the likeliest that together have `top_p`; a seed repeats the choices."""

    def __init__(self, temperature: float, seed: int | None, top_p: float = 1.0) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = np.random.default_rng(seed)

    def __call__(self, logits: Array) -> int:
        """One token from logits (vocab,)."""
        if self._temperature < GREEDY_BELOW:
            return int(logits.argmax())
        probabilities = logits / self._temperature  # (vocab,)
        softmax(probabilities)
        if self._top_p >= 1:
            return self._draw(probabilities)
        tokens = select_nucleus(probabilities, self._top_p)  # (kept,)
        return int(tokens[self._draw(probabilities[tokens])])

    def _draw(self, weights: Array) -> int:
        """A place in chances (n,), which need not add up to 1."""
        cumulative = np.cumsum(weights)  # (n,)
        threshold = self._generator.random(dtype=np.float32) * cumulative[-1]
        return min(int(np.searchsorted(cumulative, threshold, side="right")), len(cumulative) - 1)


def select_nucleus(probabilities: Array, top_p: float) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """The fewest tokens that together have at least `top_p` of chances (vocab,), likeliest first; one at least."""
    order = _sort_likeliest(probabilities, top_p)  # (n,)
    cumulative = np.cumsum(probabilities[order])  # (n,)
    return order[: int(np.searchsorted(cumulative, top_p, side="left")) + 1]


def _sort_likeliest(probabilities: Array, top_p: float) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    if len(probabilities) > NUCLEUS_TOKENS:
        candidates = np.argpartition(-probabilities, NUCLEUS_TOKENS)[:NUCLEUS_TOKENS]  # (NUCLEUS,)
        if probabilities[candidates].sum() >= top_p:
            return candidates[np.argsort(-probabilities[candidates], kind="stable")]
    return np.argsort(-probabilities, kind="stable")
