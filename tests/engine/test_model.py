"""The decoder against a slow one written in loops, and against itself."""

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

from engine.model import PREFILL_CHUNK, Model, memory_of
from engine.sampler import Sampler
from engine.tokenizer import encode
from engine.weights import Array, Config, Layer, Weights, seeded_weights

ROOT = Path(__file__).parents[2]
GOLDEN = [28, 59, 138, 138, 138, 118, 118, 118, 124, 74, 74, 74, 74, 74, 74, 74]
TINY = Config(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)


def slow_logits(weights: Weights, tokens: list[int]) -> list[float]:
    """Logits after the last token, by loops over Python floats and one head at a time."""
    c = weights.config
    states = [weights.embedding[token].astype(float).tolist() for token in tokens]
    for layer in weights.layers:
        normed = [slow_norm(state, layer.attention_norm, c.norm_epsilon) for state in states]
        mixed = slow_attention(weights, layer, normed)
        states = [add(state, times(layer.output, row)) for state, row in zip(states, mixed, strict=True)]
        for i, state in enumerate(states):
            both = times(layer.gate_up, slow_norm(state, layer.feed_forward_norm, c.norm_epsilon))
            gated = [g / (1 + math.exp(-g)) * u for g, u in zip(both[: c.hidden], both[c.hidden :], strict=True)]
            states[i] = add(state, times(layer.down, gated))
    return times(weights.embedding, slow_norm(states[-1], weights.norm, c.norm_epsilon))


def slow_attention(weights: Weights, layer: Layer, states: list[list[float]]) -> list[list[float]]:
    """Causal attention: query head h reads key head h // (heads / kv_heads)."""
    c = weights.config
    rows = [times(layer.query_key_value, state) for state in states]
    answer = []
    for i, row in enumerate(rows):
        mixed: list[float] = []
        for head in range(c.heads):
            shared = head // (c.heads // c.kv_heads)
            query = turned(head_of(row, head, c.head_dim), i, c.rope_theta)
            keys = [turned(head_of(r, c.heads + shared, c.head_dim), j, c.rope_theta) for j, r in enumerate(rows)]
            scores = [sum(a * b for a, b in zip(query, k, strict=True)) / math.sqrt(c.head_dim) for k in keys[: i + 1]]
            weight = [math.exp(score - max(scores)) for score in scores]
            values = [head_of(r, c.heads + c.kv_heads + shared, c.head_dim) for r in rows[: i + 1]]
            for d in range(c.head_dim):
                mixed.append(sum(w * v[d] for w, v in zip(weight, values, strict=True)) / sum(weight))
        answer.append(mixed)
    return answer


def turned(head: list[float], position: int, theta: float) -> list[float]:
    """RoPE: the pair (d, d + half) turned by position * theta ** (-2 d / head_dim)."""
    half = len(head) // 2
    answer = [0.0] * len(head)
    for d in range(half):
        angle = position * theta ** (-2 * d / len(head))
        answer[d] = head[d] * math.cos(angle) - head[d + half] * math.sin(angle)
        answer[d + half] = head[d + half] * math.cos(angle) + head[d] * math.sin(angle)
    return answer


def head_of(row: list[float], index: int, head_dim: int) -> list[float]:
    """One head of a row of heads."""
    return row[index * head_dim : (index + 1) * head_dim]


def slow_norm(x: list[float], weight: Array, epsilon: float) -> list[float]:
    """RMSNorm."""
    scale = 1 / math.sqrt(sum(v * v for v in x) / len(x) + epsilon)
    return [v * scale * float(w) for v, w in zip(x, weight, strict=True)]


def times(matrix: Array, x: list[float]) -> list[float]:
    """Matrix times vector."""
    return [sum(float(m) * v for m, v in zip(row, x, strict=True)) for row in matrix]


def add(a: list[float], b: list[float]) -> list[float]:
    """Sum by element."""
    return [x + y for x, y in zip(a, b, strict=True)]


def run(model: Model, tokens: list[int]) -> Array:
    """Logits after the last token: prefill of all but it, then one decode."""
    for _done in model.prefill(tokens[:-1]):
        pass
    return model.decode(tokens[-1], len(tokens) - 1)


def relative_difference(a: Any, b: Any) -> float:
    """Largest difference over largest magnitude."""
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(np.asarray(b))))


def uneven_norms(weights: Weights) -> Weights:
    """The same weights with norm weights that are not all 1, so that leaving one out shows."""
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
    """RMSNorm, RoPE, grouped queries and SwiGLU give what loops over Python floats give."""
    config = dataclasses.replace(TINY, kv_heads=kv_heads)
    weights = uneven_norms(seeded_weights(config, seed=3))
    tokens = [256, 5, 250, 17, 17, 99, 0]

    assert relative_difference(run(Model(weights, 16), tokens), slow_logits(weights, tokens)) < 1e-4


