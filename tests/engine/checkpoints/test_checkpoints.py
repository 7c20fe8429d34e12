"""Checkpoints of each family, compared with the results of transformers (golden/, by `make parity`)."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from engine.checkpoints.checkpoint import Checkpoint
from engine.checkpoints.huggingface import read_config
from engine.checkpoints.opening import open_checkpoint
from engine.checkpoints.vocabulary import VocabularyTokenizer
from engine.decoder.model import Model, estimate_memory
from tests.engine.families import (
    FAMILIES,
    PROMPT,
    build_byte_level_tokenizer,
    build_config_fields,
    build_pieces_tokenizer,
    draw_tensors,
    write_checkpoint,
)
from tests.engine.greedy import (
    GREEDY_TOKENS,
    TOLERANCE,
    compute_logits,
    generate_greedily,
    measure_difference,
    read_golden,
)
from tests.engine.spy import Spy, spy_on


@pytest.fixture(name="folders", scope="module")
def _folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes the checkpoints of all families."""
    parent = tmp_path_factory.mktemp("families")
    for name in FAMILIES:
        write_checkpoint(parent, name)
    return parent


def get_vocabulary(checkpoint: Checkpoint) -> VocabularyTokenizer:
    """Returns the tokenizer of a checkpoint, which is not a byte tokenizer."""
    assert isinstance(checkpoint.tokenizer, VocabularyTokenizer)
    return checkpoint.tokenizer


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers(folders: Path, name: str) -> None:
    """Prefilled and decoded, each family's logits are those of transformers to 1e-4 of the largest."""
    golden, model = read_golden(name), Model(open_checkpoint(folders / name).load(), 256)

    assert measure_difference(compute_logits(model, golden.prompt), golden.logits) < TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_text_equals_transformers(folders: Path, name: str) -> None:
    """The same prompt gives the same tokens, 64 greedy tokens after it, and the same text."""
    checkpoint, golden = open_checkpoint(folders / name), read_golden(name)
    prompt = checkpoint.tokenizer.encode(PROMPT)
    tokens = generate_greedily(Model(checkpoint.load(), 256), prompt, GREEDY_TOKENS)

    assert prompt == golden.prompt
    assert tokens == golden.tokens
    assert get_vocabulary(checkpoint).decode(tokens) == golden.text


@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_equals_token_by_token(folders: Path, name: str) -> None:
    """Biases, head norms, windows and scaled RoPE have the same effect on a chunk as on single tokens."""
    prompt, weights = read_golden(name).prompt, open_checkpoint(folders / name).load()
    model = Model(weights, 256)
    for position, token in enumerate(prompt):
        expected = model.decode([token], [0], [position])[0]

    assert (
        measure_difference(
            compute_logits(Model(weights, 256), prompt[:96])[-1], compute_logits_after(weights, prompt[:96])
        )
        < 1e-5
    )
    assert measure_difference(compute_logits_after(weights, prompt), expected) < 1e-5


def compute_logits_after(weights: Any, prompt: list[int]) -> Any:
    """Prefills a prompt except its last token; returns the logits after the prompt."""
    model = Model(weights, 256)
    for _done in model.prefill(prompt[:-1]):
        pass
    return model.decode([prompt[-1]], [0], [len(prompt) - 1])[0]


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_equals_single(folders: Path, name: str) -> None:
    """Three prompts of different lengths in one pass have the logits of each alone, to 1e-5 of the largest."""
    prompt, weights = read_golden(name).prompt, open_checkpoint(folders / name).load()
    together = Model(weights, 256, slots=3)
    ends = (7, 40, len(prompt))
    for slot, end in enumerate(ends):
        for _done in together.prefill(prompt[: end - 1], slot):
            pass
    logits = together.decode([prompt[end - 1] for end in ends], range(3), [end - 1 for end in ends])

    for row, end in zip(logits, ends, strict=True):
        assert measure_difference(row, compute_logits_after(weights, prompt[:end])) < 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_memory_is_known_before(folders: Path, name: str) -> None:
    """The bytes estimated from the header are the bytes of the arrays, and all arrays are float32."""
    checkpoint = open_checkpoint(folders / name)
    estimate = estimate_memory(checkpoint.config, 64)
    arrays = Model(checkpoint.load(), 64).list_arrays()

    assert estimate.total == sum(array.nbytes for array in arrays)
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_float64(folders: Path, name: str) -> None:
    """Everything that a family computes, in a prefill longer than its window and in a batch, is float32."""
    model = spy_on(Model(open_checkpoint(folders / name).load(), 128, slots=2))
    Spy.dtypes = set()
    for slot in range(2):
        for _done in model.prefill(range(50), slot):
            pass
    logits = model.decode([1, 2], [0, 1], [50, 50])

    assert logits.dtype == np.float32
    assert Spy.dtypes <= {np.dtype(np.float32), np.dtype(np.bool_)}
    assert np.dtype(np.float32) in Spy.dtypes


