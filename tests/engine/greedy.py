"""The results that are compared with transformers: logits along a prompt and a greedy text; and their difference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.decoder.model import Model
from engine.decoder.weights import Array

GOLDEN = Path(__file__).parent / "golden"
STEP = 8  # logits are stored after every eighth token of the prompt
GREEDY_TOKENS = 64  # tokens of the greedy text
TOLERANCE = 1e-4  # largest relative difference of logits in float32


class Golden(NamedTuple):
    """The results of a model for a prompt."""

    prompt: list[int]
    logits: Array  # (len(prompt) / STEP, vocab)
    tokens: list[int]
    text: str


def read_golden(name: str) -> Golden:
    """Reads the golden results of a family."""
    fields = json.loads((GOLDEN / "texts.json").read_text())[name]
    with np.load(GOLDEN / "logits.npz") as logits:
        return Golden(fields["prompt"], logits[name], fields["made"], fields["text"])


def compute_logits(model: Model, prompt: list[int]) -> Array:
    """Returns logits after every STEP-th token: decodes that token and prefills the others."""
    rows = []
    for end in range(STEP, len(prompt) + 1, STEP):
        for _done in model.prefill(prompt[end - STEP : end - 1], start=end - STEP):
            pass
        rows.append(model.decode([prompt[end - 1]], [0], [end - 1])[0])
    return np.stack(rows)  # (len(prompt) / STEP, vocab)


def generate_greedily(model: Model, prompt: list[int], count: int) -> list[int]:
    """Generates `count` tokens, always the likeliest."""
    for _done in model.prefill(prompt[:-1]):
        pass
    tokens = [prompt[-1]]
    for position in range(len(prompt) - 1, len(prompt) - 1 + count):
        tokens.append(int(model.decode([tokens[-1]], [0], [position])[0].argmax()))
    return tokens[1:]


def measure_difference(a: Any, b: Any) -> float:
    """Returns the largest difference over the largest magnitude."""
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(np.asarray(b))))
