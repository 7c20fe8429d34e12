"""
Opens a Hugging Face model folder: config.json, tokenizer.json, and safetensors in one file or several.

https://huggingface.co/docs/safetensors, https://huggingface.co/docs/transformers/main_classes/configuration
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes  # registers the type bfloat16 with NumPy, for safetensors
import numpy as np
from safetensors import SafetensorError, safe_open

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.vocabulary import VocabularyTokenizer, read_tokenizer_from_folder
from engine.decoder.rope import parse_rope
from engine.decoder.weight_loading import Fetch, assemble_weights
from engine.decoder.weights import Array, ModelConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # model_type
DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
# Raised for a field of a wrong type or value.
CONFIG_ERRORS = (ValueError, TypeError, AttributeError, ArithmeticError)
# Features of these architectures that this engine lacks; ignoring one would give wrong text silently.
_UNSUPPORTED_FIELDS = ("attention_bias", "mlp_bias", "quantization_config")

Fields = dict[str, Any]


def open_folder(folder: Path) -> Checkpoint:
    """Opens the checkpoint in a folder; raises ValueError with a sentence if the engine cannot run it."""
    fields = read_json(folder / "config.json")
    try:
        config = read_config(fields)
    except CONFIG_ERRORS as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from None
    tokenizer = read_tokenizer_from_folder(folder, read_stop_tokens(folder, fields))
    check_vocabulary(tokenizer, config)
    shards = locate_tensors(folder)
    trained_context = fields.get("max_position_embeddings")
    return Checkpoint(
        folder.resolve().name,
        config,
        tokenizer,
        lambda shape: assemble_weights(shape, _make_fetch(shards)),
        trained_context if isinstance(trained_context, int) else None,
    )


def read_config(fields: Fields) -> ModelConfig:
    """Reads the shape from a config.json; raises ValueError for other FAMILIES and for unsupported features."""
    family = fields.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type {family!r} is not supported: expected {', '.join(FAMILIES)}")
    for name in _UNSUPPORTED_FIELDS:
        if fields.get(name):
            raise ValueError(f"{name} is not supported")
    if fields.get("hidden_act", "silu") != "silu":
        raise ValueError(f"hidden_act {fields['hidden_act']!r} is not supported: expected silu")
    dim, heads, layers = (_read_integer(fields, n) for n in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    head_dim = _read_integer(fields, "head_dim", 128 if family == "qwen3" else dim // heads)
    # Since version 5, transformers has all settings of RoPE in rope_parameters.
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or fields.get("rope_theta") or 10_000.0)
    return ModelConfig(
        vocab=_read_integer(fields, "vocab_size"),
        dim=dim,
        layers=layers,
        heads=heads,
        kv_heads=_read_integer(fields, "num_key_value_heads", heads),
        head_dim=head_dim,
        hidden=_read_integer(fields, "intermediate_size"),
        norm_epsilon=float(fields.get("rms_norm_eps", 1e-6)),
        rope=parse_rope(theta, head_dim, rope),
        tied=bool(fields.get("tie_word_embeddings", False)),
        attention_bias=family == "qwen2",
        head_norm=family == "qwen3",
        windows=_read_windows(fields, layers),
    )


def _read_windows(fields: Fields, layers: int) -> tuple[int | None, ...]:
    family = fields["model_type"]
    window = fields.get("sliding_window", 4096 if family == "mistral" else None)  # the default in transformers
    # Qwen's configs name a window that is switched off; Llama has no window.
    if window is None or family == "llama" or (family != "mistral" and not fields.get("use_sliding_window", False)):
        return ()
    if family == "mistral":
        return (int(window),) * layers
    first = fields.get("max_window_layers", 28)  # the default in transformers
    kinds = fields.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * max(0, layers - first)
    return tuple(int(window) if kind == "sliding_attention" else None for kind in kinds[:layers])


def _read_integer(fields: Fields, name: str, default: int | None = None) -> int:
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1, not {value!r}")
    return value


def read_stop_tokens(folder: Path, fields: Fields) -> frozenset[int]:
    """Reads the tokens that end an answer, from generation_config.json, else from config.json."""
    generation_config = folder / "generation_config.json"
    eos_tokens = read_json(generation_config).get("eos_token_id") if generation_config.exists() else None
    eos_tokens = fields.get("eos_token_id") if eos_tokens is None else eos_tokens
    return frozenset(
        token for token in (eos_tokens if isinstance(eos_tokens, list) else [eos_tokens]) if isinstance(token, int)
    )


def check_vocabulary(tokenizer: VocabularyTokenizer, config: ModelConfig) -> None:
    """Raises ValueError if the tokenizer has tokens without an embedding in the model."""
    if tokenizer.vocab > config.vocab:
        raise ValueError(f"the tokenizer has {tokenizer.vocab} tokens, and the model only {config.vocab}")


def locate_tensors(folder: Path) -> dict[str, Path]:
    """Returns the file of each tensor, from the index of a sharded checkpoint or from model.safetensors."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
            raise ValueError(f"{index} has no weight_map of tensors to files")
        return {name: folder / file for name, file in names.items()}
    if not single.exists():
        raise ValueError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
    with _open_shard(single) as file:
        return dict.fromkeys(file.keys(), single)


def _make_fetch(files: dict[str, Path]) -> Fetch:
    def fetch(name: str) -> Array:
        with _open_shard(files[name]) as file:
            try:
                tensor = file.get_tensor(name)
            except SafetensorError:
                raise ValueError(f"{files[name]} has no tensor {name}, but the index lists it there") from None
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{name} is {tensor.dtype}: expected {', '.join(map(str, DTYPES))}")
        return np.asarray(tensor, np.float32)

    return fetch


def _open_shard(path: Path) -> safe_open:
    try:
        return safe_open(str(path), "numpy")
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from None


def read_json(path: Path) -> Fields:
    """Reads a JSON object; raises OSError, or ValueError with a sentence."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return fields
