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

from engine.decoder.matmul import BLOCK
from engine.decoder.model import PREFILL_CHUNK, Memory, Model, Span, memory_of
from engine.decoder.weights import FLOAT_BYTES, Config
from engine.memory.bandwidth import stand_in
from engine.memory.numa_nodes import Place
from engine.memory.sizing import COMPILER, INTERPRETER, mebibytes

PANEL = 384  # columns that OpenBLAS packs at a time (its GEMM_Q for float32 on x86-64)


class Need(NamedTuple):
    """Bytes that an engine takes, known before it takes any."""

    memory: Memory
    passes: int  # activations of the largest pass, and what is made of matrices for it
    around: int  # Python and the libraries
    measuring: int  # for a moment at the start, to know what bandwidth there is

    @property
    def total(self) -> int:
        """The whole process, at its largest."""
        return self.memory.total + self.passes + self.around + self.measuring

    def sentence(self, slots: int, places: Sequence[Place]) -> str:
        """The sum, and what there is to take it from: the smallest of what limits this process."""
        m = self.memory
        parts = [f"weights {mebibytes(m.weights)}", f"KV cache {mebibytes(m.kv_cache)} in {slots} slots"]
        parts += [f"scratch {mebibytes(m.scratch)}", f"passes {mebibytes(self.passes)}"]
        parts += [f"measuring {mebibytes(self.measuring)} for a moment"] if self.measuring else []
        least = [f"; {mebibytes(place.available)} can be had of {place.name}" for place in places if place.available]
        return (
            f"memory: {', '.join(parts)}, Python and its libraries about {mebibytes(self.around)}, together "
            f"{mebibytes(self.total)}{''.join(least[:1])}"
        )


def need(config: Config, context: int, slots: int, threads: int) -> Need:
    """
    What an engine of this shape will take.

    Several threads of OpenBLAS pack a panel of the whole longest matrix at once, one packs a block of it (measured); it
    never starts more than the processors that this process may run on.
    """
    threads = min(threads, len(os.sched_getaffinity(0)))
    rows = max(PREFILL_CHUNK, slots)
    activations = rows * (4 * config.dim + 2 * config.query_dim + 3 * config.hidden)
    packed = PANEL * 2 * config.hidden if threads > 1 and not config.int8 else 0
    packed += config.int8 * BLOCK  # of an 8-bit matrix a block at a time is made float32
    around = INTERPRETER + config.int8 * COMPILER
    return Need(memory_of(config, context, slots), FLOAT_BYTES * (activations + packed), around, stand_in(config))


def taken(needed: Need, before: int | None, after: int | None, *, lazy: bool) -> str:
    """What was told beside what the process has grown by."""
    told = needed.memory.total + needed.passes
    if before is None or after is None:
        return f"memory: {mebibytes(told)} were told; what was taken cannot be, without /proc"
    later = ", and the rest with the first request (--lazy)" if lazy else ""
    return f"memory: {mebibytes(told)} were told beside Python, and {mebibytes(after - before)} taken{later}"


def give_back() -> None:
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
    model.hidden_states([Span([0] * tokens, 0, model.context - 1 - tokens)])
    every = range(model.slots)
    model.decode([0 for _ in every], every, [model.context - 1 for _ in every])


def resident() -> int | None:
    """Bytes of this process that are in memory now; None where there is no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None  # missing, never 0
