"""Where a model comes from: a seed, a folder as Hugging Face has them, or a GGUF file; known before it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from engine.checkpoints.tokenizer import VOCAB, ByteTokenizer, Tokenizer
from engine.decoder.int8 import compile_kernels
from engine.decoder.weights import ModelConfig, Weights, config_of_size, create_seeded_weights


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is known of a model from its header."""

    name: str
    config: ModelConfig
    tokenizer: Tokenizer
    load_weights: Callable[[ModelConfig], Weights]
    trained_context: int | None = None  # tokens; more than these it has never seen

    def load(self) -> Weights:
        """Makes the weights, as `config` says."""
        return self.load_weights(self.config)

    def to_int8(self) -> Checkpoint:
        """The same with 8-bit matrices; ValueError where Numba is not installed."""
        try:
            compile_kernels()
        except ModuleNotFoundError as error:
            raise ValueError(
                f"{error.name} is needed for 8-bit weights: install it with pip install 'steadytok[int8]'"
            ) from None
        return replace(self, config=replace(self.config, int8=True))


def create_seeded(size: int, seed: int, *, int8: bool = False) -> Checkpoint:
    """A model of about so many bytes made from a seed, which speaks bytes; ValueError below 1 MiB."""
    config = config_of_size(size, VOCAB, int8=int8)
    name = f"seeded-{config.weights_bytes / (1 << 20):.0f}MiB"
    return Checkpoint(name, config, ByteTokenizer(), lambda shape: create_seeded_weights(shape, seed))
