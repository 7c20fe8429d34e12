"""Writes tiny checkpoints of each family, drawn from a seed, as Hugging Face folders: the same bytes on every host."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

VOCAB, DIM, LAYERS, HIDDEN = 320, 48, 3, 96
# The trainers of `tokenizers` break ties by hash order, which varies: so the merges come from words.
WORDS = ("the", "of", "to", "memory", "host", "node", "per", "second", "fast", "hot")
PROMPT = (
    "The memory of node 1 is hot: 92 °C, 4 DIMMs of 8; the tokens of the host fall from 310 to 120 per second, "
    "and the fans are as fast as they can be. Pourquoi?"
)


@dataclass(frozen=True)
class Family:
    """The fields of a config.json beside the sizes, and the format of the tensors."""

    model_type: str
    fields: dict[str, Any]
    seed: int = 0
    dtype: Any = np.float32
    shards: int = 1
    pieces: bool = False  # a tokenizer like SentencePiece's (Llama 2, Mistral), not over bytes
    kv_heads: int = 2
    head_dim: int = 12


_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES = {
    "llama2": Family("llama", {"tie_word_embeddings": False}, pieces=True, kv_heads=4),
    "llama3": Family(
        "llama",
        {"rope_theta": 500.0, "rope_scaling": _LLAMA3 | {"original_max_position_embeddings": 64}, "head_dim": 12}
        | {"tie_word_embeddings": True},
        seed=2,
        dtype=ml_dtypes.bfloat16,
        shards=3,
    ),
    "llama-linear": Family("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama-yarn": Family("llama", {"rope_scaling": _YARN}),
    "mistral": Family("mistral", {"sliding_window": 24, "head_dim": 16}, pieces=True, head_dim=16),
    "qwen2": Family("qwen2", {"tie_word_embeddings": True, "sliding_window": 24}, seed=2, dtype=np.float16),
    "qwen2-window": Family("qwen2", {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}, seed=1),
    "qwen3": Family("qwen3", {"head_dim": 20, "rope_theta": 1e6, "tie_word_embeddings": True}, head_dim=20),
}


def write_checkpoint(folder: Path, name: str) -> Path:
    """Writes the checkpoint of a family to a folder of its name below `folder`."""
    family, target = FAMILIES[name], folder / name
    target.mkdir()
    (target / "config.json").write_text(json.dumps(build_config_fields(family), indent=1))
    tensors = {key: array.astype(family.dtype) for key, array in draw_tensors(family)}
    names = [f"model-{n + 1:05}-of-{family.shards:05}.safetensors" for n in range(family.shards)]
    if family.shards == 1:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
    else:
        weight_map = {key: names[n % family.shards] for n, key in enumerate(tensors)}
        for file in names:
            save_file({k: a for k, a in tensors.items() if weight_map[k] == file}, target / file, {"format": "pt"})
        (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (build_pieces_tokenizer() if family.pieces else build_byte_level_tokenizer()).save(str(target / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (target / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "{{ messages }}"}))
    return target


def build_config_fields(family: Family) -> dict[str, Any]:
    """Returns a config.json in the format of transformers 4."""
    return {
        "architectures": [f"{family.model_type.title()}ForCausalLM"],
        "model_type": family.model_type,
        "vocab_size": VOCAB,
        "hidden_size": DIM,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": family.kv_heads,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 1 if family.pieces else 0,
        "eos_token_id": 2 if family.pieces else 1,
        **family.fields,
    }


def draw_tensors(family: Family) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every tensor in float32; each depends only on the seed and its name."""
    query, key = 4 * family.head_dim, family.kv_heads * family.head_dim
    yield _draw_tensor(family, "model.embed_tokens.weight", VOCAB, DIM)
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        for part, rows in (("q", query), ("k", key), ("v", key)):
            yield _draw_tensor(family, f"{layer}.self_attn.{part}_proj.weight", rows, DIM)
            if family.model_type == "qwen2":
                yield _draw_tensor(family, f"{layer}.self_attn.{part}_proj.bias", rows)
        if family.model_type == "qwen3":
            yield _draw_tensor(family, f"{layer}.self_attn.q_norm.weight", family.head_dim)
            yield _draw_tensor(family, f"{layer}.self_attn.k_norm.weight", family.head_dim)
        yield _draw_tensor(family, f"{layer}.self_attn.o_proj.weight", DIM, query)
        yield _draw_tensor(family, f"{layer}.mlp.gate_proj.weight", HIDDEN, DIM)
        yield _draw_tensor(family, f"{layer}.mlp.up_proj.weight", HIDDEN, DIM)
        yield _draw_tensor(family, f"{layer}.mlp.down_proj.weight", DIM, HIDDEN)
        yield _draw_tensor(family, f"{layer}.input_layernorm.weight", DIM)
        yield _draw_tensor(family, f"{layer}.post_attention_layernorm.weight", DIM)
    yield _draw_tensor(family, "model.norm.weight", DIM)
    if not family.fields.get("tie_word_embeddings", False):
        yield _draw_tensor(family, "lm_head.weight", VOCAB, DIM)


def _draw_tensor(family: Family, name: str, *shape: int) -> tuple[str, np.ndarray]:
    uniform = np.random.default_rng([family.seed, zlib.crc32(name.encode())]).random(shape, dtype=np.float32) - 0.5
    if name.endswith("norm.weight"):
        return name, uniform + 1
    return name, uniform * np.float32(2 * math.sqrt(12 / shape[-1]) if len(shape) > 1 else 1)


def build_byte_level_tokenizer() -> Tokenizer:
    """Builds BPE over bytes, like Llama 3 and Qwen; a text begins with <s>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = _build_vocabulary(["<s>", "</s>", *alphabet], "Ġ")
    tokenizer = Tokenizer(BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(False)
    tokenizer.decoder = decoders.ByteLevel()
    return _add_begin_token(tokenizer)


def build_pieces_tokenizer() -> Tokenizer:
    """Builds BPE over characters with byte fallback, like Llama 2 and Mistral; a text begins with <s>."""
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefhmnoprsty"]
    vocab, merges = _build_vocabulary(first, "▁")
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _add_begin_token(tokenizer)


def _build_vocabulary(first: list[str], space: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = {}
    for word in (space + word for word in WORDS):
        for end in range(1, len(word)):
            merges[word[: end + 1]] = (word[:end], word[end])
    tokens = [*first, *merges][:VOCAB]
    return {token: number for number, token in enumerate(tokens)}, [merges[t] for t in tokens if t in merges]


def _add_begin_token(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    begin = [("<s>", tokenizer.token_to_id("<s>"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=begin)
    return tokenizer
