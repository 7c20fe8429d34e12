"""`python -m bench.peer SECONDS`: times decoding here and in llama.cpp, with the same weights and threads, as JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.decoding import CONTEXT, build_config, time_fastest
from engine.checkpoints.gguf import to_gguf_name
from engine.decoder.model import Model
from engine.decoder.weights import Array, ModelConfig, create_seeded_weights

SHAPE, PROMPT = "110M", 32


def collect_tensors(config: ModelConfig, seed: int) -> dict[str, Array]:
    """Returns every tensor of seeded weights by its Hugging Face name."""
    weights = create_seeded_weights(config, seed)
    by_name = {"model.embed_tokens": weights.embedding, "model.norm": weights.norm}
    split_points = (config.query_dim, config.query_dim + config.kv_dim)
    for number, layer in enumerate(weights.layers):
        name = f"model.layers.{number}"
        query, key, value = np.split(np.asarray(layer.query_key_value), split_points)
        gate, up = np.split(np.asarray(layer.gate_up), 2)
        by_name |= {
            f"{name}.self_attn.{part}_proj": matrix for part, matrix in (("q", query), ("k", key), ("v", value))
        }
        by_name |= {f"{name}.self_attn.o_proj": layer.output, f"{name}.mlp.down_proj": layer.down}
        by_name |= {f"{name}.mlp.gate_proj": gate, f"{name}.mlp.up_proj": up}
        by_name |= {f"{name}.input_layernorm": layer.attention_norm}
        by_name |= {f"{name}.post_attention_layernorm": layer.feed_forward_norm}
    return {f"{name}.weight": np.asarray(array) for name, array in by_name.items()}


def write_gguf(path: Path, config: ModelConfig, quantization: str) -> None:
    """Writes the seeded model as GGUF of the architecture qwen2, whose RoPE equals ours, with biases of 0."""
    import gguf

    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.layers)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_vocab_size(config.vocab)
    writer.add_tokenizer_model("no_vocab")
    for name, array in collect_tensors(config, 0).items():
        tensor_type = gguf.GGMLQuantizationType[quantization if array.ndim == 2 else "F32"]
        writer.add_tensor(to_gguf_name(name), gguf.quants.quantize(array, tensor_type), raw_dtype=tensor_type)
    for number in range(config.layers):
        for part, bias_size in (("q", config.query_dim), ("k", config.kv_dim), ("v", config.kv_dim)):
            writer.add_tensor(f"blk.{number}.attn_{part}.bias", np.zeros(bias_size, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load_peer(path: Path, threads: int) -> tuple[Callable[[], object], Callable[[], Array]]:
    """Returns llama.cpp's decoding of one token after PROMPT tokens, and the reader of its logits."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False
    )
    model.eval(list(range(1, PROMPT + 1)))

    def decode() -> None:
        model.n_tokens = PROMPT
        model.eval([7])

    def read_logits() -> Array:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), (model.n_vocab(),)).copy()

    return decode, read_logits


def compare_decoding(seconds: float, threads: int) -> dict[str, Any]:
    """Returns the seconds per decoded token of both engines, and the differences of their logits."""
    jobs: dict[str, Callable[[], object]] = {}
    differences = {}
    with tempfile.TemporaryDirectory(prefix="steadytok-bench-") as folder:
        for our_format, peer_format in (("float32", "F32"), ("int8", "Q8_0")):
            config = build_config(SHAPE, our_format)
            model = Model(create_seeded_weights(config, 0), CONTEXT)
            for _position in model.prefill(range(1, PROMPT + 1)):
                pass
            write_gguf(Path(folder, f"{peer_format}.gguf"), build_config(SHAPE, "float32"), peer_format)
            decode, read_logits = load_peer(Path(folder, f"{peer_format}.gguf"), threads)
            decode()
            our_logits = model.decode([7], [0], [PROMPT])[0]
            differences[peer_format] = float(np.max(np.abs(our_logits - read_logits())) / np.max(np.abs(our_logits)))
            jobs[our_format] = lambda model=model: model.decode([7], [0], [PROMPT])  # type: ignore[misc]  # a default binds it
            jobs[peer_format] = decode
        return time_fastest(jobs, seconds) | {"differences": differences, "version": version("llama_cpp_python")}


if __name__ == "__main__":
    try:
        result = compare_decoding(float(sys.argv[1]), len(os.sched_getaffinity(0)))
    except ModuleNotFoundError as missing:
        result = {"missing": missing.name}
    sys.stdout.write(json.dumps(result))
