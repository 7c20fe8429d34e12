"""The size of the model, from text or from the machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.checkpoints.tokenizer import VOCAB
from engine.decoder.model import estimate_memory
from engine.decoder.weights import MIN_WEIGHTS_BYTES, ModelConfig, create_seeded_weights, make_config_of_size
from engine.memory.sizing import (
    INTERPRETER_BYTES,
    Size,
    choose_automatic_size,
    parse_size,
    read_available_memory,
    read_last_level_cache,
)

MIB = 1 << 20
GIB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 * MIB), ("64Mi", 64 * MIB), ("2GiB", 2 * GIB), ("5MB", 5_000_000), ("512K", 512_000)],
)
def test_sizes_in_words(text: str, size: int) -> None:
    """Binary and decimal units differ."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "MiB", "-1MiB", "1.5GiB", "64 MiB", "64mib", "1TiB", "٣MiB", "automatic"])
def test_other_words_are_refused(text: str) -> None:
    """Anything else is an error with the expected format."""
    with pytest.raises(ValueError, match="expected auto or a size such as 64MiB"):
        parse_size(text)


def estimate_footprint(size: int) -> int:
    """Estimates a process that takes 50 MiB beside its weights."""
    return size + 50 * MIB


@pytest.mark.parametrize(
    ("cache", "available", "expected"),
    [
        (32 * MIB, 1000 * MIB, Size(128 * MIB, False)),
        (32 * MIB, 178 * MIB, Size(128 * MIB, False)),
        (None, 1000 * MIB, Size(128 * MIB, False)),
        (32 * MIB, None, Size(128 * MIB, False)),
        (512 * MIB, 100 * GIB, Size(GIB, True)),
    ],
)
def test_automatic_size(cache: int | None, available: int | None, expected: Size) -> None:
    """The size is four caches, unless 1 GiB is less; then `is_reduced` is true."""
    assert choose_automatic_size(cache, available, MIB, estimate_footprint) == expected


def test_what_has_no_room_is_smaller() -> None:
    """With one byte too little for four caches the model shrinks, to within 2 % of the available memory."""
    size, is_reduced = choose_automatic_size(32 * MIB, 178 * MIB - 1, MIB, estimate_footprint)

    assert is_reduced
    assert 0.98 * 128 * MIB <= size < 128 * MIB
    assert 98 * MIB <= choose_automatic_size(32 * MIB, 150 * MIB, MIB, estimate_footprint).size <= 100 * MIB


@given(st.integers(45 * MIB, 2 * GIB), st.integers(64, 4096))
def test_all_of_the_process_has_room(available: int, context: int) -> None:
    """Weights, KV cache, scratch and interpreter together stay below the limit, whatever the steps of shapes."""

    def estimate_total(size: int) -> int:
        return estimate_memory(make_config_of_size(size, VOCAB), context).total + INTERPRETER_BYTES

    if estimate_total(MIB) > available:
        with pytest.raises(ValueError, match="the smallest model takes"):
            choose_automatic_size(GIB, available, MIN_WEIGHTS_BYTES, estimate_total)
        return
    size = choose_automatic_size(GIB, available, MIN_WEIGHTS_BYTES, estimate_total).size

    assert estimate_total(size) <= available
    assert MIB <= size <= GIB


def test_no_room_at_all_is_an_error() -> None:
    """If not even the smallest model fits, the sentence has its size."""
    with pytest.raises(ValueError, match=r"^20.0 MiB may be used, and the smallest model takes 51.0 MiB: choose"):
        choose_automatic_size(32 * MIB, 20 * MIB, MIB, estimate_footprint)


def test_machine_is_read(tmp_path: Path) -> None:
    """Reads the largest cache of CPU 0 and MemAvailable, in bytes."""
    for index, size in enumerate(("48K", "32K", "1024K", "32768K")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        folder.mkdir(parents=True)
        (folder / "size").write_text(f"{size}\n")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:    1500 kB\n")

    assert read_last_level_cache(str(tmp_path)) == 32 * MIB
    assert read_available_memory(str(tmp_path)) == 1500 * 1024


def test_unknown_machine_is_unknown(tmp_path: Path) -> None:
    """Missing or malformed files are None, not 0."""
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cache/index0"
    folder.mkdir(parents=True)
    (folder / "size").write_bytes(b"\xff\xfe")

    assert read_last_level_cache(str(tmp_path)) is None
    assert read_available_memory(str(tmp_path)) is None


@given(st.integers(MIB, 4 * GIB))
def test_shape_has_the_size(size: int) -> None:
    """Any size from 1 MiB on has a Llama-like shape of at least that size, within 4 %."""
    config = make_config_of_size(size, VOCAB)

    assert size <= config.weights_bytes <= 1.04 * size
    assert config.heads == 4 * config.kv_heads
    assert config.heads * config.head_dim == config.dim
    assert 1 <= config.hidden / config.dim <= 4


def test_too_small_a_size_is_refused() -> None:
    """Below 1 MiB there is no shape."""
    with pytest.raises(ValueError, match="expected at least 1MiB"):
        make_config_of_size(MIB - 1, VOCAB)


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 3, 8), (4, 2, 7)])
def test_impossible_shapes_are_refused(heads: int, kv_heads: int, head_dim: int) -> None:
    """Numbers that do not fit together are an error at once."""
    with pytest.raises(ValueError, match="must be"):
        ModelConfig(vocab=9, dim=8, layers=1, heads=heads, kv_heads=kv_heads, head_dim=head_dim, hidden=8)


def test_each_layer_has_memory_of_its_own() -> None:
    """Weights take the bytes they are said to take, share none, and follow the seed."""
    config = make_config_of_size(MIB, VOCAB)
    weights, again, other = (create_seeded_weights(config, seed) for seed in (1, 1, 2))
    arrays = weights.list_arrays()

    assert sum(array.nbytes for array in arrays) == config.weights_bytes
    assert all(array.base is None for array in arrays)
    assert len({array.ctypes.data for array in arrays}) == len(arrays)
    assert not np.array_equal(weights.layers[0].gate_up, weights.layers[1].gate_up)
    assert np.array_equal(weights.embedding, again.embedding)
    assert not np.array_equal(weights.embedding, other.embedding)


def test_weights_have_the_variance_they_should() -> None:
    """Uniform with variance 1 / inputs, so that activations keep their scale."""
    gate_up = create_seeded_weights(make_config_of_size(4 * MIB, VOCAB), 0).layers[0].gate_up

    assert float(gate_up.var()) * gate_up.shape[1] == pytest.approx(1, rel=0.02)
    assert abs(float(gate_up.mean())) < 0.01