@pytest.mark.parametrize("length", [2, PREFILL_CHUNK, PREFILL_CHUNK + 1, PREFILL_CHUNK + 2, 3 * PREFILL_CHUNK + 5])
def test_prefill_equals_token_by_token(length: int) -> None:
    """A prompt put in chunks gives the logits of the same prompt put one token at a time."""
    weights = seeded_weights(TINY, seed=4)
    tokens = [(7 * i * i + 3) % 256 for i in range(length)]
    single = Model(weights, 128)
    for position, token in enumerate(tokens):
        expected = single.decode(token, position)

    assert relative_difference(run(Model(weights, 128), tokens), expected) < 1e-4


def test_earlier_sequence_leaves_no_trace() -> None:
    """What an earlier, longer sequence left in the KV cache does not change a later one."""
    weights = seeded_weights(TINY, seed=5)
    used = Model(weights, 64)
    run(used, list(range(60)))

    assert np.array_equal(run(used, [1, 2, 3]), run(Model(weights, 64), [1, 2, 3]))


def test_greedy_text_is_golden(model: Model) -> None:
    """Seed 7 and the prompt "tokens" give one known greedy sequence, with logits far enough apart to be stable."""
    prompt, made, margins = encode("tokens"), [], []
    logits = run(model, prompt)
    for position in range(len(prompt), len(prompt) + 16):
        made.append(Sampler(0.0, None)(logits))
        first, second = np.sort(logits)[:-3:-1]
        margins.append(float(first - second))
        logits = model.decode(made[-1], position)

    assert min(margins) > 1e-3
    assert made == GOLDEN


class Spy(np.ndarray[Any, Any]):
    """An array that notes the dtype of everything computed from it."""

    seen: set[np.dtype[Any]] = set()  # noqa: RUF012  __array_finalize__ has no other place to write to

    def __array_finalize__(self, source: object) -> None:
        Spy.seen.add(self.dtype)


def spied(model: Model) -> Model:
    """The model with every array replaced by a spy on it."""
    blocks = [
        Layer(*(getattr(layer, field.name).view(Spy) for field in dataclasses.fields(Layer)))
        for layer in model.weights.layers
    ]
    model.weights = dataclasses.replace(
        model.weights,
        layers=tuple(blocks),
        embedding=model.weights.embedding.view(Spy),
        norm=model.weights.norm.view(Spy),
    )
    for name, value in list(vars(model).items()):
        if isinstance(value, np.ndarray):
            setattr(model, name, value.view(Spy))
    return model


def test_no_float64(model: Model) -> None:
    """Every array that stays and every intermediate of prefill, decode and sampling is float32."""
    kept = {array.dtype for array in model.arrays()}
    Spy.seen = set()
    chosen = Sampler(0.8, 1)(run(spied(model), encode("x" * 50)))

    assert kept == {np.dtype(np.float32)}
    assert Spy.seen == {np.dtype(np.float32)}
    assert 0 <= chosen < TINY.vocab


def test_spy_sees_promotion() -> None:
    """The spy of the test before would notice the one np.float64 scalar that promotes everything."""
    Spy.seen = set()
    _ = np.ones(3, np.float32).view(Spy) * np.float64(1 / np.sqrt(8))

    assert np.dtype(np.float64) in Spy.seen


def test_memory_is_known_before(model: Model) -> None:
    """The bytes announced are the bytes of the arrays."""
    told = memory_of(TINY, model.context)
    cache = model.keys.nbytes + model.values.nbytes

    assert told.weights == sum(array.nbytes for array in model.weights.arrays())
    assert told.kv_cache == cache
    assert told.total == sum(array.nbytes for array in model.arrays())


TOUCHED = """
import json
from engine.model import Model
from engine.weights import Config, seeded_weights

def resident():
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS:"))

weights = seeded_weights(Config(vocab=257, dim=32, layers=2, heads=4, kv_heads=4, head_dim=8, hidden=48), seed=0)
before = resident()
model = Model(weights, 1 << 17)
own = model.arrays()[len(weights.arrays()):]
cache = model.keys.nbytes + model.values.nbytes
print(json.dumps({"cache": cache, "own": sum(array.nbytes for array in own), "resident": resident() - before}))
"""


def test_cache_is_touched() -> None:
    """KV cache and scratch are resident before the first request, not only promised; seen in a heap that is new."""
    done = subprocess.run(
        [sys.executable, "-c", TOUCHED], cwd=ROOT, capture_output=True, text=True, check=True, timeout=50
    )
    seen = json.loads(done.stdout)

    assert seen["cache"] == 64 << 20
    assert seen["resident"] >= 0.98 * seen["own"] > seen["cache"]


@pytest.mark.parametrize(("count", "start"), [(PREFILL_CHUNK + 1, 0), (2, 127), (1, 128)])
def test_too_much_for_the_context_is_refused(model: Model, count: int, start: int) -> None:
    """Tokens past the context or past one pass are an error with numbers, not a broken shape."""
    with pytest.raises(ValueError, match=f"{count} tokens from {start} exceed"):
        model.hidden_state([1] * count, start)
