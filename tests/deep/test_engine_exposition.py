"""The reference engine's /metrics under Prometheus' own linter."""

from __future__ import annotations

import subprocess
import time

import pytest

from engine.checkpoints.tokenizer import ByteTokenizer, encode_bytes
from engine.decoder.model import Model
from engine.decoder.sampler import TokenSampler
from engine.decoder.weights import ModelConfig, create_seeded_weights
from engine.serving.metrics import render_exposition
from engine.serving.pace import Pace
from engine.serving.request_stream import GenerationRequest
from engine.serving.scheduler import BatchScheduler
from engine.serving.transcript import Transcript
from tests import processes

pytestmark = pytest.mark.deep


def test_promtool_accepts_the_exposition() -> None:
    """`promtool check metrics` has nothing to say about the engine's metrics, before and after a request."""
    promtool = processes.require_program("promtool")
    config = ModelConfig(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)
    batch = BatchScheduler(Model(create_seeded_weights(config, 0), 16), Pace(time.monotonic), time.monotonic)
    texts = [render_exposition(batch, 'a "name"\\', 1, None)]
    transcript = Transcript(ByteTokenizer().create_decoder(), ())
    batch.submit(GenerationRequest(tuple(encode_bytes("a")), 5, TokenSampler(0.0, None), transcript, lambda: False))
    while not batch.wait_until_idle(0):
        batch.step()
    texts.append(render_exposition(batch, "tiny", 1, 1e9))
    for text in texts:
        check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)

        assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
