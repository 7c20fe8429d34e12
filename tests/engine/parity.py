"""
Writes or checks the golden logits and texts with Hugging Face transformers on PyTorch; `make parity` runs it.

Run `python -m tests.engine.parity --write` after a family was added or changed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers

from engine.checkpoints.opening import open_checkpoint
from engine.checkpoints.vocabulary import VocabularyTokenizer
from engine.decoder.model import Model
from tests.engine.families import FAMILIES, PROMPT, write_checkpoint
from tests.engine.greedy import (
    GOLDEN,
    GREEDY_TOKENS,
    STEP,
    TOLERANCE,
    Golden,
    compute_logits,
    generate_greedily,
    measure_difference,
    read_golden,
)

# Share of the largest logit by which a greedy token must lead, so that rounding cannot change it.
MIN_LEAD = 2 * TOLERANCE


class UnclearError(Exception):
    """A greedy text ends early, or depends on a rounding error: the model needs another seed."""


class Verdict(NamedTuple):
    """The result of one comparison."""

    subject: str
    difference: float
    is_same_text: bool

    @property
    def is_equal(self) -> bool:
        """True if logits and text agree."""
        return self.difference < TOLERANCE and self.is_same_text

    @property
    def line(self) -> str:
        """The verdict in one line."""
        text = "the same text" if self.is_same_text else "ANOTHER TEXT"
        mark = "same" if self.is_equal else "DIFFERS"
        return f"{mark:8} {self.subject:45} logits within {self.difference:.1e}, {text}"


def main() -> int:
    """Returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="parity", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the golden files")
    write = parser.parse_args().write
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.use_deterministic_algorithms(True)
    with tempfile.TemporaryDirectory() as folder:
        goldens = {name: compute_golden(write_checkpoint(Path(folder), name)) for name in FAMILIES}
        if write:
            save(goldens)
        verdicts = [verdict for name in FAMILIES for verdict in compare_goldens(Path(folder, name), goldens[name])]
        verdicts += [compare_saved_checkpoint(Path(folder), name) for name in FAMILIES]
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    sys.stdout.writelines(f"{verdict.line}\n" for verdict in verdicts)
    sys.stdout.write(f"{versions}: at most {TOLERANCE:g} of the largest logit may differ.\n")
    return 0 if all(verdict.is_equal for verdict in verdicts) else 1


def compute_golden(folder: Path) -> Golden:
    """Returns the results of transformers: logits after every STEP-th token of the prompt, and a greedy text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer(PROMPT).input_ids
    return compute_model_golden(load(folder), prompt, tokenizer)


def load(folder: Path) -> Any:
    """Loads the model with transformers, in float32, with the plain attention."""
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def compute_model_golden(model: Any, prompt: list[int], tokenizer: Any) -> Golden:
    """Returns the results of a loaded model; raises UnclearError if rounding could change a greedy token."""
    ids = torch.tensor([prompt])
    with torch.no_grad():
        logits = model(ids).logits[0].numpy()  # (len(prompt), vocab)
        sequence = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=GREEDY_TOKENS, do_sample=False
        )
        sorted_logits = np.sort(model(sequence).logits[0, len(prompt) - 1 : -1].numpy())  # (MADE, vocab)
    tokens = sequence[0, len(prompt) :].tolist()
    if len(tokens) < GREEDY_TOKENS or np.min(sorted_logits[:, -1] - sorted_logits[:, -2]) < MIN_LEAD * np.max(
        np.abs(sorted_logits)
    ):
        raise UnclearError
    return Golden(prompt, logits[STEP - 1 :: STEP], tokens, tokenizer.decode(tokens, skip_special_tokens=True))


def save(goldens: dict[str, Golden]) -> None:
    """Writes the golden files."""
    np.savez_compressed(GOLDEN / "logits.npz", **{name: golden.logits for name, golden in goldens.items()})
    texts = {name: {"prompt": g.prompt, "made": g.tokens, "text": g.text} for name, g in goldens.items()}
    versions = {"torch": str(torch.__version__), "transformers": transformers.__version__}
    lines = [f"{json.dumps(name)}: {json.dumps(fields)}" for name, fields in ({"made_with": versions} | texts).items()]
    (GOLDEN / "texts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def compare_goldens(folder: Path, current: Golden) -> list[Verdict]:
    """Compares the golden files and this engine with transformers."""
    stored, ours = read_golden(folder.name), compute_engine_golden(folder)
    return [
        Verdict(
            f"{folder.name}: golden files", measure_difference(stored.logits, current.logits), stored[2:] == current[2:]
        ),
        Verdict(
            f"{folder.name}: this engine", measure_difference(ours.logits, current.logits), ours[2:] == current[2:]
        ),
    ]


def compute_engine_golden(folder: Path) -> Golden:
    """Returns the results of this engine."""
    checkpoint = open_checkpoint(folder)
    model = Model(checkpoint.load(), 256)
    prompt = checkpoint.tokenizer.encode(PROMPT)
    tokens = generate_greedily(model, prompt, GREEDY_TOKENS)
    assert isinstance(checkpoint.tokenizer, VocabularyTokenizer)
    return Golden(prompt, compute_logits(model, prompt), tokens, checkpoint.tokenizer.decode(tokens))


def compare_saved_checkpoint(parent: Path, name: str) -> Verdict:
    """Compares both on a checkpoint that transformers initialises and saves, in shards and bfloat16."""
    folder = parent / f"{name}-saved"
    tokenizer = transformers.AutoTokenizer.from_pretrained(parent / name)
    config = transformers.AutoConfig.from_pretrained(parent / name)
    config.initializer_range = 0.2
    theirs = None
    for seed in itertools.count():
        torch.manual_seed(seed)
        random = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        random.save_pretrained(folder, max_shard_size="40KB")
        tokenizer.save_pretrained(folder)
        with contextlib.suppress(UnclearError):  # try the next seed
            theirs = compute_model_golden(load(folder), tokenizer(PROMPT).input_ids, tokenizer)
            break
    assert theirs is not None
    ours = compute_engine_golden(folder)
    files = len(list(folder.glob("*.safetensors")))
    subject = f"{name}: saved by transformers, {files} files"
    return Verdict(subject, measure_difference(ours.logits, theirs.logits), ours[2:] == theirs[2:])


if __name__ == "__main__":
    sys.exit(main())
