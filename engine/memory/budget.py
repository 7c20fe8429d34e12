"""
Memory told before it is taken, and taken whole before the first request.

Engines that allocate at the first request what loading did not die then, when traffic is there and the operator has
left (SciSharp/LLamaSharp#759: two models fitted, the first inference of one did not).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy.random  # noqa: F401  NumPy loads it when it is first used: it would count as the model's

from engine.decoder.matmul import BLOCK_FLOATS
from engine.decoder.model import PREFILL_CHUNK, Model, ModelMemory, Span, estimate_memory
from engine.decoder.weights import FLOAT_BYTES, ModelConfig
from engine.memory.bandwidth import get_benchmark_bytes
from engine.memory.numa_nodes import MemoryLimit
from engine.memory.sizing import COMPILER_BYTES, INTERPRETER_BYTES, format_mebibytes

PANEL_COLUMNS = 384  # columns that OpenBLAS packs at a time (its GEMM_Q for float32 on x86-64)


class MemoryFootprint(NamedTuple):
    """Bytes that an engine takes, known before it takes any."""

    memory: ModelMemory
    activations: int  # activations of the largest pass, and what is made of matrices for it
    overhead: int  # Python and the libraries
    benchmark: int  # for a moment at the start, to know what bandwidth there is

    @property
    def total(self) -> int:
        """The whole process, at its largest."""
        return self.memory.total + self.activations + self.overhead + self.benchmark

    def describe(self, slots: int, limits: Sequence[MemoryLimit]) -> str:
        """The sum, and what there is to take it from: the smallest of what limits this process."""
        memory = self.memory
        parts = [
            f"weights {format_mebibytes(memory.weights)}",
            f"KV cache {format_mebibytes(memory.kv_cache)} in {slots} slots",
        ]
        parts += [f"scratch {format_mebibytes(memory.scratch)}", f"passes {format_mebibytes(self.activations)}"]
        parts += [f"measuring {format_mebibytes(self.benchmark)} for a moment"] if self.benchmark else []
        available = [
            f"; {format_mebibytes(limit.available)} can be had of {limit.name}" for limit in limits if limit.available
        ]
        return (
            f"memory: {', '.join(parts)}, Python and its libraries about {format_mebibytes(self.overhead)}, together "
            f"{format_mebibytes(self.total)}{''.join(available[:1])}"
        )


def estimate_footprint(config: ModelConfig, context: int, slots: int, threads: int) -> MemoryFootprint:
    """
    What an engine of this shape will take.

    Several threads of OpenBLAS pack a panel of the whole longest matrix at once, one packs a block of it (measured); it
    never starts more than the processors that this process may run on.
    """
    threads = min(threads, len(os.sched_getaffinity(0)))
    rows = max(PREFILL_CHUNK, slots)
    activations = rows * (4 * config.dim + 2 * config.query_dim + 3 * config.hidden)
    packed = PANEL_COLUMNS * 2 * config.hidden if threads > 1 and not config.int8 else 0
    packed += config.int8 * BLOCK_FLOATS  # of an 8-bit matrix a block at a time is made float32
    overhead = INTERPRETER_BYTES + config.int8 * COMPILER_BYTES
    return MemoryFootprint(
        estimate_memory(config, context, slots),
        FLOAT_BYTES * (activations + packed),
        overhead,
        get_benchmark_bytes(config),
    )


def describe_growth(footprint: MemoryFootprint, before: int | None, after: int | None, *, lazy: bool) -> str:
    """What was told beside what the process has grown by."""
    estimate = footprint.memory.total + footprint.activations
    if before is None or after is None:
        return f"memory: {format_mebibytes(estimate)} were told; what was taken cannot be, without /proc"
    remainder = ", and the rest with the first request (--lazy)" if lazy else ""
    return (
        f"memory: {format_mebibytes(estimate)} were told beside Python, and "
        f"{format_mebibytes(after - before)} taken{remainder}"
    )


def trim_heap() -> None:
    """Gives the kernel what lies unused in the heap: matrices that 8-bit ones were made from."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl gives back by itself
    if trim is not None:
        trim(0)


def warm_up(model: Model) -> None:
    """
    One pass of each kind at the end of the context, where each needs most: BLAS packs matrices into buffers that it
    touches with the first product, and the activations come from a heap that has to grow once.
    """
    tokens = min(PREFILL_CHUNK, model.context - 1)
    model.compute_hidden_states([Span([0] * tokens, 0, model.context - 1 - tokens)])
    slots = range(model.slots)
    model.decode([0 for _ in slots], slots, [model.context - 1 for _ in slots])


def read_resident_bytes() -> int | None:
    """Bytes of this process that are in memory now; None where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None  # missing, never 0
