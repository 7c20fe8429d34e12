"""GGUF files, written with the `gguf` library as llama.cpp's converter does, against the folders of the same models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.gguf import to_gguf_name
from engine.checkpoints.opening import open_checkpoint
from engine.checkpoints.tokenizer import Tokenizer
from engine.decoder.model import Model
from engine.decoder.weights import Array, ModelConfig, Weights
from tests.engine import families
from tests.engine.families import (
    FAMILIES,
    build_byte_level_tokenizer,
    build_pieces_tokenizer,
    draw_tensors,
    write_checkpoint,
)
from tests.engine.greedy import GREEDY_TOKENS, compute_logits, generate_greedily, measure_difference, read_golden

WIDE = ModelConfig(vocab=292, dim=256, layers=2, heads=4, kv_heads=2, head_dim=64, hidden=512, tied=False)
PROMPT = [0, 17, 250, 4, 4, 91, 133]
Quantize = Callable[[Array, Type], Any]


def interleave_heads(array: Array, heads: int) -> Array:
    """Reorders rows as llama.cpp's converter does for the queries and keys of llama: RoPE pairs become neighbours."""
    halves = array.reshape(heads, 2, -1, *array.shape[1:])  # (heads, 2, head_dim / 2, …)
    return halves.swapaxes(1, 2).reshape(array.shape)


@dataclass
class GgufFile:
    """The content of a GGUF file: shape, tensors, and their formats."""

    config: ModelConfig
    tensors: dict[str, Array]
    architecture: str = "llama"
    kind: Type = Type.F32
    pieces: bool = False
    extra_metadata: dict[str, Any] = field(default_factory=dict)  # metadata
    omitted_tensors: tuple[str, ...] = ()  # tensors
    quantize: Quantize = quantize

    def write(self, path: Path) -> Path:
        """Writes the file: shape, vocabulary, and all matrices in one type."""
        writer = gguf.GGUFWriter(path, self.architecture)
        add_shape(writer, self.config)
        add_vocabulary(writer, pieces=self.pieces)
        for key, value in self.extra_metadata.items():
            writer.kv_data[0].pop(key, None)
            writer.add_string(key, value) if isinstance(value, str) else writer.add_float32(key, value)
        for name, array in self.tensors.items():
            if name not in self.omitted_tensors:
                used = self.kind if array.ndim == 2 else Type.F32
                writer.add_tensor(to_gguf_name(name), self.quantize(self.order_rows(name, array), used), raw_dtype=used)
        if self.config.rope.divisors and "rope.scaling" not in str(self.extra_metadata):
            writer.add_tensor("rope_freqs.weight", np.asarray(self.config.rope.divisors, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def order_rows(self, name: str, array: Array) -> Array:
        """Returns a tensor in the row order of the architecture."""
        if self.architecture == "llama" and ".q_proj." in name:
            return interleave_heads(array, self.config.heads)
        if self.architecture == "llama" and ".k_proj." in name:
            return interleave_heads(array, self.config.kv_heads)
        return array


def add_shape(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """Adds the sizes to the header."""
    writer.add_block_count(config.layers)
    writer.add_context_length(256)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope.theta)
    if config.windows:
        writer.add_sliding_window(config.windows[0] or 0)


def add_vocabulary(writer: gguf.GGUFWriter, *, pieces: bool) -> None:
    """Adds the tokenizer of the tiny checkpoints, in one of llama.cpp's two formats."""
    tokenizer = build_pieces_tokenizer() if pieces else build_byte_level_tokenizer()
    tokens = [str(tokenizer.id_to_token(number)) for number in range(tokenizer.get_vocab_size())]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in ("<s>", "</s>") else normal for token in tokens])
    if pieces:
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_unk_token_id(0)
    else:
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges([" ".join(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]])
        writer.add_add_bos_token(True)
    writer.add_bos_token_id(tokenizer.token_to_id("<s>"))
    writer.add_eos_token_id(tokenizer.token_to_id("</s>"))
    writer.add_chat_template("{{ messages }}")


def build_family_file(tmp_path: Path, name: str) -> GgufFile:
    """Returns the content of a GGUF file for a tiny checkpoint."""
    family = FAMILIES[name]
    config = open_checkpoint(write_checkpoint(tmp_path, name)).config
    tensors = {key: np.asarray(array.astype(family.dtype), np.float32) for key, array in draw_tensors(family)}
    architecture = {"mistral": "llama"}.get(family.model_type, family.model_type)
    return GgufFile(config, tensors, architecture, pieces=family.pieces)


