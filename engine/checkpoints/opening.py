"""Opens a checkpoint on disk, whatever its format."""

from __future__ import annotations

from pathlib import Path

from engine.checkpoints.checkpoint import Checkpoint


def open_checkpoint(path: Path) -> Checkpoint:
    """
    Opens a folder (config.json, *.safetensors, tokenizer.json) or a .gguf file.

    Reads headers and the tokenizer only. Raises ValueError or OSError with a sentence if this engine cannot run the
    model, or if a library to read it is not installed.
    """
    try:
        if path.is_dir():
            from engine.checkpoints.huggingface import open_folder

            return open_folder(path)
        from engine.checkpoints.gguf import open_gguf

        return open_gguf(path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error.name} is needed to read {path}: install it with pip install 'steadytok[models]'"
        ) from None
