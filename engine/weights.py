"""The shape of a Llama-like model, its weights, and weights made from a seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from engine.rope import Rope
from engine.sizing import SMALLEST

Array = NDArray[np.float32]
PLAIN = Rope()

FLOAT_BYTES = 4  # 16- and 8-bit weights are 16 to 30 times slower per weight in NumPy than float32
WIDTHS = (64, 128, 256, 512, 768, 1024, 1536, 2048, 4096)  # candidates for `dim`, all with heads divisible by 4
FEWEST_LAYERS = 4  # below this a model is too wide for its size to look like a Llama


@dataclass(frozen=True, slots=True)
class Config:
    """The shape of a model; raises ValueError where the numbers do not fit together."""

    vocab: int
    dim: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    hidden: int
    norm_epsilon: float = 1e-5
    rope: Rope = PLAIN
    tied: bool = True  # the embedding is also the classifier
    attention_bias: bool = False  # added to queries, keys and values (Qwen2)
    head_norm: bool = False  # RMSNorm of each query and key head (Qwen3)
    windows: tuple[int | None, ...] = ()  # how many tokens each layer looks back over, itself included; empty: all

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE turns pairs")
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
        """Bytes of all weights; one decoded token reads nearly all of them once."""
        attention = self.dim * (2 * self.query_dim + 2 * self.kv_dim)
        small = 2 * self.dim + self.attention_bias * (self.query_dim + 2 * self.kv_dim)
        layer = attention + 3 * self.dim * self.hidden + small + self.head_norm * 2 * self.head_dim
        return FLOAT_BYTES * ((2 - self.tied) * self.vocab * self.dim + self.layers * layer + self.dim)


def config_of_size(size: int, vocab: int) -> Config:
    """
    A Llama-like shape whose weights take at least `size` bytes, and at most a few per cent more.

    Width and depth come from a ladder; the feed-forward width takes up what is left. ValueError below 1 MiB.
    """
    if size < SMALLEST:
        raise ValueError(f"a model of {size} bytes is too small: expected at least 1MiB")
    dim, layers = next(
        (dim, layers) for dim in reversed(WIDTHS) if (layers := _layers_for(size, vocab, dim)) >= FEWEST_LAYERS
    )
    empty = _shape(vocab, dim, layers, hidden=0).weights_bytes
    per_step = FLOAT_BYTES * layers * 3 * dim * 8  # hidden moves in steps of 8 floats
    steps = (size - empty) / per_step
    return _shape(vocab, dim, layers, hidden=8 * max(1, math.ceil(steps)))


def _shape(vocab: int, dim: int, layers: int, hidden: int) -> Config:
    head_dim = 64 if dim >= 256 else dim // 4
    heads = dim // head_dim
    return Config(vocab, dim, layers, heads, heads // 4, head_dim, hidden)


def _layers_for(size: int, vocab: int, dim: int) -> int:
    hidden = dim * 8 // 3
    embedding = _shape(vocab, dim, 0, hidden).weights_bytes
    return round((size - embedding) / (_shape(vocab, dim, 1, hidden).weights_bytes - embedding))


@dataclass(frozen=True, slots=True)
class Layer:
    """One block's weights; a matrix is (output, input), so a row makes one output."""

    attention_norm: Array  # (dim,)
    query_key_value: Array  # (query_dim + 2 * kv_dim, dim): three matrices as one, because long gemv stream better
    output: Array  # (dim, query_dim)
    feed_forward_norm: Array  # (dim,)
    gate_up: Array  # (2 * hidden, dim)
    down: Array  # (dim, hidden)
    query_key_value_bias: Array | None = None  # (query_dim + 2 * kv_dim,)
    query_norm: Array | None = None  # (head_dim,)
    key_norm: Array | None = None  # (head_dim,)

    def arrays(self) -> list[Array]:
        """Those it has, each in memory of its own."""
        return [array for field in fields(self) if (array := getattr(self, field.name)) is not None]


@dataclass(frozen=True, slots=True)
class Weights:
    """All weights of a model."""

    config: Config
    embedding: Array  # (vocab, dim)
    layers: tuple[Layer, ...]
    norm: Array  # (dim,)
    classifier: Array  # (vocab, dim), the embedding itself where they are tied

    def arrays(self) -> list[Array]:
        """Every array, each in memory of its own."""
        ends = [self.embedding, self.norm] + ([] if self.classifier is self.embedding else [self.classifier])
        return [array for layer in self.layers for array in layer.arrays()] + ends


def seeded_weights(config: Config, seed: int) -> Weights:
    """Weights from a seed: the same seed and shape give the same model."""
    generator = np.random.default_rng(seed)
    embedding = _matrix(generator, config.vocab, config.dim)
    layers = tuple(_seeded_layer(generator, config) for _ in range(config.layers))
    return Weights(config, embedding, layers, np.ones(config.dim, np.float32), classifier=embedding)


def _seeded_layer(generator: np.random.Generator, config: Config) -> Layer:
    return Layer(
        attention_norm=np.ones(config.dim, np.float32),
        query_key_value=_matrix(generator, config.query_dim + 2 * config.kv_dim, config.dim),
        output=_matrix(generator, config.dim, config.query_dim),
        feed_forward_norm=np.ones(config.dim, np.float32),
        gate_up=_matrix(generator, 2 * config.hidden, config.dim),
        down=_matrix(generator, config.dim, config.hidden),
    )


def _matrix(generator: np.random.Generator, rows: int, columns: int) -> Array:
    """Uniform with variance 1 / columns; uniform is filled several times faster than normal (2 GiB/s)."""
    matrix = np.empty((rows, columns), np.float32)
    generator.random(out=matrix, dtype=np.float32)
    matrix -= 0.5
    matrix *= math.sqrt(12 / columns)  # a Python float: a np.float64 here would promote everything after it
    return matrix