def draw_wide_tensors() -> dict[str, Array]:
    """Draws tensors whose rows are whole blocks of every quantised type."""
    generator, c = np.random.default_rng(9), WIDE
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (c.vocab, c.dim), "lm_head": (c.vocab, c.dim)}
    for n in range(c.layers):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.self_attn.q_proj": (c.query_dim, c.dim), f"{layer}.self_attn.k_proj": (c.kv_dim, c.dim)}
        shapes |= {f"{layer}.self_attn.v_proj": (c.kv_dim, c.dim), f"{layer}.self_attn.o_proj": (c.dim, c.query_dim)}
        shapes |= {f"{layer}.mlp.gate_proj": (c.hidden, c.dim), f"{layer}.mlp.up_proj": (c.hidden, c.dim)}
        shapes |= {f"{layer}.mlp.down_proj": (c.dim, c.hidden)}
        shapes |= {f"{layer}.input_layernorm": (c.dim,), f"{layer}.post_attention_layernorm": (c.dim,)}
    shapes["model.norm"] = (c.dim,)
    scale = np.float32(0.1)
    return {
        f"{name}.weight": generator.standard_normal(shape, np.float32) * (scale if len(shape) > 1 else 1)
        for name, shape in shapes.items()
    }


def compute_last_logits(weights: Weights) -> Array:
    """Returns the logits after PROMPT."""
    model = Model(weights, 16)
    for _done in model.prefill(PROMPT[:-1]):
        pass
    return model.decode([PROMPT[-1]], [0], [len(PROMPT) - 1])[0]


