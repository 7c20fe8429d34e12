"""`python -m bench.decoding SHAPE WEIGHTS SECONDS`: the engine's passes beside sgemv over its own matrices, as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from engine.decoder.matmul import product
from engine.decoder.model import Model, memory_of
from engine.decoder.weights import Array, Config, Matrix, seeded_weights
from engine.memory.sizing import available_memory

SHAPES = {
    "15M": Config(vocab=32000, dim=288, layers=6, heads=6, kv_heads=6, head_dim=48, hidden=768),
    "110M": Config(vocab=32000, dim=768, layers=12, heads=12, kv_heads=12, head_dim=64, hidden=2048),
    "1.1B": Config(vocab=32000, dim=2048, layers=22, heads=32, kv_heads=4, head_dim=64, hidden=5632, tied=False),
}
CONTEXT, POSITION, BATCH, PROMPT = 256, 64, 4, 64
PEAK = 1.3  # times the weights: while 8-bit weights are made, a matrix is there twice


def shape(name: str, weights: str) -> Config:
    """One of SHAPES, with its matrices kept so; the classifier is tied, which a seeded model always is."""
    return dataclasses.replace(SHAPES[name], int8=weights == "int8", tied=True)


def matrices(model: Model) -> list[Matrix]:
    """What one decoded token reads, in its order."""
    layers = model.weights.layers
    blocks = [[block.query_key_value, block.output, block.gate_up, block.down] for block in layers]
    return [matrix for block in blocks for matrix in block] + [model.weights.classifier]


def fastest(work: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Seconds of each piece of work at its best, all by turns: another's burst on this host then meets them all."""
    best = dict.fromkeys(work, float("inf"))
    until = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < until:
        for name, piece in work.items():
            began = time.perf_counter()
            piece()
            best[name] = min(best[name], time.perf_counter() - began)
        rounds += 1
    return best


def measured(name: str, weights: str, seconds: float) -> dict[str, float]:
    """Seconds per pass, and the bytes of the weights; ValueError where they have no room here."""
    config = shape(name, weights)
    needed, free = memory_of(config, CONTEXT, BATCH).total * PEAK, available_memory()
    if free is not None and needed > free * 0.8:
        raise ValueError(f"{needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are available")
    model = Model(seeded_weights(config, 0), CONTEXT, BATCH)
    vectors = {width: np.ones((1, width), np.float32) for width in (config.dim, config.query_dim, config.hidden)}
    used: list[tuple[Array, Matrix]] = [
        (vectors[(m if isinstance(m, np.ndarray) else m.rows).shape[1]], m) for m in matrices(model)
    ]
    work: dict[str, Callable[[], object]] = {
        "products": lambda: [product(vector, matrix) for vector, matrix in used],
        "decode": lambda: model.decode([1], [0], [POSITION]),
        "batch": lambda: model.decode([1] * BATCH, range(BATCH), [POSITION] * BATCH),
        "prefill": lambda: list(model.prefill([1] * PROMPT)),
    }
    if weights == "float32":  # BLAS itself, and not the engine's way to it
        plain = [(m, vector[0]) for vector, m in used if isinstance(m, np.ndarray)]
        work["products"] = lambda: [np.matmul(matrix, vector) for matrix, vector in plain]
    return fastest(work, seconds) | {"weights_bytes": config.weights_bytes}


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(measured(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
    except (ValueError, ModuleNotFoundError) as error:
        sys.stdout.write(json.dumps({"left_out": str(error)}))
