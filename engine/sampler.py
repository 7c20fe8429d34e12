"""From logits to the next token."""

from __future__ import annotations

import numpy as np

from engine.model import softmax
from engine.weights import Array

GREEDY_BELOW = 1e-4  # a lower temperature would overflow float32 and pick the largest logit anyway


class Sampler:
    """Chooses tokens at one temperature; the same seed makes the same choices."""

    def __init__(self, temperature: float, seed: int | None) -> None:
        self._temperature = temperature
        self._generator = np.random.default_rng(seed)

    def __call__(self, logits: Array) -> int:
        """One token from logits (vocab,)."""
        if self._temperature < GREEDY_BELOW:
            return int(logits.argmax())
        chances = logits / self._temperature  # (vocab,)
        softmax(chances)
        summed = np.cumsum(chances)  # (vocab,)
        drawn = self._generator.random(dtype=np.float32) * summed[-1]
        return min(int(np.searchsorted(summed, drawn, side="right")), len(summed) - 1)
