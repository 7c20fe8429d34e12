"""
The decoder: RMSNorm, rotary positions, grouped-query attention over a KV cache, SwiGLU.

Architecture: https://arxiv.org/abs/2302.13971 (Llama), https://arxiv.org/abs/2104.09864 (RoPE, in the "rotate half"
layout of Hugging Face checkpoints), https://arxiv.org/abs/2305.13245 (grouped queries), https://arxiv.org/abs/2310.06825
(sliding windows), https://arxiv.org/abs/2407.10671 and https://arxiv.org/abs/2505.09388 (Qwen's biases and head norms).
Everything is float32: one np.float64 scalar promotes the activations, and BLAS then copies each weight matrix to
float64 for every token, which costs a factor of 26.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.decoder.matmul import multiply, take_rows
from engine.decoder.weights import FLOAT_BYTES, Array, Layer, ModelConfig, Weights

PREFILL_CHUNK = 32  # tokens per pass; bounds scratch memory, and the delay until the scheduler sees a client leave


class ModelMemory(NamedTuple):
    """Bytes that a model takes, known before it is loaded."""

    weights: int
    kv_cache: int
    scratch: int

    @property
    def total(self) -> int:
        """Weights, KV cache and scratch together."""
        return self.weights + self.kv_cache + self.scratch


class Span(NamedTuple):
    """Tokens that one pass writes to the cache of one slot, at positions start, start + 1, …"""

    tokens: Sequence[int]
    slot: int
    start: int

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)


def estimate_memory(config: ModelConfig, context: int, slots: int = 1) -> ModelMemory:
    """Returns the bytes that `Model` will allocate; a pass needs a few kilobytes per token more."""
    kv_cache = 2 * config.layers * slots * context * config.kv_dim * FLOAT_BYTES
    rows = max(PREFILL_CHUNK, slots) * (config.query_dim + 2 * config.kv_dim + 2 * config.hidden)
    scores = PREFILL_CHUNK * config.heads * context
    rope = context * config.head_dim
    scratch = FLOAT_BYTES * (rows + scores + rope + PREFILL_CHUNK * PREFILL_CHUNK)
    return ModelMemory(config.weights_bytes, kv_cache, scratch)


class Model:
    """Weights, and one KV cache per slot; not safe for two threads at a time."""

    def __init__(self, weights: Weights, context: int, slots: int = 1, *, lazy: bool = False) -> None:
        """
        Allocates all memory (see estimate_memory); each slot holds `context` tokens.

        With `lazy` the kernel allocates a page at its first use, during a request; an out-of-memory kill comes then.
        """
        c = weights.config
        allocate = _allocate_lazily if lazy else _allocate_touched
        self.weights = weights
        self.config = c
        self.context = context
        self.slots = slots
        self.max_rows = max(PREFILL_CHUNK, slots)  # tokens of one pass
        cache = (c.layers, slots, c.kv_heads, context, c.head_dim)
        self.keys = allocate(*cache)  # (layers, slots, kv_heads, context, head_dim)
        self.values = allocate(*cache)  # (layers, slots, kv_heads, context, head_dim)
        self.cosine, self.sine = c.rope.compute_rotation(context, c.head_dim)  # each (context, head_dim / 2)
        self._mask = np.triu(np.full((PREFILL_CHUNK, PREFILL_CHUNK), -np.inf, np.float32), 1)  # (query, key)
        self._qkv = allocate(self.max_rows, c.query_dim + 2 * c.kv_dim)
        self._gate_up = allocate(self.max_rows, 2 * c.hidden)
        self._scores = allocate(PREFILL_CHUNK * c.heads * context)  # viewed as (kv_heads, group * n, length)

    def list_arrays(self) -> list[NDArray[Any]]:
        """Returns every array that stays allocated."""
        buffers = [self.keys, self.values, self.cosine, self.sine, self._mask, self._qkv, self._gate_up, self._scores]
        return self.weights.list_arrays() + buffers

    def prefill(self, tokens: Sequence[int], slot: int = 0, start: int = 0) -> Iterator[int]:
        """Writes a prompt to a slot from position `start` on, a chunk at a time; yields the number of tokens done."""
        for done in range(0, len(tokens), PREFILL_CHUNK):
            chunk = tokens[done : done + PREFILL_CHUNK]
            self.compute_hidden_states([Span(chunk, slot, start + done)])
            yield done + len(chunk)

    def decode(self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]) -> Array:
        """
        Writes one token to each of n different slots, and returns the logits (n, vocab) of the next tokens.

        One pass: it reads the weights once for all n.
        """
        x = self.compute_hidden_states(
            [Span((t,), s, p) for t, s, p in zip(tokens, slots, positions, strict=True)]
        )  # (n, dim)
        return multiply(x, self.weights.classifier)  # (n, vocab)

    def compute_hidden_states(self, spans: Sequence[Span]) -> Array:
        """
        Runs one pass over the n tokens of the spans; returns their normalised final hidden states (n, dim).

        Raises ValueError if the spans do not fit the context or one pass, or share a slot.
        """
        self._check_spans(spans)
        x = take_rows(self.weights.embedding, [token for span in spans for token in span.tokens])  # (n, dim)
        positions = [position for span in spans for position in range(span.start, span.end)]  # (n,)
        cosine, sine = self.cosine[positions, None], self.sine[positions, None]  # each (n, 1, head_dim / 2)
        for number, layer in enumerate(self.weights.layers):
            qkv = self._project_heads(
                layer, self._normalize(x, layer.attention_norm)
            )  # (n, heads + 2 * kv_heads, head_dim)
            rotate(qkv[:, : self.config.heads + self.config.kv_heads], cosine, sine)
            x += multiply(self._attend(number, qkv, spans), layer.output)
            x += self._apply_feed_forward(layer, self._normalize(x, layer.feed_forward_norm))
        return self._normalize(x, self.weights.norm)

    def _check_spans(self, spans: Sequence[Span]) -> None:
        for span in spans:
            if not 0 <= span.slot < self.slots:
                raise ValueError(f"there is no slot {span.slot}: the model has {self.slots}")
            if len(span.tokens) > PREFILL_CHUNK or span.end > self.context:
                raise ValueError(
                    f"{len(span.tokens)} tokens from {span.start} exceed the context of {self.context} or one pass"
                )
        rows = sum(len(span.tokens) for span in spans)
        if not 0 < rows <= self.max_rows or len({span.slot for span in spans}) < len(spans):
            raise ValueError(f"one pass takes 1 to {self.max_rows} tokens in different slots, not {rows}")

    def _normalize(self, x: Array, weight: Array) -> Array:
        return rms_norm(x, weight, self.config.norm_epsilon)

    def _project_heads(self, layer: Layer, x: Array) -> Array:
        c, n = self.config, len(x)
        qkv = multiply(x, layer.query_key_value, out=self._qkv[:n])  # (n, query_dim + 2 * kv_dim)
        if layer.query_key_value_bias is not None:
            qkv += layer.query_key_value_bias
        heads = qkv.reshape(n, c.heads + 2 * c.kv_heads, c.head_dim)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = heads[:, : c.heads], heads[:, c.heads : c.heads + c.kv_heads]  # each (n, its heads, head_dim)
            query[:] = self._normalize(query, layer.query_norm)
            key[:] = self._normalize(key, layer.key_norm)
        return heads

    def _attend(self, number: int, qkv: Array, spans: Sequence[Span]) -> Array:
        """Writes the new keys and values of layer `number` to the cache and attends over it: (n, query_dim)."""
        c = self.config
        query = qkv[:, : c.heads]  # (n, heads, head_dim)
        key = qkv[:, c.heads : c.heads + c.kv_heads]  # (n, kv_heads, head_dim)
        value = qkv[:, c.heads + c.kv_heads :]  # (n, kv_heads, head_dim)
        window = c.windows[number] if c.windows else None
        mixed = np.empty((len(qkv), c.query_dim), np.float32)  # (n, query_dim)
        first = 0
        for span in spans:
            rows = slice(first, first + len(span.tokens))
            keys, values = self.keys[number, span.slot], self.values[number, span.slot]  # (kv_heads, context, head_dim)
            keys[:, span.start : span.end] = key[rows].transpose(1, 0, 2)
            values[:, span.start : span.end] = value[rows].transpose(1, 0, 2)
            visible = slice(0 if window is None else max(0, span.start + 1 - window), span.end)
            mixed[rows] = self._mix_values(query[rows], keys[:, visible], values[:, visible], window)
            first = rows.stop
        return mixed

    def _mix_values(self, query: Array, keys: Array, values: Array, window: int | None) -> Array:
        c, n, length = self.config, len(query), keys.shape[1]  # the last n of `length` keys belong to the queries
        group = c.heads // c.kv_heads  # query heads that share one key head
        query = query.reshape(n, c.kv_heads, group, c.head_dim).transpose(1, 2, 0, 3)  # (kv_heads, group, n, head_dim)
        query = query.reshape(c.kv_heads, group * n, c.head_dim)
        scores = self._scores[: c.heads * n * length].reshape(c.kv_heads, group * n, length)
        np.matmul(query, keys.transpose(0, 2, 1), out=scores)
        scores *= c.head_dim**-0.5  # a Python float keeps float32
        by_query = scores.reshape(c.kv_heads, group, n, length)
        by_query[..., length - n :] += self._mask[:n, :n]
        if window is not None and length > window:
            too_old = np.tri(n, length, length - n - window, dtype=np.bool_)  # (n, length)
            np.copyto(by_query, -math.inf, where=too_old)
        softmax(scores)
        mixed: Array = np.matmul(scores, values).reshape(c.kv_heads, group, n, c.head_dim)
        return mixed.transpose(2, 0, 1, 3).reshape(n, c.query_dim)

    def _apply_feed_forward(self, layer: Layer, x: Array) -> Array:
        gate_up = multiply(x, layer.gate_up, out=self._gate_up[: len(x)])  # (n, 2 * hidden)
        gate, up = gate_up[:, : self.config.hidden], gate_up[:, self.config.hidden :]  # each (n, hidden)
        return multiply(silu(gate) * up, layer.down)  # (n, dim)


def rotate(x: Array, cosine: Array, sine: Array) -> None:
    """Rotates the pairs (d, d + head_dim / 2) of x (n, heads, head_dim) in place, by angles (n, 1, head_dim / 2)."""
    half = x.shape[-1] // 2
    first, second = x[..., :half].copy(), x[..., half:]  # each (n, heads, head_dim / 2)
    x[..., :half] = first * cosine - second * sine
    x[..., half:] = second * cosine + first * sine


def rms_norm(x: Array, weight: Array, epsilon: float) -> Array:
    """Scales each row (…, dim) to a root mean square of 1 and multiplies it by `weight` (dim,)."""
    mean_square = np.add.reduce(x * x, axis=-1, keepdims=True) / x.shape[-1]  # (…, 1)
    scaled: Array = x / np.sqrt(mean_square + epsilon) * weight
    return scaled


def softmax(x: Array) -> None:
    """Applies softmax over the last axis, in place."""
    x -= np.maximum.reduce(x, axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= np.add.reduce(x, axis=-1, keepdims=True)


def silu(x: Array) -> Array:
    """Returns x * sigmoid(x), computed with tanh because exp(-x) overflows."""
    activated: Array = x * (0.5 * np.tanh(0.5 * x) + 0.5)
    return activated


def _allocate_touched(*shape: int) -> Array:
    """Returns zeros in memory that exists: np.zeros is lazy, so memory could run out during a request."""
    array = np.empty(shape, np.float32)
    array.fill(0.0)
    return array


def _allocate_lazily(*shape: int) -> Array:
    """Returns zeros that take no memory until something is written to them."""
    return np.zeros(shape, np.float32)
