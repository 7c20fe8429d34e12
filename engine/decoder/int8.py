"""
Matrices of 8-bit weights with one scale per row, and the kernels, compiled by Numba, that multiply them.

NumPy's products of int8 and float32 are 20 times slower. Measured on Zen 4, in GB/s of weights read by one thread:
sgemv 21 to 25, this kernel 11. That is half as fast per byte, so twice as fast per weight. Two threads: 20 of 40.
With a scale per 32, 128 or 256 weights LLVM does not vectorise the sum, and the kernel reaches 1.2 GB/s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_INT8 = 127


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix (outer, inner) whose row r is rows[r] * scales[r]; the error of a weight is at most half a scale."""

    rows: NDArray[np.int8]  # (outer, inner)
    scales: NDArray[np.float32]  # (outer,)

    def __len__(self) -> int:
        return len(self.rows)

    def take_rows(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Returns some rows in float32, (n, inner)."""
        return self.rows[numbers] * self.scales[numbers, None]  # (n, inner)

    def multiply(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Writes rows x (n, inner) times the transpose to out (n, outer). Without OpenMP, Numba allows one thread."""
        compile_kernels().multiply(self.rows, self.scales, x, out)

    def dequantize(self, start: int, out: NDArray[np.float32]) -> None:
        """Writes the rows from `start` on, in float32, to out (step, inner)."""
        compile_kernels().dequantize(self.rows[start : start + len(out)], self.scales[start : start + len(out)], out)


def quantize(matrix: NDArray[np.float32]) -> Int8Matrix:
    """Returns the nearest 8-bit matrix: the largest weight of each row becomes 127 or -127."""
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))  # (outer,)
    scales = np.where(largest > 0, largest / MAX_INT8, np.float32(1))  # (outer,)
    rows = np.empty(matrix.shape, np.int8)  # (outer, inner)
    for row, scale, target in zip(matrix, scales, rows, strict=True):  # row by row: no second float32 matrix
        np.rint(row / scale, out=target, casting="unsafe")  # within -127 to 127
    return Int8Matrix(rows, scales)


class Kernels(NamedTuple):
    """Compiled functions; the value of NUMBA_NUM_THREADS at the import of Numba sets their number of threads."""

    multiply: Any  # (rows, scales, x, out): None
    dequantize: Any  # (rows, scales, out): None


@cache
def compile_kernels() -> Kernels:
    """
    Compiles the kernels, once, in about three seconds; raises ModuleNotFoundError if Numba is not installed.

    Does not use Numba's cache, which needs a writable folder that a service may not have.
    """
    from numba import njit, prange, types

    row_of_int8, vector = types.int8[:, ::1], types.float32[::1]
    rows_of_float32 = types.float32[:, :]

    @njit([types.void(row_of_int8, vector, types.float32[:, ::1], rows_of_float32)], parallel=True, fastmath=True)
    def multiply(rows: Any, scales: Any, x: Any, out: Any) -> None:
        for r in prange(rows.shape[0]):
            for n in range(x.shape[0]):
                total = np.float32(0)
                for i in range(rows.shape[1]):
                    total += np.float32(rows[r, i]) * x[n, i]
                out[n, r] = total * scales[r]

    # Single-threaded: OpenMP's threads would still wait busily when the threads of BLAS start on the result.
    @njit([types.void(row_of_int8, vector, types.float32[:, ::1])])
    def dequantize(rows: Any, scales: Any, out: Any) -> None:
        for r in range(rows.shape[0]):
            for i in range(rows.shape[1]):
                out[r, i] = np.float32(rows[r, i]) * scales[r]

    return Kernels(multiply, dequantize)
