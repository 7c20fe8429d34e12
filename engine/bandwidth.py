"""Bytes that decoding must read, and the bytes per second that this host gives a matrix-vector product."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from engine.weights import FLOAT_BYTES, Array, Config

ENOUGH = 256 << 20  # bytes of matrices; more than a last-level cache holds, and read in a tenth of a second
ROUNDS = 3  # the best of them: whatever else runs can only make one slower


def streamed_bytes(config: Config, positions: Sequence[int]) -> int:
    """
    Bytes that one decode pass for requests at these positions must read: all weights once, and each one's KV cache.

    The least that is possible: where matrices are read once for each request, more comes from memory.
    """
    per_token = 2 * config.layers * config.kv_dim * FLOAT_BYTES
    return config.weights_bytes + per_token * sum(position + 1 for position in positions)


def sgemv_bandwidth(arrays: Iterable[Array]) -> float | None:
    """
    Bytes per second of sgemv over the matrices among these, with the threads that decoding has; None without any.

    Measured over the model's own weights, so that it takes no memory.
    """
    matrices = list(_some(array for array in arrays if array.ndim == 2 and array.dtype == np.float32))
    if not matrices:
        return None
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