@pytest.mark.parametrize("name", ["llama2", "llama3", "llama-linear", "mistral", "qwen2", "qwen3"])
def test_float32_gives_the_same_text(tmp_path: Path, name: str) -> None:
    """Reordered queries and keys, scaled RoPE, windows, biases, norms and the vocabulary give the same text."""
    checkpoint = open_checkpoint(build_family_file(tmp_path, name).write(tmp_path / f"{name}.gguf"))
    golden, model = read_golden(name), Model(checkpoint.load(), 256)

    assert checkpoint.tokenizer.encode(families.PROMPT) == golden.prompt
    assert measure_difference(compute_logits(model, golden.prompt), golden.logits) < 1e-4
    assert generate_greedily(model, golden.prompt, GREEDY_TOKENS) == golden.tokens


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Type.F32, 1e-6), (Type.F16, 2e-3), (Type.BF16, 2e-2), (Type.Q8_0, 5e-2), (Type.Q4_0, 0.4)],
)
def test_quantised_weights_are_near(tmp_path: Path, kind: Type, error: float) -> None:
    """The logits of each type differ from the exact ones, and by no more than the precision of the type."""
    exact = compute_last_logits(
        open_checkpoint(GgufFile(WIDE, draw_wide_tensors()).write(tmp_path / "whole.gguf")).load()
    )
    lossy = open_checkpoint(GgufFile(WIDE, draw_wide_tensors(), kind=kind).write(tmp_path / "lossy.gguf")).load()

    assert measure_difference(compute_last_logits(lossy), exact) < error
    assert kind == Type.F32 or measure_difference(compute_last_logits(lossy), exact) > error / 100


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q5_K, Type.Q6_K])
def test_k_blocks_are_read_as_gguf_reads_them(tmp_path: Path, kind: Type) -> None:
    """Tests types that the library cannot write with random blocks: engine and library read the same values."""
    generator, dequantized = np.random.default_rng(4), {}

    def draw_blocks(array: Array, used: Type) -> Any:
        if used == Type.F32:
            return array
        size, block_bytes = gguf.GGML_QUANT_SIZES[used]
        blocks = generator.integers(0, 256, (len(array), array.shape[1] // size, block_bytes), np.uint8)
        scale = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)  # a random scale would sometimes be NaN
        blocks[..., -2:] = scale if used == Type.Q6_K else blocks[..., -2:]
        blocks[..., :4] = blocks[..., :4] if used == Type.Q6_K else np.tile(scale, 2)
        return blocks.reshape(len(array), -1)

    def quantize_and_record(array: Array, used: Type) -> Any:
        stored = draw_blocks(array, used)
        dequantized[len(dequantized)] = dequantize(stored, used)
        return stored

    file = GgufFile(WIDE, draw_wide_tensors(), kind=kind, quantize=quantize_and_record)
    loaded = open_checkpoint(file.write(tmp_path / "k.gguf")).load()
    down = next(n for n, name in enumerate(file.tensors) if name == "model.layers.1.mlp.down_proj.weight")
    query = next(n for n, name in enumerate(file.tensors) if name == "model.layers.1.self_attn.q_proj.weight")

    assert np.array_equal(loaded.layers[1].down, dequantized[down])
    stored = interleave_heads(np.asarray(loaded.layers[1].query_key_value[: WIDE.query_dim]), WIDE.heads)
    assert np.array_equal(stored, dequantized[query])
    assert np.isfinite(compute_last_logits(loaded)).all()


def test_several_files_are_one_model(tmp_path: Path) -> None:
    """A model in shards of llama.cpp's gguf-split is opened by its first file."""
    tensors = draw_wide_tensors()
    half = len(tensors) // 2
    names = list(tensors)
    GgufFile(WIDE, tensors, omitted_tensors=tuple(names[half:])).write(tmp_path / "m-00001-of-00002.gguf")
    GgufFile(WIDE, tensors, omitted_tensors=tuple(names[:half])).write(tmp_path / "m-00002-of-00002.gguf")
    single_path = GgufFile(WIDE, tensors).write(tmp_path / "whole.gguf")
    split = open_checkpoint(tmp_path / "m-00001-of-00002.gguf")

    assert np.array_equal(compute_last_logits(split.load()), compute_last_logits(open_checkpoint(single_path).load()))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(OSError, match="m-00002-of-00002"):
        open_checkpoint(tmp_path / "m-00001-of-00002.gguf")


def test_what_a_header_tells(tmp_path: Path) -> None:
    """A header has stop tokens, template, special tokens, trained context, and keys for linear scaling."""
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    file = build_family_file(tmp_path, "llama-linear")
    file.extra_metadata = scaling
    checkpoint = open_checkpoint(file.write(tmp_path / "tiny.gguf"))

    assert checkpoint.name == "tiny"
    assert checkpoint.trained_context == 256
    assert checkpoint.config.rope.divisors == (4.0,) * 6
    assert checkpoint.tokenizer.stop_tokens == {1}
    assert checkpoint.tokenizer.chat_template == "{{ messages }}"
    assert checkpoint.tokenizer.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("pieces", [False, True])
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_vocabulary_is_the_one_of_the_folder(gguf_tokenizers: dict[bool, Tokenizer], pieces: bool, text: str) -> None:
    """Any text has the same tokens as with the tokenizer.json of the same checkpoint."""
    expected, actual = (build_pieces_tokenizer() if pieces else build_byte_level_tokenizer()), gguf_tokenizers[pieces]

    assert actual.encode(text) == expected.encode(text).ids
    assert actual.encode(text, special=False) == expected.encode(text, add_special_tokens=False).ids


@pytest.fixture(name="gguf_tokenizers", scope="module")
def _gguf_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Tokenizer]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return {
        pieces: open_checkpoint(
            GgufFile(WIDE, draw_wide_tensors(), pieces=pieces).write(folder / f"{pieces}.gguf")
        ).tokenizer
        for pieces in (False, True)
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "gemma"}, "the architecture 'gemma' is not supported: expected llama, qwen2, qwen3"),
        ({"kind": Type.Q5_0}, "is Q5_0, which is not supported: expected F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K"),
        ({"omitted_tensors": ("model.layers.1.mlp.up_proj.weight",)}, "no tensor model.layers.1.mlp.up_proj.weight"),
        ({"omitted_tensors": ("model.embed_tokens.weight",)}, "no tensor token_embd.weight"),
        (
            {"extra_metadata": {"tokenizer.ggml.model": "t5"}},
            "a tokenizer of the kind 't5' is not supported: expected gpt2, llama",
        ),
        ({"extra_metadata": {"tokenizer.ggml.pre": "tekken"}}, "that splits texts like 'tekken' is not supported"),
        (
            {"extra_metadata": {"llama.rope.scaling.type": "longrope"}},
            "RoPE scaling of type 'longrope' is not supported",
        ),
    ],
)
def test_what_cannot_be_run_says_why(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    """A file of another architecture, type or vocabulary, or without a tensor, is refused with one sentence."""
    path = GgufFile(WIDE, draw_wide_tensors(), **changes).write(tmp_path / "bad.gguf")

    with pytest.raises(ValueError, match=sentence):
        open_checkpoint(path).load()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough", None])
def test_what_is_no_gguf_says_so(tmp_path: Path, content: bytes | None) -> None:
    """An empty, truncated, foreign or missing file is refused by its name."""
    if content is not None:
        (tmp_path / "some.gguf").write_bytes(content)

    with pytest.raises((ValueError, OSError), match=r"some\.gguf"):
        open_checkpoint(tmp_path / "some.gguf")


def test_a_file_cut_in_its_tensors_is_refused(tmp_path: Path) -> None:
    """A truncated download is an error with a sentence, not a crash."""
    path = GgufFile(WIDE, draw_wide_tensors()).write(tmp_path / "cut.gguf")
    path.write_bytes(path.read_bytes()[:-5000])

    with pytest.raises(ValueError, match=r"cut\.gguf is not a GGUF file that can be read"):
        open_checkpoint(path)
