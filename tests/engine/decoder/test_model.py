"""The decoder against a slow one of plain loops, and against itself."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.checkpoints.tokenizer import encode_bytes
from engine.decoder.matmul import BLOCK_FLOATS, MIN_GEMM_ROWS, multiply
from engine.decoder.model import PREFILL_CHUNK, Model, Span, estimate_memory
from engine.decoder.sampler import TokenSampler
from engine.decoder.weights import Array, Layer, ModelConfig, Weights, create_seeded_weights
from tests.engine.spy import Spy, spy_on

ROOT = Path(__file__).parents[3]
GOLDEN = [28, 59, 138, 138, 138, 118, 118, 118, 124, 74, 74, 74, 74, 74, 74, 74]
TINY = ModelConfig(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)


def compute_slow_logits(weights: Weights, tokens: list[int]) -> list[float]:
    """Computes the logits after the last token, with loops over Python floats, one head at a time."""
    c = weights.config
    states = [weights.embedding[token].astype(float).tolist() for token in tokens]
    for layer in weights.layers:
        normed = [normalize_slowly(state, layer.attention_norm, c.norm_epsilon) for state in states]
        mixed = compute_slow_attention(weights, layer, normed)
        states = [add(state, multiply_vector(layer.output, row)) for state, row in zip(states, mixed, strict=True)]
        for i, state in enumerate(states):
            both = multiply_vector(layer.gate_up, normalize_slowly(state, layer.feed_forward_norm, c.norm_epsilon))
            gated = [g / (1 + math.exp(-g)) * u for g, u in zip(both[: c.hidden], both[c.hidden :], strict=True)]
            states[i] = add(state, multiply_vector(layer.down, gated))
    return multiply_vector(weights.embedding, normalize_slowly(states[-1], weights.norm, c.norm_epsilon))


def compute_slow_attention(weights: Weights, layer: Layer, states: list[list[float]]) -> list[list[float]]:
    """Computes causal attention: query head h reads key head h // (heads / kv_heads)."""
    c = weights.config
    rows = [multiply_vector(layer.query_key_value, state) for state in states]
    mixed_rows = []
    for i, row in enumerate(rows):
        mixed: list[float] = []
        for head in range(c.heads):
            shared = head // (c.heads // c.kv_heads)
            query = rotate_pairs(get_head(row, head, c.head_dim), i, c.rope.theta)
            keys = [
                rotate_pairs(get_head(r, c.heads + shared, c.head_dim), j, c.rope.theta) for j, r in enumerate(rows)
            ]
            scores = [sum(a * b for a, b in zip(query, k, strict=True)) / math.sqrt(c.head_dim) for k in keys[: i + 1]]
            weight = [math.exp(score - max(scores)) for score in scores]
            values = [get_head(r, c.heads + c.kv_heads + shared, c.head_dim) for r in rows[: i + 1]]
            for d in range(c.head_dim):
                mixed.append(sum(w * v[d] for w, v in zip(weight, values, strict=True)) / sum(weight))
        mixed_rows.append(mixed)
    return mixed_rows


def rotate_pairs(head: list[float], position: int, theta: float) -> list[float]:
    """Applies RoPE: rotates the pair (d, d + half) by position * theta ** (-2 d / head_dim)."""
    half = len(head) // 2
    rotated = [0.0] * len(head)
    for d in range(half):
        angle = position * theta ** (-2 * d / len(head))
        rotated[d] = head[d] * math.cos(angle) - head[d + half] * math.sin(angle)
        rotated[d + half] = head[d + half] * math.cos(angle) + head[d] * math.sin(angle)
    return rotated


def get_head(row: list[float], index: int, head_dim: int) -> list[float]:
    """Returns one head of a row of heads."""
    return row[index * head_dim : (index + 1) * head_dim]


def normalize_slowly(x: list[float], weight: Array, epsilon: float) -> list[float]:
    """Applies RMSNorm."""
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + epsilon)
    return [v * scale * float(w) for v, w in zip(x, weight, strict=True)]


def multiply_vector(matrix: Array, x: list[float]) -> list[float]:
    """Multiplies a matrix by a vector."""
    return [sum(float(m) * v for m, v in zip(row, x, strict=True)) for row in matrix]


def add(a: list[float], b: list[float]) -> list[float]:
    """Adds two vectors."""
    return [x + y for x, y in zip(a, b, strict=True)]


