"""
Matrices of 8-bit weights with a scale for each row, multiplied by kernels that Numba compiles.

NumPy has no product of int8 and float32 that is not 20 times slower. Measured on Zen 4, in GB/s of weights read by one
thread: sgemv 21 to 25, this kernel 11: half as fast by the byte, so twice as fast by the weight. Two threads: 20 of 40.
With a scale for each 32, 128 or 256 weights LLVM does not vectorise the sum, and 1.2 GB/s are left.
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
    """A matrix (outer, inner) whose row r is rows[r] * scales[r]; a weight is off by half a scale at most."""

    rows: NDArray[np.int8]  # (outer, inner)
    scales: NDArray[np.float32]  # (outer,)

    def __len__(self) -> int:
        return len(self.rows)

    def take_rows(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Some rows, (n, inner), in float32."""
        return self.rows[numbers] * self.scales[numbers, None]  # (n, inner)

    def multiply(self, x: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Rows x (n, inner) times the transpose: out (n, outer). Without OpenMP, Numba takes one thread at a time."""
        compile_kernels().multiply(self.rows, self.scales, x, out)

    def dequantize(self, start: int, out: NDArray[np.float32]) -> None:
        """The rows from `start` on in float32: out (step, inner)."""
        compile_kernels().dequantize(self.rows[start : start + len(out)], self.scales[start : start + len(out)], out)


def quantize(matrix: NDArray[np.float32]) -> Int8Matrix:
    """The nearest 8-bit matrix: each row's largest weight becomes 127 or -127."""
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))  # (outer,)
    scales = np.where(largest > 0, largest / MAX_INT8, np.float32(1))  # (outer,)
    rows = np.empty(matrix.shape, np.int8)  # (outer, inner)
    for row, scale, target in zip(matrix, scales, rows, strict=True):  # by row: no second matrix in float32
        np.rint(row / scale, out=target, casting="unsafe")  # within -127 to 127
    return Int8Matrix(rows, scales)


class Kernels(NamedTuple):
    """Compiled functions; they use as many threads as NUMBA_NUM_THREADS said when Numba was imported."""

    multiply: Any  # (rows, scales, x, out): None
    dequantize: Any  # (rows, scales, out): None


@cache
def compile_kernels() -> Kernels:
    """
    Compiles them, once, in about three seconds; ModuleNotFoundError where Numba is not installed.

    Not kept in Numba's cache: it wants a folder to write to, which a service may not have.
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

    # On one thread: those of OpenMP would still wait busily when the threads of BLAS start on what this has made.
    @njit([types.void(row_of_int8, vector, types.float32[:, ::1])])
    def dequantize(rows: Any, scales: Any, out: Any) -> None:
        for r in range(rows.shape[0]):
            for i in range(rows.shape[1]):
                out[r, i] = np.float32(rows[r, i]) * scales[r]

    return Kernels(multiply, dequantize)