def test_what_a_folder_tells(folders: Path, tmp_path: Path) -> None:
    """Stop tokens come from generation_config.json before config.json; template and special tokens are read."""
    folder = Path(shutil.copytree(folders / "qwen3", tmp_path / "qwen3"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "bos_token": None,
                "eos_token": {"content": "</s>"},
                "chat_template": [
                    {"name": "tool_use", "template": "no"},
                    {"name": "default", "template": "{{ messages }}"},
                ],
            }
        )
    )
    before = open_checkpoint(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    (folder / "chat_template.jinja").write_text("{{ of_its_own }}")
    after = open_checkpoint(folder)

    assert before.name == "qwen3"
    assert before.trained_context == 256
    assert before.tokenizer.stop_tokens == {1}
    assert before.tokenizer.chat_template == "{{ messages }}"
    assert before.tokenizer.special_tokens == {"eos_token": "</s>"}
    assert after.tokenizer.stop_tokens == {1, 7}
    assert after.tokenizer.chat_template == "{{ of_its_own }}"


def test_special_tokens_are_added_or_not(folders: Path) -> None:
    """BOS begins a text, and not a rendered chat template."""
    tokenizer = open_checkpoint(folders / "llama3").tokenizer

    assert tokenizer.encode("a") == [0, *tokenizer.encode("a", special=False)]
    assert tokenizer.encode("<s>a", special=False) == tokenizer.encode("a")
    with pytest.raises(UnicodeEncodeError):
        tokenizer.encode("\ud800")


TOKENIZERS = {
    make.__name__: VocabularyTokenizer(make(), frozenset(), None, {})
    for make in (build_byte_level_tokenizer, build_pieces_tokenizer)
}


@pytest.mark.parametrize("make", TOKENIZERS)
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=60))
def test_decoder_gives_whole_characters(make: str, text: str) -> None:
    """The pieces add up to the encoded text, and no piece has half a character."""
    tokenizer = TOKENIZERS[make]
    decoder, tokens = tokenizer.create_decoder(), tokenizer.encode(text)
    pieces = [decoder.decode_token(token, last=n == len(tokens)) for n, token in enumerate(tokens, 1)]

    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == tokenizer.decode(tokens)


@pytest.mark.parametrize("make", TOKENIZERS)
@given(
    tokens=st.lists(st.integers(3, 290), min_size=1, max_size=120)
)  # 0 to 2 have no text, and separate their neighbours
def test_decoder_never_waits_for_ever(make: str, tokens: list[int]) -> None:
    """Bytes that are not a character appear as soon as that is certain: at most one character is withheld."""
    tokenizer = TOKENIZERS[make]
    decoder = tokenizer.create_decoder()
    decoded = "".join(decoder.decode_token(token) for token in tokens)
    full_text = tokenizer.decode(tokens)

    if make == "byte_level_tokenizer":
        assert full_text[: len(decoded)] == decoded
        assert len(full_text) - len(decoded) <= 1
    else:  # the full text has a U+FFFD for each byte of SentencePiece if some bytes are not a character
        assert Counter(full_text.replace("\ufffd", "")) <= Counter(decoded)


Damage = Callable[[Path], object]


