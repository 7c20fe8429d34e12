"""A checkpoint: its name, shape and tokenizer, known from headers, and the function that loads its weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.checkpoints.tokenizer import VOCAB, ByteTokenizer, Tokenizer
from engine.decoder.int8 import compile_kernels
from engine.decoder.weights import ModelConfig, Weights, create_seeded_weights, make_config_of_size


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model whose header was read and whose weights are not loaded yet."""

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    load_weights: Callable[[ModelConfig], Weights]
    trained_context: int | None = None  # tokens; the model never saw a longer text

    def load(self) -> Weights:
        """Loads or draws the weights in the shape and format of `config`."""
        return self.load_weights(self.config)

    def to_int8(self) -> Checkpoint:
        """Returns the checkpoint with 8-bit matrices; raises ValueError if Numba is not installed."""
        try:
            compile_kernels()
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{error.name} is needed for 8-bit weights: install it with pip install 'steadytok[int8]'"
            ) from None
        return replace(self, config=replace(self.config, int8=True))


def create_seeded(size: int, seed: int, *, int8: bool = False) -> Checkpoint:
    """Returns a byte-level model of about `size` bytes, drawn from a seed; raises ValueError below 1 MiB."""
    config = make_config_of_size(size, VOCAB, int8=int8)
    name = f"seeded-{config.weights_bytes / (1 << 20):.0f}MiB"
    return Checkpoint(name, config, ByteTokenizer(), lambda shape: create_seeded_weights(shape, seed))
