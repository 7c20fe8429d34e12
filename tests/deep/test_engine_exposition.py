"""The reference engine's /metrics under Prometheus' own linter."""

from __future__ import annotations

import subprocess
import time

import pytest

from engine.generation import Generation
from engine.metrics import exposition
from engine.model import Model
from engine.pace import Pace
from engine.weights import Config, seeded_weights
from tests import processes

pytestmark = pytest.mark.deep


def test_promtool_accepts_the_exposition() -> None:
    """`promtool check metrics` has nothing to say about the engine's metrics."""
    promtool = processes.program("promtool")
    config = Config(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)
    generation = Generation(Model(seeded_weights(config, 0), 16), Pace(time.monotonic), time.perf_counter)
    text = exposition(generation, "tiny", 1)
    check = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)

    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")
