"""The bytes that decoding must read, and the bytes per second that a matrix-vector product reaches on this host."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from engine.decoder.weights import FLOAT_BYTES, Array, ModelConfig, Weights

SAMPLE_BYTES = 256 << 20  # bytes of matrices: more than a last-level cache, and read in a tenth of a second
ROUNDS = 3  # the fastest counts: other programs can only slow a round down


class DecodeTraffic:
    """
    The least that decoding a model must read; matrices that are read once per request need more.

    An embedding that is not the classifier does not count: decoding reads only the rows of its tokens.
    """

    def __init__(self, weights: Weights) -> None:
        c = weights.config
        total = sum(array.nbytes for array in weights.list_arrays())
        unread = 0 if c.tied else c.vocab * c.dim * (1 if c.int8 else FLOAT_BYTES)
        self._weight_bytes = total - unread
        self._position_bytes = 2 * c.kv_dim * FLOAT_BYTES  # in the KV cache of one layer
        self._layers_by_window = Counter(c.windows or (None,) * c.layers)  # number of layers by window

    def count_bytes(self, positions: Sequence[int]) -> int:
        """Returns the bytes of one decode pass at these positions: all weights once, and each request's KV cache."""
        return self._weight_bytes + self._position_bytes * sum(
            layers * min(position + 1, window or position + 1)
            for window, layers in self._layers_by_window.items()
            for position in positions
        )


def get_benchmark_bytes(config: ModelConfig) -> int:
    """Returns the bytes that `measure_sgemv_bandwidth` allocates while it runs, for a model with 8-bit matrices."""
    return min(config.weights_bytes, SAMPLE_BYTES) if config.int8 else 0


def measure_sgemv_bandwidth(weights: Weights) -> float:
    """
    Returns the bytes per second of sgemv over the matrices of these weights, with the threads of decoding.

    sgemv cannot read 8-bit matrices: for these it measures a float32 matrix of that size, and frees it.
    """
    if size := get_benchmark_bytes(weights.config):
        columns = weights.config.dim
        matrices = [np.ones((size // (FLOAT_BYTES * columns), columns), np.float32)]  # (rows, dim)
    else:
        matrices = list(_take_sample(array for array in weights.list_arrays() if array.ndim == 2))
    vectors = [np.ones(matrix.shape[1], np.float32) for matrix in matrices]  # each (columns,)
    best = min(_time_products(matrices, vectors) for _ in range(ROUNDS))
    return sum(matrix.nbytes for matrix in matrices) / best


def _take_sample(matrices: Iterable[Array]) -> Iterable[Array]:
    total = 0
    for matrix in matrices:
        if total >= SAMPLE_BYTES:
            return
        total += matrix.nbytes
        yield matrix


def _time_products(matrices: Sequence[Array], vectors: Sequence[Array]) -> float:
    started = time.perf_counter()
    for matrix, vector in zip(matrices, vectors, strict=True):
        matrix @ vector  # (rows,)
    return time.perf_counter() - started
