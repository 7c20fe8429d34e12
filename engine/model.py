"""
The decoder: RMSNorm, rotary positions, grouped-query attention over a KV cache, SwiGLU.

Architecture: https://arxiv.org/abs/2302.13971 (Llama), https://arxiv.org/abs/2104.09864 (RoPE, in the "rotate half"
layout of Hugging Face checkpoints), https://arxiv.org/abs/2305.13245 (grouped queries).
Everything is float32: one np.float64 scalar promotes the activations, and BLAS then copies each weight matrix to
float64 for every token, which costs a factor of 26.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from engine.weights import FLOAT_BYTES, Array, Config, Layer, Weights

PREFILL_CHUNK = 32  # tokens per pass; bounds scratch, and the time until a pass notices that its client has left


class Memory(NamedTuple):
    """Bytes a model takes, known before it is made."""

    weights: int
    kv_cache: int
    scratch: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv_cache + self.scratch


def memory_of(config: Config, context: int) -> Memory:
    """What `Model` will allocate; a pass needs a few kilobytes per token more."""
    kv_cache = 2 * config.layers * context * config.kv_dim * FLOAT_BYTES
    rows = config.query_dim + 2 * config.kv_dim + 2 * config.hidden + config.heads * context
    rope = context * config.head_dim
    scratch = FLOAT_BYTES * (PREFILL_CHUNK * rows + rope + PREFILL_CHUNK * PREFILL_CHUNK)
    return Memory(config.weights_bytes, kv_cache, scratch)


class Model:
    """Weights and one sequence's KV cache; not for two threads at a time."""

    def __init__(self, weights: Weights, context: int) -> None:
        c = weights.config
        self.weights = weights
        self.config = c
        self.context = context
        cache = (c.layers, c.kv_heads, context, c.head_dim)
        self.keys = _touched(*cache)  # (layers, kv_heads, context, head_dim)
        self.values = _touched(*cache)  # (layers, kv_heads, context, head_dim)
        self.cosine, self.sine = _rotation(context, c.head_dim, c.rope_theta)  # each (context, head_dim / 2)
        self._mask = np.triu(np.full((PREFILL_CHUNK, PREFILL_CHUNK), -np.inf, np.float32), 1)  # (query, key)
        self._qkv = _touched(PREFILL_CHUNK, c.query_dim + 2 * c.kv_dim)
        self._gate_up = _touched(PREFILL_CHUNK, 2 * c.hidden)
        self._scores = _touched(PREFILL_CHUNK * c.heads * context)  # viewed as (kv_heads, group * n, length)

    def arrays(self) -> list[Array]:
        """Every array that stays allocated."""
        own = [self.keys, self.values, self.cosine, self.sine, self._mask, self._qkv, self._gate_up, self._scores]
        return self.weights.arrays() + own

    def prefill(self, tokens: Sequence[int]) -> Iterator[int]:
        """Puts a prompt at position 0 and on, a chunk at a time; yields the tokens done so far."""
        for start in range(0, len(tokens), PREFILL_CHUNK):
            chunk = tokens[start : start + PREFILL_CHUNK]
            self.hidden_state(chunk, start)
            yield start + len(chunk)

    def decode(self, token: int, position: int) -> Array:
        """Puts one token at `position`; the logits (vocab,) of the token after it."""
        x = self.hidden_state([token], position)  # (1, dim)
        logits: Array = np.matmul(x, self.weights.embedding.T)[0]  # (vocab,)
        return logits

    def hidden_state(self, tokens: Sequence[int], start: int) -> Array:
        """
        Puts n tokens at positions start, start + 1, …; their last, normalised hidden states (n, dim).

        Raises ValueError where they do not fit the context or one pass.
        """
        if len(tokens) > PREFILL_CHUNK or start + len(tokens) > self.context:
            raise ValueError(f"{len(tokens)} tokens from {start} exceed the context of {self.context} or one pass")
        x = self.weights.embedding[np.asarray(tokens, np.intp)]  # (n, dim), a copy
        for layer, keys, values in zip(self.weights.layers, self.keys, self.values, strict=True):
            x += self._attention(layer, keys, values, self._normed(x, layer.attention_norm), start)
            x += self._feed_forward(layer, self._normed(x, layer.feed_forward_norm))
        return self._normed(x, self.weights.norm)

    def _normed(self, x: Array, weight: Array) -> Array:
        return rms_norm(x, weight, self.config.norm_epsilon)

    def _attention(self, layer: Layer, keys: Array, values: Array, x: Array, start: int) -> Array:
        c, n = self.config, len(x)
        end = start + n
        qkv = np.matmul(x, layer.query_key_value.T, out=self._qkv[:n])  # (n, query_dim + 2 * kv_dim)
        heads = qkv.reshape(n, c.heads + 2 * c.kv_heads, c.head_dim)  # the heads of queries, keys, values
        turned = self._rotated(heads[:, : c.heads + c.kv_heads], start)  # (n, heads + kv_heads, head_dim)
        keys[:, start:end] = turned[:, c.heads :].transpose(1, 0, 2)  # keys: (kv_heads, context, head_dim)
        values[:, start:end] = heads[:, c.heads + c.kv_heads :].transpose(1, 0, 2)
        mixed = self._mixed(turned[:, : c.heads], keys[:, :end], values[:, :end])  # (n, query_dim)
        added: Array = np.matmul(mixed, layer.output.T)  # (n, dim)
        return added

    def _mixed(self, query: Array, keys: Array, values: Array) -> Array:
        c, n, length = self.config, len(query), keys.shape[1]
        group = c.heads // c.kv_heads  # query heads that share one key head
        query = query.reshape(n, c.kv_heads, group, c.head_dim).transpose(1, 2, 0, 3)  # (kv_heads, group, n, head_dim)
        query = query.reshape(c.kv_heads, group * n, c.head_dim)
        scores = self._scores[: c.heads * n * length].reshape(c.kv_heads, group * n, length)
        np.matmul(query, keys.transpose(0, 2, 1), out=scores)
        scores *= c.head_dim**-0.5  # Python floats leave float32 alone
        by_query = scores.reshape(c.kv_heads, group, n, length)
        by_query[..., length - n :] += self._mask[:n, :n]
        softmax(scores)
        mixed: Array = np.matmul(scores, values).reshape(c.kv_heads, group, n, c.head_dim)
        return mixed.transpose(2, 0, 1, 3).reshape(n, c.query_dim)

    def _rotated(self, x: Array, start: int) -> Array:
        cosine = self.cosine[start : start + len(x), None]  # (n, 1, head_dim / 2)
        sine = self.sine[start : start + len(x), None]  # (n, 1, head_dim / 2)
        half = x.shape[-1] // 2
        left, right = x[..., :half], x[..., half:]  # each (n, heads, head_dim / 2)
        turned = np.empty_like(x)  # (n, heads, head_dim)
        np.subtract(left * cosine, right * sine, out=turned[..., :half])
        np.add(right * cosine, left * sine, out=turned[..., half:])
        return turned

    def _feed_forward(self, layer: Layer, x: Array) -> Array:
        gate_up = np.matmul(x, layer.gate_up.T, out=self._gate_up[: len(x)])  # (n, 2 * hidden)
        gate, up = gate_up[:, : self.config.hidden], gate_up[:, self.config.hidden :]  # each (n, hidden)
        added: Array = np.matmul(silu(gate) * up, layer.down.T)  # (n, dim)
        return added


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """Each row (n, dim) scaled to a root mean square of 1, times `weight` (dim,)."""
    mean_square = np.add.reduce(x * x, axis=-1, keepdims=True) / x.shape[-1]  # (n, 1)
    scaled: Array = x / np.sqrt(mean_square + epsilon) * weight
    return scaled


def softmax(x: Array) -> None:
    """Softmax over the last axis, in place."""
    x -= np.maximum.reduce(x, axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= np.add.reduce(x, axis=-1, keepdims=True)


def silu(x: Array) -> Array:
    """x * sigmoid(x), by tanh because exp(-x) overflows."""
    activated: Array = x * (0.5 * np.tanh(0.5 * x) + 0.5)
    return activated


def _rotation(context: int, head_dim: int, theta: float) -> tuple[Array, Array]:
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / head_dim  # (head_dim / 2,)
    angle = np.outer(np.arange(context, dtype=np.float32), theta**-exponent)  # (context, head_dim / 2)
    return np.cos(angle), np.sin(angle)


def _touched(*shape: int) -> Array:
    """Zeros whose pages exist: np.zeros is lazy, and memory that runs out later runs out during a request."""
    array = np.empty(shape, np.float32)
    array.fill(0.0)
    return array
