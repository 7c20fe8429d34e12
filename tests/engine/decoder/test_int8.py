"""8-bit weights: the bound of their error, and no other error than rounding."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.decoder.int8 import Int8Matrix, quantize
from engine.decoder.matmul import BLOCK_FLOATS, MIN_GEMM_ROWS, multiply, take_rows
from engine.decoder.model import Model, estimate_memory
from engine.decoder.weights import Array, Layer, ModelConfig, Weights, create_seeded_weights, make_config_of_size
from tests.engine.greedy import measure_difference

ROOT = Path(__file__).parents[3]
TINY = ModelConfig(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48, int8=True)


def dequantize(matrix: object) -> Array:
    """Returns an 8-bit matrix in float32."""
    assert isinstance(matrix, Int8Matrix)
    return matrix.rows * matrix.scales[:, None]


def test_a_weight_is_off_by_half_a_scale() -> None:
    """The error of a weight is at most half of a 127th of its row's largest; a row of zeros remains zeros."""
    matrix = np.random.default_rng(1).standard_normal((50, 300), np.float32)
    matrix[7] = 0
    matrix[8] = -np.abs(matrix[8])
    quantized = quantize(matrix)
    largest = np.abs(matrix).max(axis=1, keepdims=True)

    assert np.all(np.abs(dequantize(quantized) - matrix) <= largest / 127 * 0.5001)
    assert not quantized.rows[7].any()
    assert quantized.rows.min() == -127
    assert (quantized.rows.dtype, quantized.scales.dtype) == (np.int8, np.float32)


@pytest.mark.parametrize("rows", [1, 2, MIN_GEMM_ROWS - 1, MIN_GEMM_ROWS, 40])
def test_product_is_off_by_no_more_than_its_weights(rows: int) -> None:
    """The kernels return the product of the 8-bit matrix, within the error bound of the float32 product."""
    generator = np.random.default_rng(rows)
    x = generator.standard_normal((rows, 700), np.float32)
    matrix = generator.standard_normal((BLOCK_FLOATS // 700 + 13, 700), np.float32)  # more than a block
    quantized = quantize(matrix)
    product = multiply(x, quantized)
    bound = np.abs(x).sum(axis=1)[:, None] * quantized.scales * 0.5  # (rows, outer)

    assert product.dtype == np.float32
    assert measure_difference(product, x.astype(float) @ dequantize(quantized).T.astype(float)) < 1e-5
    assert np.all(np.abs(product - x @ matrix.T) <= bound + 1e-3)


def dequantize_weights(weights: Weights) -> Weights:
    """Returns the same weights in float32."""
    layers = [
        Layer(*(dequantize(w) if isinstance(w, Int8Matrix) else w for w in (getattr(layer, f.name) for f in fields)))
        for layer in weights.layers
        for fields in [dataclasses.fields(Layer)]
    ]
    embedding = dequantize(weights.embedding)
    config = dataclasses.replace(weights.config, int8=False)
    return Weights(config, embedding, tuple(layers), weights.norm, classifier=embedding)


def test_model_is_exact_but_for_its_weights() -> None:
    """A model with 8-bit weights has the logits of the same weights in float32, prefilled and in a batch."""
    weights = create_seeded_weights(TINY, seed=3)
    small, large = Model(weights, 64, slots=3), Model(dequantize_weights(weights), 64, slots=3)
    for model in (small, large):
        for slot in range(3):
            for _done in model.prefill(list(range(5 + 15 * slot)), slot):
                pass
    logits, expected = (model.decode([9, 8, 7], [0, 1, 2], [5, 20, 35]) for model in (small, large))

    assert measure_difference(logits, expected) < 1e-5
    assert np.array_equal(take_rows(weights.embedding, [3, 200]), dequantize(weights.embedding)[[3, 200]])


def test_model_is_near_the_float32_one() -> None:
    """Rounding all matrices of a model to 8 bits changes its logits by under 3 % of the largest."""
    exact = create_seeded_weights(dataclasses.replace(TINY, int8=False), seed=3)
    logits, expected = (Model(w, 64).decode([9], [0], [0]) for w in (create_seeded_weights(TINY, seed=3), exact))

    assert 1e-4 < measure_difference(logits, expected) < 0.03


def test_memory_is_known_before() -> None:
    """The estimated bytes are the bytes of the arrays; a requested size is the size in 8 bits."""
    model = Model(create_seeded_weights(TINY, seed=3), 64)
    config = make_config_of_size(2 << 20, 257, int8=True)

    assert estimate_memory(TINY, 64).total == sum(array.nbytes for array in model.list_arrays())
    assert 2 << 20 <= config.weights_bytes < 1.05 * (2 << 20)
    assert config.weights_bytes < 0.3 * dataclasses.replace(config, int8=False).weights_bytes


def test_without_numba_it_says_what_to_install() -> None:
    """Without Numba, --weights int8 ends with a sentence that names the extra."""
    code = "import sys; sys.modules['numba'] = None; from engine.__main__ import main; sys.exit(main(sys.argv[1:]))"
    completed = subprocess.run(
        [sys.executable, "-c", code, "--size", "1MiB", "--weights", "int8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert completed.returncode == 2
    assert "numba is needed for 8-bit weights: install it with pip install 'steadytok[int8]'" in completed.stderr
    assert "Traceback" not in completed.stderr
