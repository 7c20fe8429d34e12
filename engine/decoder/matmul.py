"""
Matrix products for few rows: the matrices are large and come from memory, so each is read once.

Measured with OpenBLAS 0.3.31 on two Zen 4 cores, in GB/s of weights read, one pass of n rows over a (11264, 2048)
matrix: n = 1: 33; n = 2: 9 as X·Mᵀ, 11 as M·Xᵀ, 25 in blocks; n = 4: 8, 10, 16; n = 8: 8, 8, 10; n = 32: 5, 6, -.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.decoder.int8 import Int8Matrix
from engine.decoder.weights import Array, WeightMatrix

# 2 MiB of floats: they fit in the caches of two cores, and OpenBLAS starts its threads at about that size.
BLOCK_FLOATS = 1 << 19
MIN_GEMM_ROWS = 8  # rows; from here on one sgemm is faster than one sgemv per row


def take_rows(matrix: WeightMatrix, numbers: Sequence[int]) -> Array:
    """Returns copies of some rows of a matrix (outer, inner), in float32: (n, inner)."""
    if isinstance(matrix, Int8Matrix):
        return matrix.take_rows(numbers)
    return matrix[list(numbers)]


def multiply(x: Array, matrix: WeightMatrix, out: Array | None = None) -> Array:
    """Multiplies rows x (n, inner) by the transpose of a matrix (outer, inner): (n, outer)."""
    if out is None:
        out = np.empty((len(x), len(matrix)), np.float32)  # (n, outer)
    if isinstance(matrix, Int8Matrix):
        _multiply_int8(x, matrix, out)
    elif len(x) == 1:
        np.matmul(x, matrix.T, out=out)
    elif len(x) < MIN_GEMM_ROWS:
        _multiply_in_blocks(x, matrix, out)
    else:
        out[:] = np.matmul(matrix, x.T).T  # sgemm is up to twice as fast in this order
    return out


def _multiply_in_blocks(x: Array, matrix: Array, out: Array) -> None:
    # The first row loads a block (step, inner) into the caches; the other rows read it there.
    step = max(1, BLOCK_FLOATS // matrix.shape[1])
    for start in range(0, len(matrix), step):
        block = matrix[start : start + step]  # (step, inner)
        for row, target in zip(x, out[:, start : start + step], strict=True):
            np.matmul(block, row, out=target)


def _multiply_int8(x: Array, matrix: Int8Matrix, out: Array) -> None:
    if len(x) < MIN_GEMM_ROWS:
        matrix.multiply(np.ascontiguousarray(x), out)
        return
    # With many rows, converting a block to float32 costs less than multiplying it.
    step = max(1, BLOCK_FLOATS // x.shape[1])
    block = np.empty((step, x.shape[1]), np.float32)  # (step, inner)
    for start in range(0, len(matrix), step):
        part = block[: len(matrix) - start]  # (step, inner)
        matrix.dequantize(start, part)
        out[:, start : start + step] = np.matmul(part, x.T).T  # (n, step)