def change_json(name: str, **fields: Any) -> Damage:
    """Returns a change of fields in a JSON file."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def remove_tensor(tensor: str) -> Damage:
    """Returns a change that removes a tensor from model.safetensors."""

    def spoil(folder: Path) -> None:
        from safetensors.numpy import load_file

        tensors = load_file(folder / "model.safetensors")
        del tensors[tensor]
        save_file(tensors, folder / "model.safetensors")

    return spoil


def index_wrong_file(folder: Path) -> None:
    """Writes an index that lists a tensor in a file without it."""
    names = [key for key, _ in draw_tensors(FAMILIES["llama-linear"])]
    save_file({"other": np.ones(1, np.float32)}, folder / "other.safetensors")
    weight_map = dict.fromkeys(names, "model.safetensors") | {"model.norm.weight": "other.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json must hold a JSON object"),
        (
            change_json("config.json", model_type="gpt2"),
            "model_type 'gpt2' is not supported: expected llama, mistral, q",
        ),
        (change_json("config.json", hidden_size="48"), "hidden_size must be a whole number from 1, not '48'"),
        (change_json("config.json", hidden_act="gelu"), "hidden_act 'gelu' is not supported: expected silu"),
        (change_json("config.json", quantization_config={"bits": 4}), "quantization_config is not supported"),
        (change_json("config.json", num_key_value_heads=3), r"heads \(4\) must be a multiple of kv_heads \(3\)"),
        (
            change_json("config.json", rope_scaling={"type": "dynamic"}),
            "RoPE scaling of type 'dynamic' is not supported",
        ),
        (change_json("config.json", rope_scaling={"type": "linear"}), "RoPE scaling of type linear lacks 'factor'"),
        (change_json("config.json", rope_parameters={"partial_rotary_factor": 0.5}), "over a part of each head"),
        (change_json("config.json", hidden_size=64), "has the shape .* but the configuration requires"),
        (change_json("config.json", vocab_size=100), "the tokenizer has 292 tokens, and the model only 100"),
        (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is not a tokenizer"),
        (lambda f: (f / "tokenizer_config.json").write_text("{"), "tokenizer_config.json is not JSON"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            "has neither model.safetensors nor model.safetensors.index.json",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"abc"), "is not a safetensors file"),
        (lambda f: (f / "model.safetensors.index.json").write_text("{}"), "has no weight_map of tensors to files"),
        (index_wrong_file, "has no tensor model.norm.weight, but the index lists it there"),
        (remove_tensor("model.layers.1.mlp.up_proj.weight"), "no tensor model.layers.1.mlp.up_proj.weight"),
        (lambda f: save_file({"model.embed_tokens.weight": np.ones((320, 48))}, f / "model.safetensors"), "float64"),
    ],
)
def test_what_cannot_be_run_says_why(folders: Path, tmp_path: Path, spoil: Damage, sentence: str) -> None:
    """A broken or unsupported folder is refused with one sentence that names the fault."""
    folder = Path(shutil.copytree(folders / "llama-linear", tmp_path / "spoilt"))
    spoil(folder)

    with pytest.raises((ValueError, OSError), match=sentence):
        open_checkpoint(folder).load()


def test_sliding_window_is_as_the_family_has_it() -> None:
    """Mistral's window applies to every layer and defaults to 4096; Qwen's applies only if switched on."""
    mistral, qwen = build_config_fields(FAMILIES["mistral"]), build_config_fields(FAMILIES["qwen2-window"])

    assert read_config(mistral).windows == (24, 24, 24)
    assert read_config({k: v for k, v in mistral.items() if k != "sliding_window"}).windows == (4096,) * 3
    assert read_config(mistral | {"sliding_window": None}).windows == ()
    assert read_config(qwen).windows == (None, 24, 24)
    assert read_config(qwen | {"use_sliding_window": False}).windows == ()
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    assert read_config(qwen | {"layer_types": kinds}).windows == (24, None, None)


JUNK = st.sampled_from(
    [None, True, 0, -1, 1.5, 1e308, float("inf"), "x", [], [1], {}, {"type": 3}, {"type": "yarn", "factor": 0}]
)


@given(field=st.sampled_from(sorted(build_config_fields(FAMILIES["llama-yarn"]) | {"rope_parameters": 0})), value=JUNK)
def test_junk_in_a_config_is_refused_in_words(folders: Path, field: str, value: Any) -> None:
    """For any value of a field of config.json, the shape is read or a ValueError has the reason."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(shutil.copytree(folders / "llama-yarn", Path(parent, "junk")))
        change_json("config.json", **{field: value})(folder)
        with contextlib.suppress(ValueError):
            open_checkpoint(folder).config.rope.compute_rotation(16, 12)