def compute_logits(model: Model, tokens: list[int], slot: int = 0) -> Array:
    """Prefills all tokens but the last, decodes the last, and returns its logits."""
    for _done in model.prefill(tokens[:-1], slot):
        pass
    return model.decode([tokens[-1]], [slot], [len(tokens) - 1])[0]


def measure_difference(a: Any, b: Any) -> float:
    """Returns the largest difference over the largest magnitude."""
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(np.asarray(b))))


def randomize_norms(weights: Weights) -> Weights:
    """Returns the weights with random norm weights, so that a skipped norm changes the logits."""
    generator = np.random.default_rng(1)

    def norm(like: Array) -> Array:
        return generator.random(like.shape, dtype=np.float32) + 0.5

    layers = tuple(
        dataclasses.replace(b, attention_norm=norm(b.attention_norm), feed_forward_norm=norm(b.feed_forward_norm))
        for b in weights.layers
    )
    return dataclasses.replace(weights, layers=layers, norm=norm(weights.norm))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_logits_equal_a_slow_loop(kv_heads: int) -> None:
    """RMSNorm, RoPE, grouped queries and SwiGLU equal loops over Python floats."""
    config = dataclasses.replace(TINY, kv_heads=kv_heads)
    weights = randomize_norms(create_seeded_weights(config, seed=3))
    tokens = [256, 5, 250, 17, 17, 99, 0]

    assert measure_difference(compute_logits(Model(weights, 16), tokens), compute_slow_logits(weights, tokens)) < 1e-4


@pytest.mark.parametrize("length", [2, PREFILL_CHUNK, PREFILL_CHUNK + 1, PREFILL_CHUNK + 2, 3 * PREFILL_CHUNK + 5])
def test_prefill_equals_token_by_token(length: int) -> None:
    """A prompt in chunks has the logits of the same prompt token by token."""
    weights = create_seeded_weights(TINY, seed=4)
    tokens = [(7 * i * i + 3) % 256 for i in range(length)]
    single = Model(weights, 128)
    for position, token in enumerate(tokens):
        expected = single.decode([token], [0], [position])[0]

    assert measure_difference(compute_logits(Model(weights, 128), tokens), expected) < 1e-4


@pytest.mark.parametrize("count", [2, MIN_GEMM_ROWS - 1, MIN_GEMM_ROWS, MIN_GEMM_ROWS + 3])
def test_batch_equals_single(count: int) -> None:
    """Sequences of different lengths in one pass have the logits of each alone, to 1e-5 of the largest."""
    weights = create_seeded_weights(TINY, seed=6)
    prompts = [[(5 * i + slot) % 256 for i in range(3 + 7 * slot)] for slot in range(count)]
    together = Model(weights, 128, slots=count)
    for slot, prompt in enumerate(prompts):
        for _done in together.prefill(prompt[:-1], slot):
            pass
    order = list(reversed(range(count)))  # the row of a sequence need not be its slot
    logits = together.decode([prompts[slot][-1] for slot in order], order, [len(prompts[slot]) - 1 for slot in order])

    for row, slot in zip(logits, order, strict=True):
        assert measure_difference(row, compute_logits(Model(weights, 128), prompts[slot])) < 1e-5


def test_prefill_goes_on_where_it_was() -> None:
    """A prompt in two prefills, the second from the end of the first, has the logits of one prefill."""
    weights, tokens = create_seeded_weights(TINY, seed=4), list(range(50))
    halves = Model(weights, 64, slots=2)
    done = [*halves.prefill(tokens[:20], 1), *halves.prefill(tokens[20:-1], 1, start=20)]

    assert done == [20, 29]
    assert measure_difference(halves.decode([49], [1], [49])[0], compute_logits(Model(weights, 64), tokens)) < 1e-5


def test_earlier_sequence_leaves_no_trace() -> None:
    """The rest of an earlier, longer sequence in the KV cache does not change a later one."""
    weights = create_seeded_weights(TINY, seed=5)
    used = Model(weights, 64)
    compute_logits(used, list(range(60)))

    assert np.array_equal(compute_logits(used, [1, 2, 3]), compute_logits(Model(weights, 64), [1, 2, 3]))


