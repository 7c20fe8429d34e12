"""From logits to the next token."""

from __future__ import annotations

import numpy as np

from engine.decoder.model import softmax
from engine.decoder.weights import Array

GREEDY_BELOW = 1e-4  # a lower temperature would overflow float32 and pick the largest logit anyway
NUCLEUS = 1024  # tokens that nearly always hold top_p: to sort 150,000 takes longer than a pass of a small model


class Sampler:
    """Chooses tokens at one temperature, of the likeliest that together have `top_p`; a seed repeats the choices."""

    def __init__(self, temperature: float, seed: int | None, top_p: float = 1.0) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = np.random.default_rng(seed)

    def __call__(self, logits: Array) -> int:
        """One token from logits (vocab,)."""
        if self._temperature < GREEDY_BELOW:
            return int(logits.argmax())
        chances = logits / self._temperature  # (vocab,)
        softmax(chances)
        if self._top_p >= 1:
            return self._drawn(chances)
        tokens = nucleus(chances, self._top_p)  # (kept,)
        return int(tokens[self._drawn(chances[tokens])])

    def _drawn(self, chances: Array) -> int:
        """A place in chances (n,), which need not add up to 1."""
        summed = np.cumsum(chances)  # (n,)
        drawn = self._generator.random(dtype=np.float32) * summed[-1]
        return min(int(np.searchsorted(summed, drawn, side="right")), len(summed) - 1)


def nucleus(chances: Array, top_p: float) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """The fewest tokens that together have at least `top_p` of chances (vocab,), likeliest first; one at least."""
    order = _likeliest(chances, top_p)  # (n,)
    summed = np.cumsum(chances[order])  # (n,)
    return order[: int(np.searchsorted(summed, top_p, side="left")) + 1]


def _likeliest(chances: Array, top_p: float) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    if len(chances) > NUCLEUS:
        some = np.argpartition(-chances, NUCLEUS)[:NUCLEUS]  # (NUCLEUS,)
        if chances[some].sum() >= top_p:
            return some[np.argsort(-chances[some], kind="stable")]
    return np.argsort(-chances, kind="stable")
