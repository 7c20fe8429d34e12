"""Assembles Weights from the tensors of a checkpoint, one at a time, by their Hugging Face names."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from engine.decoder.weights import Array, Layer, ModelConfig, Weights

Fetch = Callable[[str], Array]  # returns the float32 tensor of a name; raises KeyError if it is missing


def assemble_weights(config: ModelConfig, fetch: Fetch) -> Weights:
    """
    Copies the tensors into Weights of this shape.

    Raises ValueError if a tensor is missing or has another shape. Releases each tensor once it is copied.
    """

    def fetch_tensor(name: str, *shape: int) -> Array:
        return _fetch_checked(fetch, name, shape)

    embedding = config.convert_matrix(
        fetch_tensor("model.embed_tokens.weight", config.vocab, config.dim)
    )  # (vocab, dim)
    return Weights(
        config,
        embedding,
        tuple(_assemble_layer(config, f"model.layers.{number}", fetch_tensor) for number in range(config.layers)),
        fetch_tensor("model.norm.weight", config.dim),
        embedding if config.tied else config.convert_matrix(fetch_tensor("lm_head.weight", config.vocab, config.dim)),
    )


def _assemble_layer(c: ModelConfig, name: str, fetch_tensor: Callable[..., Array]) -> Layer:
    attention, feed_forward = f"{name}.self_attn", f"{name}.mlp"
    rows = (c.query_dim, c.kv_dim, c.kv_dim)
    projections = [f"{attention}.{part}_proj" for part in "qkv"]
    gate_up = [f"{feed_forward}.gate_proj.weight", f"{feed_forward}.up_proj.weight"]
    return Layer(
        attention_norm=fetch_tensor(f"{name}.input_layernorm.weight", c.dim),
        query_key_value=c.convert_matrix(
            _stack_tensors(fetch_tensor, [f"{part}.weight" for part in projections], rows, (c.dim,))
        ),
        output=c.convert_matrix(fetch_tensor(f"{attention}.o_proj.weight", c.dim, c.query_dim)),
        feed_forward_norm=fetch_tensor(f"{name}.post_attention_layernorm.weight", c.dim),
        gate_up=c.convert_matrix(_stack_tensors(fetch_tensor, gate_up, (c.hidden, c.hidden), (c.dim,))),
        down=c.convert_matrix(fetch_tensor(f"{feed_forward}.down_proj.weight", c.dim, c.hidden)),
        query_key_value_bias=(
            _stack_tensors(fetch_tensor, [f"{part}.bias" for part in projections], rows, ())
            if c.attention_bias
            else None
        ),
        query_norm=fetch_tensor(f"{attention}.q_norm.weight", c.head_dim) if c.head_norm else None,
        key_norm=fetch_tensor(f"{attention}.k_norm.weight", c.head_dim) if c.head_norm else None,
    )


def _stack_tensors(
    fetch_tensor: Callable[..., Array], names: Iterable[str], rows: tuple[int, ...], inner_shape: tuple[int, ...]
) -> Array:
    """Stacks several tensors, (sum of rows, *inner_shape)."""
    stacked = np.empty((sum(rows), *inner_shape), np.float32)  # (sum of rows, *inner_shape)
    start = 0
    for name, count in zip(names, rows, strict=True):
        stacked[start : start + count] = fetch_tensor(name, count, *inner_shape)
        start += count
    return stacked


def _fetch_checked(fetch: Fetch, name: str, shape: tuple[int, ...]) -> Array:
    try:
        tensor = fetch(name)
    except KeyError:
        raise ValueError(f"the checkpoint has no tensor {name}") from None
    if tensor.shape != shape:
        raise ValueError(f"{name} has the shape {tensor.shape}, but the configuration requires {shape}")
    return np.require(tensor, np.float32, ["C", "O", "W"])  # a copy: the file may be closed
