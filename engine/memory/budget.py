"""
Estimates the memory of an engine before it allocates any, and allocates all of it before the first request.

An engine that allocates during its first request runs out of memory then, under traffic and after the operator has
left (SciSharp/LLamaSharp#759: two models fitted, the first inference of one did not).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy.random  # noqa: F401  NumPy loads it lazily, and its memory would count as the model's

from engine.decoder.matmul import BLOCK_FLOATS
from engine.decoder.model import PREFILL_CHUNK, Model, ModelMemory, Span, estimate_memory
from engine.decoder.weights import FLOAT_BYTES, ModelConfig
from engine.memory.bandwidth import get_benchmark_bytes
from engine.memory.numa_nodes import MemoryLimit
from engine.memory.sizing import COMPILER_BYTES, INTERPRETER_BYTES, format_mebibytes

PANEL_COLUMNS = 384  # columns that OpenBLAS packs at a time (GEMM_Q for float32 on x86-64)


class MemoryFootprint(NamedTuple):
    """Estimated bytes of an engine."""

    memory: ModelMemory
    activations: int  # the largest pass, with packed or dequantised matrices
    overhead: int  # Python and the libraries
    benchmark: int  # temporary, for the bandwidth measurement at the start

    @property
    def total(self) -> int:
        """The whole process at its peak."""
        return self.memory.total + self.activations + self.overhead + self.benchmark

    def describe(self, slots: int, limits: Sequence[MemoryLimit]) -> str:
        """Formats the parts, their sum, and the smallest limit on this process."""
        memory = self.memory
        parts = [
            f"weights {format_mebibytes(memory.weights)}",
            f"KV cache {format_mebibytes(memory.kv_cache)} in {slots} slots",
        ]
        parts += [f"scratch {format_mebibytes(memory.scratch)}", f"passes {format_mebibytes(self.activations)}"]
        parts += [f"measuring {format_mebibytes(self.benchmark)} temporarily"] if self.benchmark else []
        available = [
            f"; {limit.name} has {format_mebibytes(limit.available)} available" for limit in limits if limit.available
        ]
        return (
            f"memory: {', '.join(parts)}, Python and its libraries about {format_mebibytes(self.overhead)}, together "
            f"{format_mebibytes(self.total)}{''.join(available[:1])}"
        )


def estimate_footprint(config: ModelConfig, context: int, slots: int, threads: int) -> MemoryFootprint:
    """
    Estimates the memory of an engine of this shape.

    Several threads of OpenBLAS pack a panel of the longest matrix at once; one thread packs a block of it (measured).
    OpenBLAS never starts more threads than this process has CPUs.
    """
    threads = min(threads, len(os.sched_getaffinity(0)))
    rows = max(PREFILL_CHUNK, slots)
    activations = rows * (4 * config.dim + 2 * config.query_dim + 3 * config.hidden)
    packed = PANEL_COLUMNS * 2 * config.hidden if threads > 1 and not config.int8 else 0
    packed += config.int8 * BLOCK_FLOATS  # 8-bit matrices are dequantised one block at a time
    overhead = INTERPRETER_BYTES + config.int8 * COMPILER_BYTES
    return MemoryFootprint(
        estimate_memory(config, context, slots),
        FLOAT_BYTES * (activations + packed),
        overhead,
        get_benchmark_bytes(config),
    )


def describe_growth(footprint: MemoryFootprint, before: int | None, after: int | None, *, lazy: bool) -> str:
    """Formats the estimate and the measured growth of the process."""
    estimate = footprint.memory.total + footprint.activations
    if before is None or after is None:
        return f"memory: {format_mebibytes(estimate)} estimated; the growth is unknown without /proc"
    remainder = "; the first request takes the rest (--lazy)" if lazy else ""
    return (
        f"memory: {format_mebibytes(estimate)} estimated without Python, the process grew by "
        f"{format_mebibytes(after - before)}{remainder}"
    )


def trim_heap() -> None:
    """Returns unused heap to the kernel: float32 matrices that were quantised."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only; musl returns memory by itself
    if trim is not None:
        trim(0)


def warm_up(model: Model) -> None:
    """
    Runs one pass of each kind at the end of the context, where it needs most memory.

    The first product makes BLAS touch its packing buffers, and the first activations make the heap grow.
    """
    tokens = min(PREFILL_CHUNK, model.context - 1)
    model.compute_hidden_states([Span([0] * tokens, 0, model.context - 1 - tokens)])
    slots = range(model.slots)
    model.decode([0 for _ in slots], slots, [model.context - 1 for _ in slots])


def read_resident_bytes() -> int | None:
    """Returns the resident bytes of this process; None without /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None  # missing, never 0
