"""`python -m bench.decoding SHAPE WEIGHTS SECONDS`: times the engine's passes and sgemv over its matrices, as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from engine.decoder.matmul import multiply
from engine.decoder.model import Model, estimate_memory
from engine.decoder.weights import Array, ModelConfig, WeightMatrix, create_seeded_weights
from engine.memory.sizing import read_available_memory

SHAPES = {
    "15M": ModelConfig(vocab=32000, dim=288, layers=6, heads=6, kv_heads=6, head_dim=48, hidden=768),
    "110M": ModelConfig(vocab=32000, dim=768, layers=12, heads=12, kv_heads=12, head_dim=64, hidden=2048),
    "1.1B": ModelConfig(vocab=32000, dim=2048, layers=22, heads=32, kv_heads=4, head_dim=64, hidden=5632, tied=False),
}
CONTEXT, POSITION, BATCH, PROMPT = 256, 64, 4, 64
PEAK_FACTOR = 1.3  # times the weights: a matrix exists twice while it is quantised


def build_config(name: str, weights: str) -> ModelConfig:
    """Returns one of SHAPES with matrices in the format `weights`; its classifier is tied, as in every seeded model."""
    return dataclasses.replace(SHAPES[name], int8=weights == "int8", tied=True)


def list_matrices(model: Model) -> list[WeightMatrix]:
    """Returns the matrices that decoding a token reads, in order."""
    layers = model.weights.layers
    blocks = [[block.query_key_value, block.output, block.gate_up, block.down] for block in layers]
    return [matrix for block in blocks for matrix in block] + [model.weights.classifier]


def time_fastest(jobs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Returns the shortest time of each job; the jobs take turns, so that other load on this host affects all alike."""
    best = dict.fromkeys(jobs, float("inf"))
    deadline = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < deadline:
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            best[name] = min(best[name], time.perf_counter() - started)
        rounds += 1
    return best


def measure_passes(name: str, weights: str, seconds: float) -> dict[str, float]:
    """Returns seconds per pass and the bytes of the weights; raises ValueError if this host lacks the memory."""
    config = build_config(name, weights)
    needed_bytes, free_bytes = estimate_memory(config, CONTEXT, BATCH).total * PEAK_FACTOR, read_available_memory()
    if free_bytes is not None and needed_bytes > free_bytes * 0.8:
        raise ValueError(f"{needed_bytes / 1e9:.1f} GB are needed, and {free_bytes / 1e9:.1f} GB are available")
    model = Model(create_seeded_weights(config, 0), CONTEXT, BATCH)
    vectors = {width: np.ones((1, width), np.float32) for width in (config.dim, config.query_dim, config.hidden)}
    operands: list[tuple[Array, WeightMatrix]] = [
        (vectors[(m if isinstance(m, np.ndarray) else m.rows).shape[1]], m) for m in list_matrices(model)
    ]
    jobs: dict[str, Callable[[], object]] = {
        "products": lambda: [multiply(vector, matrix) for vector, matrix in operands],
        "decode": lambda: model.decode([1], [0], [POSITION]),
        "batch": lambda: model.decode([1] * BATCH, range(BATCH), [POSITION] * BATCH),
        "prefill": lambda: list(model.prefill([1] * PROMPT)),
    }
    if weights == "float32":  # BLAS itself, without the engine's code
        dense_operands = [(m, vector[0]) for vector, m in operands if isinstance(m, np.ndarray)]
        jobs["products"] = lambda: [np.matmul(matrix, vector) for matrix, vector in dense_operands]
    return time_fastest(jobs, seconds) | {"weights_bytes": config.weights_bytes}


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(measure_passes(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
    except (ValueError, ModuleNotFoundError) as error:
        sys.stdout.write(json.dumps({"left_out": str(error)}))
