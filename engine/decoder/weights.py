"""The shape of a Llama-like model, its weights, and weights drawn from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.decoder.int8 import Int8Matrix, quantize
from engine.decoder.rope import Rope

Array = NDArray[np.float32]
WeightMatrix = Array | Int8Matrix
PLAIN_ROPE = Rope()

FLOAT_BYTES = 4  # 16-bit weights are 16 to 30 times slower per weight in NumPy than float32
WIDTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 4096)  # candidates for `dim`, all with heads divisible by 4
MIN_WEIGHTS_BYTES = 1 << 20  # bytes; the smallest seeded model
MIN_LAYERS = 4  # fewer would make a model too wide for its size to resemble a Llama


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a model; raises ValueError if the numbers do not fit together."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    norm_epsilon: float = 1e-5
    rope: Rope = PLAIN_ROPE
    tied: bool = True  # the embedding is also the classifier
    attention_bias: bool = False  # added to queries, keys and values (Qwen2)
    head_norm: bool = False  # RMSNorm of each query and key head (Qwen3)
    int8: bool = False  # matrices have 8-bit weights
    windows: tuple[int | None, ...] = ()  # tokens that each layer attends to, the current one included; empty: all

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE rotates pairs")
        if len(self.windows) not in (0, self.layers):
            raise ValueError(f"there are {len(self.windows)} windows for {self.layers} layers")

    @property
    def query_dim(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        """Width of all key (or value) heads together."""
        return self.kv_heads * self.head_dim

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights; decoding one token reads nearly all of them once."""
        qkv_dim = self.query_dim + 2 * self.kv_dim
        small = FLOAT_BYTES * (2 * self.dim + self.attention_bias * qkv_dim + self.head_norm * 2 * self.head_dim)
        attention = self._count_matrix_bytes(qkv_dim, self.dim) + self._count_matrix_bytes(self.dim, self.query_dim)
        feed_forward = self._count_matrix_bytes(2 * self.hidden, self.dim) + self._count_matrix_bytes(
            self.dim, self.hidden
        )
        ends = (2 - self.tied) * self._count_matrix_bytes(self.vocab, self.dim) + FLOAT_BYTES * self.dim
        return ends + self.layers * (small + attention + feed_forward)

    def _count_matrix_bytes(self, rows: int, columns: int) -> int:
        return rows * (columns + FLOAT_BYTES) if self.int8 else rows * columns * FLOAT_BYTES

    def convert_matrix(self, matrix: Array) -> WeightMatrix:
        """Returns a matrix in the format of this model."""
        return quantize(matrix) if self.int8 else matrix


def make_config_of_size(size: int, vocab: int, *, int8: bool = False) -> ModelConfig:
    """
    Returns a Llama-like shape whose weights take at least `size` bytes, and at most a few per cent more.

    Width and depth come from a ladder; the feed-forward width fills the rest. Raises ValueError below 1 MiB.
    """
    if size < MIN_WEIGHTS_BYTES:
        raise ValueError(f"a model of {size} bytes is too small: expected at least 1MiB")
    dim, layers = next(
        (dim, layers) for dim in reversed(WIDTHS) if (layers := _count_layers(size, vocab, dim, int8)) >= MIN_LAYERS
    )
    empty = _build_config(vocab, dim, layers, 0, int8).weights_bytes
    per_step = _build_config(vocab, dim, layers, 8, int8).weights_bytes - empty  # `hidden` grows in steps of 8
    steps = (size - empty) / per_step
    return _build_config(vocab, dim, layers, 8 * max(1, math.ceil(steps)), int8)


def _build_config(vocab: int, dim: int, layers: int, hidden: int, int8: bool) -> ModelConfig:
    head_dim = 64 if dim >= 256 else dim // 4
    heads = dim // head_dim
    return ModelConfig(vocab, dim, layers, heads, heads // 4, head_dim, hidden, int8=int8)


def _count_layers(size: int, vocab: int, dim: int, int8: bool) -> int:
    hidden = dim * 8 // 3
    embedding = _build_config(vocab, dim, 0, hidden, int8).weights_bytes
    return round((size - embedding) / (_build_config(vocab, dim, 1, hidden, int8).weights_bytes - embedding))


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one block; a matrix is (output, input), so a row gives one output."""

    attention_norm: Array  # (dim,)
    query_key_value: WeightMatrix  # (query_dim + 2 * kv_dim, dim): three matrices as one, since a long gemv is faster
    output: WeightMatrix  # (dim, query_dim)
    feed_forward_norm: Array  # (dim,)
    gate_up: WeightMatrix  # (2 * hidden, dim)
    down: WeightMatrix  # (dim, hidden)
    query_key_value_bias: Array | None = None  # (query_dim + 2 * kv_dim,)
    query_norm: Array | None = None  # (head_dim,)
    key_norm: Array | None = None  # (head_dim,)

    def list_arrays(self) -> list[NDArray[Any]]:
        """Returns its arrays; no two share memory."""
        return [array for field in fields(self) for array in _list_arrays(getattr(self, field.name))]


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a model."""

    config: ModelConfig
    embedding: WeightMatrix  # (vocab, dim)
    layers: tuple[Layer, ...]
    norm: Array  # (dim,)
    classifier: WeightMatrix  # (vocab, dim); the embedding itself if the two are tied

    def list_arrays(self) -> list[NDArray[Any]]:
        """Returns every array; no two share memory."""
        ends = [*_list_arrays(self.embedding), self.norm]
        ends += [] if self.classifier is self.embedding else _list_arrays(self.classifier)
        return [array for layer in self.layers for array in layer.list_arrays()] + ends


def _list_arrays(weight: WeightMatrix | None) -> list[NDArray[Any]]:
    if isinstance(weight, Int8Matrix):
        return [weight.rows, weight.scales]
    return [] if weight is None else [weight]


def create_seeded_weights(config: ModelConfig, seed: int) -> Weights:
    """Draws weights from a seed: the same seed and shape give the same model."""
    generator = np.random.default_rng(seed)
    embedding = config.convert_matrix(_draw_matrix(generator, config.vocab, config.dim))
    layers = tuple(_create_seeded_layer(generator, config) for _ in range(config.layers))
    return Weights(config, embedding, layers, np.ones(config.dim, np.float32), classifier=embedding)


def _create_seeded_layer(generator: np.random.Generator, config: ModelConfig) -> Layer:
    return Layer(
        attention_norm=np.ones(config.dim, np.float32),
        query_key_value=config.convert_matrix(
            _draw_matrix(generator, config.query_dim + 2 * config.kv_dim, config.dim)
        ),
        output=config.convert_matrix(_draw_matrix(generator, config.dim, config.query_dim)),
        feed_forward_norm=np.ones(config.dim, np.float32),
        gate_up=config.convert_matrix(_draw_matrix(generator, 2 * config.hidden, config.dim)),
        down=config.convert_matrix(_draw_matrix(generator, config.dim, config.hidden)),
    )


def _draw_matrix(generator: np.random.Generator, rows: int, columns: int) -> Array:
    """Draws uniform weights of variance 1 / columns; NumPy draws uniform several times faster than normal (2 GiB/s)."""
    matrix = np.empty((rows, columns), np.float32)
    generator.random(out=matrix, dtype=np.float32)
    matrix -= 0.5
    matrix *= math.sqrt(12 / columns)  # a Python float: a np.float64 here would promote everything after it
    return matrix
