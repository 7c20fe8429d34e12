"""Bytes that decoding must read, and the bytes per second that this host gives a matrix-vector product."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from engine.decoder.weights import FLOAT_BYTES, Array, Config, Weights

ENOUGH = 256 << 20  # bytes of matrices; more than a last-level cache holds, and read in a tenth of a second
ROUNDS = 3  # the best of them: whatever else runs can only make one slower


class Traffic:
    """
    What decoding a model must read at least; where matrices are read once for each request, more comes from memory.

    Of an embedding that is no classifier only the rows of the tokens are read: nothing beside the rest.
    """

    def __init__(self, weights: Weights) -> None:
        c = weights.config
        everything = sum(array.nbytes for array in weights.arrays())
        unread = 0 if c.tied else c.vocab * c.dim * (1 if c.int8 else FLOAT_BYTES)
        self._weights = everything - unread
        self._position = 2 * c.kv_dim * FLOAT_BYTES  # of one layer's KV cache
        self._windows = Counter(c.windows or (None,) * c.layers)  # and how many layers have each

    def of(self, positions: Sequence[int]) -> int:
        """Bytes for one decode pass of requests at these positions: all weights once, and each one's KV cache."""
        return self._weights + self._position * sum(
            layers * min(position + 1, window or position + 1)
            for window, layers in self._windows.items()
            for position in positions
        )


def stand_in(config: Config) -> int:
    """Bytes of float32 that `sgemv_bandwidth` takes for as long as it measures: 8-bit matrices are none of sgemv's."""
    return min(config.weights_bytes, ENOUGH) if config.int8 else 0


def sgemv_bandwidth(weights: Weights) -> float:
    """
    Bytes per second of sgemv with the threads that decoding has, over the matrices of these weights.

    Over a matrix as large in the place of 8-bit ones, which is given back; else it takes no memory.
    """
    if size := stand_in(weights.config):
        columns = weights.config.dim
        matrices = [np.ones((size // (FLOAT_BYTES * columns), columns), np.float32)]  # (rows, dim)
    else:
        matrices = list(_some(array for array in weights.arrays() if array.ndim == 2))
    vectors = [np.ones(matrix.shape[1], np.float32) for matrix in matrices]  # each (columns,)
    best = min(_seconds(matrices, vectors) for _ in range(ROUNDS))
    return sum(matrix.nbytes for matrix in matrices) / best


def _some(matrices: Iterable[Array]) -> Iterable[Array]:
    taken = 0
    for matrix in matrices:
        if taken >= ENOUGH:
            return
        taken += matrix.nbytes
        yield matrix


def _seconds(matrices: Sequence[Array], vectors: Sequence[Array]) -> float:
    began = time.perf_counter()
    for matrix, vector in zip(matrices, vectors, strict=True):
        matrix @ vector  # (rows,)
    return time.perf_counter() - began
