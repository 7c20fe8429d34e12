"""
Memory told before it is taken, and taken whole before the first request.

Engines that allocate at the first request what loading did not die then, when traffic is there and the operator has
left (SciSharp/LLamaSharp#759: two models fitted, the first inference of one did not).
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy.random  # noqa: F401  NumPy loads it when it is first used: it would count as the model's

from engine.model import PREFILL_CHUNK, Memory, Model, Span
from engine.placement import Place
from engine.sizing import INTERPRETER, mebibytes


def told(memory: Memory, slots: int, places: Sequence[Place]) -> str:
    """The sum, and what there is to take it from: the smallest of what limits this process."""
    least = next(
        (f"; {mebibytes(place.available)} can be had of {place.name}" for place in places if place.available), ""
    )
    return (
        f"memory: weights {mebibytes(memory.weights)}, KV cache {mebibytes(memory.kv_cache)}"
        f"{f' in {slots} slots' if slots > 1 else ''}, scratch {mebibytes(memory.scratch)}, Python and NumPy about "
        f"{mebibytes(INTERPRETER)}, together {mebibytes(memory.total + INTERPRETER)}{least}"
    )


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
