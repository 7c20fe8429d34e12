"""
Opens a checkpoint in GGUF, the format of llama.cpp; the `gguf` library dequantises its tensors to float32.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor
from gguf.quants import dequantize

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.gguf_vocabulary import make_tokenizer_from_metadata
from engine.decoder.rope import Rope, parse_rope
from engine.decoder.weight_loading import Fetch, assemble_weights
from engine.decoder.weights import Array, ModelConfig

ARCHITECTURES = ("llama", "qwen2", "qwen3")  # Mistral's are llama
SUPPORTED_TYPES = tuple(
    GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_K", "Q5_K", "Q6_K")
)
# Raised for a field of a wrong type or value.
HEADER_ERRORS = (ValueError, TypeError, AttributeError, ArithmeticError, IndexError)
_SHARD = re.compile(r"(.*)-00001-of-(\d{5})\.gguf", re.ASCII)
_OUTER_TENSORS = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class Metadata:
    """The keys and values in the header of a file."""

    def __init__(self, reader: GGUFReader) -> None:
        self._fields = reader.fields

    def get(self, key: str, default: Any = None) -> Any:
        """Returns a value, or the default if the key is missing."""
        field = self._fields.get(key)
        return default if field is None else field.contents()

    def get_integer(self, key: str, default: int | None = None) -> int:
        """Returns a whole number from 1; raises ValueError if the value is missing or something else."""
        value = self.get(key, default)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key} must be a whole number from 1, not {value!r}")
        return value


def open_gguf(path: Path) -> Checkpoint:
    """Opens a file, or the first of several shards; raises ValueError with a sentence."""
    readers = [_open_reader(file) for file in _list_shards(path)]
    metadata = Metadata(readers[0])
    tensors = {tensor.name: tensor for reader in readers for tensor in reader.tensors}
    try:
        config = read_config(metadata, tensors)
        tokenizer = make_tokenizer_from_metadata(metadata.get)
    except HEADER_ERRORS as error:
        raise ValueError(f"{path}: {error}") from None
    trained_context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return Checkpoint(
        path.stem,
        config,
        tokenizer,
        lambda shape: assemble_weights(shape, _make_fetch(shape, tensors, metadata)),
        trained_context,
    )


def read_config(metadata: Metadata, tensors: dict[str, ReaderTensor]) -> ModelConfig:
    """Reads the shape from a header; raises ValueError for other ARCHITECTURES and for unsupported features."""
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ValueError(f"the architecture {architecture!r} is not supported: expected {', '.join(ARCHITECTURES)}")
    if metadata.get(f"{architecture}.expert_count"):
        raise ValueError("mixtures of experts are not supported")
    dim = metadata.get_integer(f"{architecture}.embedding_length")
    heads = metadata.get_integer(f"{architecture}.attention.head_count")
    layers = metadata.get_integer(f"{architecture}.block_count")
    head_dim = metadata.get_integer(f"{architecture}.attention.key_length", dim // heads)
    window = metadata.get(f"{architecture}.attention.sliding_window")
    if metadata.get_integer(f"{architecture}.rope.dimension_count", head_dim) != head_dim:
        raise ValueError("RoPE over a part of each head is not supported")
    if "token_embd.weight" not in tensors:
        raise ValueError("there is no tensor token_embd.weight")
    return ModelConfig(
        vocab=int(tensors["token_embd.weight"].shape[1]),  # (dim, vocab): GGUF reverses the dimensions
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=metadata.get_integer(f"{architecture}.attention.head_count_kv", heads),
        head_dim=head_dim,
        hidden=metadata.get_integer(f"{architecture}.feed_forward_length"),
        norm_epsilon=float(metadata.get(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-6)),
        rope=_read_rope(metadata, architecture, head_dim, tensors),
        tied="output.weight" not in tensors,
        attention_bias="blk.0.attn_q.bias" in tensors,
        head_norm="blk.0.attn_q_norm.weight" in tensors,
        windows=(int(window),) * layers if window else (),
    )


def _read_rope(metadata: Metadata, architecture: str, head_dim: int, tensors: dict[str, ReaderTensor]) -> Rope:
    def get_value(name: str, default: Any = None) -> Any:
        return metadata.get(f"{architecture}.rope.{name}", default)

    theta = float(get_value("freq_base", 10_000.0))
    if (
        divisors := tensors.get("rope_freqs.weight")
    ) is not None:  # the form in which llama.cpp stores the scaling of Llama 3
        return Rope(theta, tuple(_dequantize_tensor(divisors).tolist()))
    scaling = {
        "rope_type": {"none": "default"}.get(kind := get_value("scaling.type", "none"), kind),
        "factor": get_value("scaling.factor", 1.0),
        "original_max_position_embeddings": get_value("scaling.original_context_length"),
        "attention_factor": get_value("scaling.attn_factor"),
    }
    return parse_rope(theta, head_dim, {name: setting for name, setting in scaling.items() if setting is not None})


def _make_fetch(config: ModelConfig, tensors: dict[str, ReaderTensor], metadata: Metadata) -> Fetch:
    interleaved = metadata.get("general.architecture") == "llama"

    def fetch(name: str) -> Array:
        array = _dequantize_tensor(tensors[to_gguf_name(name)])
        if interleaved and ".self_attn.q_proj." in name:
            return _unpermute_heads(array, config.heads)
        if interleaved and ".self_attn.k_proj." in name:
            return _unpermute_heads(array, config.kv_heads)
        return array

    return fetch


def to_gguf_name(name: str) -> str:
    """Converts `model.layers.0.self_attn.q_proj.weight` to `blk.0.attn_q.weight`; raises KeyError for other names."""
    stem, _, kind = name.rpartition(".")
    if stem in _OUTER_TENSORS:
        return f"{_OUTER_TENSORS[stem]}.{kind}"
    number, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{number}.{_LAYER_TENSORS[part]}.{kind}"


def _unpermute_heads(array: Array, heads: int) -> Array:
    """
    Reorders rows (heads * head_dim, …) whose RoPE pairs are neighbours: the pairs come to be half a head apart.

    llama.cpp's converter does the reverse to the queries and keys of this architecture.
    """
    by_pair = array.reshape(heads, -1, 2, *array.shape[1:])  # (heads, head_dim / 2, 2, …)
    return by_pair.swapaxes(1, 2).reshape(array.shape)


def _dequantize_tensor(tensor: ReaderTensor) -> Array:
    if tensor.tensor_type not in SUPPORTED_TYPES:
        supported = ", ".join(kind.name for kind in SUPPORTED_TYPES)
        raise ValueError(f"{tensor.name} is {tensor.tensor_type.name}, which is not supported: expected {supported}")
    array = np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    return array.reshape(tuple(int(size) for size in reversed(tensor.shape)))  # rows first


def _list_shards(path: Path) -> Iterator[Path]:
    match = _SHARD.fullmatch(path.name)
    if match is None:
        yield path
        return
    for number in range(1, int(match[2]) + 1):
        yield path.with_name(f"{match[1]}-{number:05}-of-{match[2]}.gguf")


def _open_reader(path: Path) -> GGUFReader:
    try:
        return GGUFReader(path)
    except (ValueError, IndexError, KeyError) as error:  # truncated, or not GGUF
        raise ValueError(f"{path} is not a GGUF file that can be read: {error}") from None
