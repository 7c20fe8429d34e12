"""`python -m bench.peer SECONDS`: our decode beside llama.cpp's on the same seeded weights and threads, as JSON."""

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

from bench.decoding import CONTEXT, fastest, shape
from engine.checkpoints.gguf import gguf_name
from engine.decoder.model import Model
from engine.decoder.weights import Array, Config, seeded_weights

SHAPE, PROMPT = "110M", 32


def tensors(config: Config, seed: int) -> dict[str, Array]:
    """Every tensor of seeded weights by its Hugging Face name."""
    weights = seeded_weights(config, seed)
    named = {"model.embed_tokens": weights.embedding, "model.norm": weights.norm}
    ends = (config.query_dim, config.query_dim + config.kv_dim)
    for number, layer in enumerate(weights.layers):
        name = f"model.layers.{number}"
        query, key, value = np.split(np.asarray(layer.query_key_value), ends)
        gate, up = np.split(np.asarray(layer.gate_up), 2)
        named |= {f"{name}.self_attn.{part}_proj": m for part, m in (("q", query), ("k", key), ("v", value))}
        named |= {f"{name}.self_attn.o_proj": layer.output, f"{name}.mlp.down_proj": layer.down}
        named |= {f"{name}.mlp.gate_proj": gate, f"{name}.mlp.up_proj": up}
        named |= {f"{name}.input_layernorm": layer.attention_norm}
        named |= {f"{name}.post_attention_layernorm": layer.feed_forward_norm}
    return {f"{name}.weight": np.asarray(array) for name, array in named.items()}


def write(path: Path, config: Config, kind: str) -> None:
    """The seeded model as GGUF of the architecture qwen2, which has RoPE as we have it, with biases of nought."""
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
    for name, array in tensors(config, 0).items():
        used = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        writer.add_tensor(gguf_name(name), gguf.quants.quantize(array, used), raw_dtype=used)
    for number in range(config.layers):
        for part, rows in (("q", config.query_dim), ("k", config.kv_dim), ("v", config.kv_dim)):
            writer.add_tensor(f"blk.{number}.attn_{part}.bias", np.zeros(rows, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def theirs(path: Path, threads: int) -> tuple[Callable[[], object], Callable[[], Array]]:
    """llama.cpp's one decode after PROMPT tokens, and its logits then."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False
    )
    model.eval(list(range(1, PROMPT + 1)))

    def decode() -> None:
        model.n_tokens = PROMPT
        model.eval([7])

    def logits() -> Array:
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(model.ctx), (model.n_vocab(),)).copy()

    return decode, logits


def measured(seconds: float, threads: int) -> dict[str, Any]:
    """Seconds of one decode of each, and how far the logits are apart."""
    work: dict[str, Callable[[], object]] = {}
    differences = {}
    with tempfile.TemporaryDirectory(prefix="steadytok-bench-") as folder:
        for ours, kind in (("float32", "F32"), ("int8", "Q8_0")):
            config = shape(SHAPE, ours)
            model = Model(seeded_weights(config, 0), CONTEXT)
            for _done in model.prefill(range(1, PROMPT + 1)):
                pass
            write(Path(folder, f"{kind}.gguf"), shape(SHAPE, "float32"), kind)
            decode, logits = theirs(Path(folder, f"{kind}.gguf"), threads)
            decode()
            own = model.decode([7], [0], [PROMPT])[0]
            differences[kind] = float(np.max(np.abs(own - logits())) / np.max(np.abs(own)))
            work[ours] = lambda model=model: model.decode([7], [0], [PROMPT])  # type: ignore[misc]  # a default binds it
            work[kind] = decode
        return fastest(work, seconds) | {"differences": differences, "version": version("llama_cpp_python")}


if __name__ == "__main__":
    try:
        answer = measured(float(sys.argv[1]), len(os.sched_getaffinity(0)))
    except ModuleNotFoundError as missing:
        answer = {"missing": missing.name}
    sys.stdout.write(json.dumps(answer))