def test_greedy_text_is_golden(model: Model) -> None:
    """Seed 7 and the prompt "tokens" give one known greedy sequence, with logits far enough apart to be stable."""
    prompt, tokens, margins = encode_bytes("tokens"), [], []
    logits = compute_logits(model, prompt)
    for position in range(len(prompt), len(prompt) + 16):
        tokens.append(TokenSampler(0.0, None)(logits))
        first, second = np.sort(logits)[:-3:-1]
        margins.append(float(first - second))
        logits = model.decode([tokens[-1]], [0], [position])[0]

    assert min(margins) > 1e-3
    assert tokens == GOLDEN


@pytest.mark.parametrize("rows", [1, 2, MIN_GEMM_ROWS - 1, MIN_GEMM_ROWS, 40])
def test_product_is_the_product(rows: int) -> None:
    """In blocks, whole or by row, the product equals NumPy's in float64, up to the precision of float32 sums."""
    generator = np.random.default_rng(rows)
    x = generator.random((rows, 700), np.float32)
    matrix = generator.random((BLOCK_FLOATS // 700 * 2 + 13, 700), np.float32)  # two blocks and a piece of a third

    assert measure_difference(multiply(x, matrix), x.astype(float) @ matrix.T.astype(float)) < 1e-5


def test_no_float64(model: Model) -> None:
    """Every permanent array and every intermediate of prefill, decode and sampling is float32."""
    stored_dtypes = {array.dtype for array in model.list_arrays()}
    Spy.dtypes = set()
    chosen = TokenSampler(0.8, 1)(compute_logits(spy_on(model), encode_bytes("x" * 50)))

    assert stored_dtypes == {np.dtype(np.float32)}
    assert Spy.dtypes == {np.dtype(np.float32)}
    assert 0 <= chosen < TINY.vocab


def test_spy_sees_promotion() -> None:
    """The spy of the test above notices one np.float64 scalar, which promotes everything."""
    Spy.dtypes = set()
    _ = np.ones(3, np.float32).view(Spy) * np.float64(1 / np.sqrt(8))

    assert np.dtype(np.float64) in Spy.dtypes


@pytest.mark.parametrize("slots", [1, 3, 40])
def test_memory_is_known_before(model: Model, slots: int) -> None:
    """The estimated bytes are the bytes of the arrays."""
    model = Model(model.weights, 48, slots)
    estimate = estimate_memory(TINY, 48, slots)
    cache = model.keys.nbytes + model.values.nbytes

    assert estimate.weights == sum(array.nbytes for array in model.weights.list_arrays())
    assert estimate.kv_cache == cache
    assert estimate.total == sum(array.nbytes for array in model.list_arrays())


TOUCHED = """
import json
from engine.decoder.model import Model
from engine.decoder.weights import ModelConfig, create_seeded_weights

def resident():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

config = ModelConfig(vocab=257, dim=32, layers=2, heads=4, kv_heads=4, head_dim=8, hidden=48)
weights = create_seeded_weights(config, seed=0)
before = resident()
model = Model(weights, 1 << 17)
own = model.list_arrays()[len(weights.list_arrays()):]
cache = model.keys.nbytes + model.values.nbytes
print(json.dumps({"cache": cache, "own": sum(array.nbytes for array in own), "resident": resident() - before}))
"""


def test_cache_is_touched() -> None:
    """KV cache and scratch are resident before the first request; measured in a new process."""
    completed = subprocess.run(
        [sys.executable, "-c", TOUCHED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=50
    )
    sizes = json.loads(completed.stdout)

    assert sizes["cache"] == 64 << 20
    assert sizes["resident"] >= 0.98 * sizes["own"] > sizes["cache"]


@pytest.mark.parametrize(("count", "start"), [(PREFILL_CHUNK + 1, 0), (2, 127), (1, 128)])
def test_too_much_for_the_context_is_refused(model: Model, count: int, start: int) -> None:
    """Tokens beyond the context or one pass are an error with numbers, not a broken shape."""
    with pytest.raises(ValueError, match=f"{count} tokens from {start} exceed"):
        model.compute_hidden_states([Span([1] * count, 0, start)])


@pytest.mark.parametrize(
    ("spans", "sentence"),
    [
        ([Span([1], 1, 0)], "there is no slot 1: the model has 1"),
        ([Span([1], 0, 0), Span([2], 0, 1)], "in different slots"),
        ([Span([], 0, 0)], "1 to 32 tokens in different slots, not 0"),
    ],
)
def test_slots_are_checked(model: Model, spans: list[Span], sentence: str) -> None:
    """A missing slot, a slot used twice and an empty pass are errors with a sentence."""
    with pytest.raises(ValueError, match=sentence):
        model.compute_hidden_states(spans)
