"""GGUF files written with the `gguf` library as llama.cpp's converter writes them, against the folders they are of."""

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
from tests.engine.families import FAMILIES, byte_level_tokenizer, pieces_tokenizer, tensors_of, write_checkpoint
from tests.engine.greedy import MADE, greedy, logits_of, read_golden, relative_difference

WIDE = ModelConfig(vocab=292, dim=256, layers=2, heads=4, kv_heads=2, head_dim=64, hidden=512, tied=False)
PROMPT = [0, 17, 250, 4, 4, 91, 133]
Quantise = Callable[[Array, Type], Any]


def interleaved(array: Array, heads: int) -> Array:
    """Rows as llama.cpp's converter puts queries and keys of the architecture llama: RoPE pairs become neighbours."""
    halves = array.reshape(heads, 2, -1, *array.shape[1:])  # (heads, 2, head_dim / 2, …)
    return halves.swapaxes(1, 2).reshape(array.shape)


@dataclass
class File:
    """A GGUF file to be: its shape and tensors, and how they are kept."""

    config: ModelConfig
    tensors: dict[str, Array]
    architecture: str = "llama"
    kind: Type = Type.F32
    pieces: bool = False
    more: dict[str, Any] = field(default_factory=dict)  # metadata
    without: tuple[str, ...] = ()  # tensors
    quantise: Quantise = quantize

    def write(self, path: Path) -> Path:
        """The whole file: shape, vocabulary, and all matrices of one type."""
        writer = gguf.GGUFWriter(path, self.architecture)
        add_shape(writer, self.config)
        add_vocabulary(writer, pieces=self.pieces)
        for key, value in self.more.items():
            writer.kv_data[0].pop(key, None)
            writer.add_string(key, value) if isinstance(value, str) else writer.add_float32(key, value)
        for name, array in self.tensors.items():
            if name not in self.without:
                used = self.kind if array.ndim == 2 else Type.F32
                writer.add_tensor(to_gguf_name(name), self.quantise(self.ordered(name, array), used), raw_dtype=used)
        if self.config.rope.divisors and "rope.scaling" not in str(self.more):
            writer.add_tensor("rope_freqs.weight", np.asarray(self.config.rope.divisors, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def ordered(self, name: str, array: Array) -> Array:
        """The tensor as the architecture has it."""
        if self.architecture == "llama" and ".q_proj." in name:
            return interleaved(array, self.config.heads)
        if self.architecture == "llama" and ".k_proj." in name:
            return interleaved(array, self.config.kv_heads)
        return array


def add_shape(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """The numbers of the header."""
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
    """The tokenizer of the tiny checkpoints, in the two ways that llama.cpp has."""
    own = pieces_tokenizer() if pieces else byte_level_tokenizer()
    tokens = [str(own.id_to_token(number)) for number in range(own.get_vocab_size())]
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("llama" if pieces else "gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in ("<s>", "</s>") else normal for token in tokens])
    if pieces:
        writer.add_token_scores([-float(number) for number in range(len(tokens))])
        writer.add_unk_token_id(0)
    else:
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_merges([" ".join(merge) for merge in json.loads(own.to_str())["model"]["merges"]])
        writer.add_add_bos_token(True)
    writer.add_bos_token_id(own.token_to_id("<s>"))
    writer.add_eos_token_id(own.token_to_id("</s>"))
    writer.add_chat_template("{{ messages }}")


def of_family(tmp_path: Path, name: str) -> File:
    """A tiny checkpoint as it will be in GGUF."""
    family = FAMILIES[name]
    config = open_checkpoint(write_checkpoint(tmp_path, name)).config
    tensors = {key: np.asarray(array.astype(family.dtype), np.float32) for key, array in tensors_of(family)}
    architecture = {"mistral": "llama"}.get(family.model_type, family.model_type)
    return File(config, tensors, architecture, pieces=family.pieces)


def wide_tensors() -> dict[str, Array]:
    """Tensors whose rows are whole blocks of every quantised type."""
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


def last_logits(weights: Weights) -> Array:
    """Logits after PROMPT."""
    model = Model(weights, 16)
    for _done in model.prefill(PROMPT[:-1]):
        pass
    return model.decode([PROMPT[-1]], [0], [len(PROMPT) - 1])[0]


@pytest.mark.parametrize("name", ["llama2", "llama3", "llama-linear", "mistral", "qwen2", "qwen3"])
def test_float32_gives_the_same_text(tmp_path: Path, name: str) -> None:
    """Queries and keys put back in order, scaled RoPE, windows, biases, norms and the vocabulary give the same text."""
    checkpoint = open_checkpoint(of_family(tmp_path, name).write(tmp_path / f"{name}.gguf"))
    golden, model = read_golden(name), Model(checkpoint.load(), 256)

    assert checkpoint.tokenizer.encode(families.PROMPT) == golden.prompt
    assert relative_difference(logits_of(model, golden.prompt), golden.logits) < 1e-4
    assert greedy(model, golden.prompt, MADE) == golden.made


@pytest.mark.parametrize(
    ("kind", "error"),
    [(Type.F32, 1e-6), (Type.F16, 2e-3), (Type.BF16, 2e-2), (Type.Q8_0, 5e-2), (Type.Q4_0, 0.4)],
)
def test_quantised_weights_are_near(tmp_path: Path, kind: Type, error: float) -> None:
    """The same weights in each type give logits that differ by no more than the type loses, and differ they do."""
    whole = last_logits(open_checkpoint(File(WIDE, wide_tensors()).write(tmp_path / "whole.gguf")).load())
    lossy = open_checkpoint(File(WIDE, wide_tensors(), kind=kind).write(tmp_path / "lossy.gguf")).load()

    assert relative_difference(last_logits(lossy), whole) < error
    assert kind == Type.F32 or relative_difference(last_logits(lossy), whole) > error / 100


@pytest.mark.parametrize("kind", [Type.Q4_K, Type.Q5_K, Type.Q6_K])
def test_k_blocks_are_read_as_gguf_reads_them(tmp_path: Path, kind: Type) -> None:
    """Types that the library cannot write are made of random blocks; what it reads in them is what is loaded."""
    generator, kept = np.random.default_rng(4), {}

    def random_blocks(array: Array, used: Type) -> Any:
        if used == Type.F32:
            return array
        size, of_bytes = gguf.GGML_QUANT_SIZES[used]
        blocks = generator.integers(0, 256, (len(array), array.shape[1] // size, of_bytes), np.uint8)
        scale = np.frombuffer(np.float16(1e-4).tobytes(), np.uint8)  # a random scale would be NaN now and then
        blocks[..., -2:] = scale if used == Type.Q6_K else blocks[..., -2:]
        blocks[..., :4] = blocks[..., :4] if used == Type.Q6_K else np.tile(scale, 2)
        return blocks.reshape(len(array), -1)

    def remembered(array: Array, used: Type) -> Any:
        stored = random_blocks(array, used)
        kept[len(kept)] = dequantize(stored, used)
        return stored

    file = File(WIDE, wide_tensors(), kind=kind, quantise=remembered)
    loaded = open_checkpoint(file.write(tmp_path / "k.gguf")).load()
    down = next(n for n, name in enumerate(file.tensors) if name == "model.layers.1.mlp.down_proj.weight")
    query = next(n for n, name in enumerate(file.tensors) if name == "model.layers.1.self_attn.q_proj.weight")

    assert np.array_equal(loaded.layers[1].down, kept[down])
    stored = interleaved(np.asarray(loaded.layers[1].query_key_value[: WIDE.query_dim]), WIDE.heads)
    assert np.array_equal(stored, kept[query])
    assert np.isfinite(last_logits(loaded)).all()


def test_several_files_are_one_model(tmp_path: Path) -> None:
    """A model split as llama.cpp's gguf-split does is opened by its first file."""
    tensors = wide_tensors()
    half = len(tensors) // 2
    names = list(tensors)
    File(WIDE, tensors, without=tuple(names[half:])).write(tmp_path / "m-00001-of-00002.gguf")
    File(WIDE, tensors, without=tuple(names[:half])).write(tmp_path / "m-00002-of-00002.gguf")
    whole = File(WIDE, tensors).write(tmp_path / "whole.gguf")
    split = open_checkpoint(tmp_path / "m-00001-of-00002.gguf")

    assert np.array_equal(last_logits(split.load()), last_logits(open_checkpoint(whole).load()))
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(OSError, match="m-00002-of-00002"):
        open_checkpoint(tmp_path / "m-00001-of-00002.gguf")


def test_what_a_header_tells(tmp_path: Path) -> None:
    """Stop tokens, template and its texts, the trained context, and linear scaling by its own keys."""
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    file = of_family(tmp_path, "llama-linear")
    file.more = scaling
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
    """Any text is cut into the tokens that the tokenizer.json of the same checkpoint cuts it into, and put together."""
    own, ours = (pieces_tokenizer() if pieces else byte_level_tokenizer()), gguf_tokenizers[pieces]

    assert ours.encode(text) == own.encode(text).ids
    assert ours.encode(text, special=False) == own.encode(text, add_special_tokens=False).ids


@pytest.fixture(name="gguf_tokenizers", scope="module")
def _gguf_tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Tokenizer]:
    folder = tmp_path_factory.mktemp("vocabularies")
    return {
        pieces: open_checkpoint(File(WIDE, wide_tensors(), pieces=pieces).write(folder / f"{pieces}.gguf")).tokenizer
        for pieces in (False, True)
    }


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "gemma"}, "the architecture 'gemma' is not supported: expected llama, qwen2, qwen3"),
        ({"kind": Type.Q5_0}, "is Q5_0, which is not supported: expected F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K"),
        ({"without": ("model.layers.1.mlp.up_proj.weight",)}, "no tensor model.layers.1.mlp.up_proj.weight"),
        ({"without": ("model.embed_tokens.weight",)}, "no tensor token_embd.weight"),
        (
            {"more": {"tokenizer.ggml.model": "t5"}},
            "a tokenizer of the kind 't5' is not supported: expected gpt2, llama",
        ),
        ({"more": {"tokenizer.ggml.pre": "tekken"}}, "that cuts texts as 'tekken' does is not supported"),
        ({"more": {"llama.rope.scaling.type": "longrope"}}, "RoPE scaling of type 'longrope' is not supported"),
    ],
)
def test_what_cannot_be_run_says_why(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    """A file of another architecture, type or vocabulary, or without a tensor, is refused with one sentence."""
    path = File(WIDE, wide_tensors(), **changes).write(tmp_path / "bad.gguf")

    with pytest.raises(ValueError, match=sentence):
        open_checkpoint(path).load()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all, but long enough", None])
def test_what_is_no_gguf_says_so(tmp_path: Path, content: bytes | None) -> None:
    """A file that is empty, cut short or something else is refused by its name; one that is not there, too."""
    if content is not None:
        (tmp_path / "some.gguf").write_bytes(content)

    with pytest.raises((ValueError, OSError), match=r"some\.gguf"):
        open_checkpoint(tmp_path / "some.gguf")


def test_a_file_cut_in_its_tensors_is_refused(tmp_path: Path) -> None:
    """A download that ended early is an error in words, not a crash."""
    path = File(WIDE, wide_tensors()).write(tmp_path / "cut.gguf")
    path.write_bytes(path.read_bytes()[:-5000])

    with pytest.raises(ValueError, match=r"cut\.gguf is not a GGUF file that can be read"):
        open_checkpoint(path)
