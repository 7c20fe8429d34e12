"""The reference engine's tokens/s against llama.cpp's, on the same seeded weights, in one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bench.peer import SHAPE
from bench.processes import HOUSE
from bench.report import Figure, Row
from bench.rows.engine import environment

ABOUT = f"tokens/s of decoding a model of the {SHAPE} shape, against llama.cpp on the same weights and threads"


def measure(seconds: float) -> Row:
    """By turns in one process; skipped where the peer is not installed."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.peer", str(seconds)],
        cwd=HOUSE,
        env=os.environ | environment(),
        check=True,
        capture_output=True,
        timeout=300 + seconds,
    )
    found = json.loads(done.stdout)
    if "missing" in found:
        what = {"llama_cpp": "llama-cpp-python"}.get(found["missing"], found["missing"])
        return Row("engine_peer", ABOUT, skipped=f"{what} is not installed; pip install {what}, which compiles it.")
    figures = [
        Figure(f"steadytok {ours} / llama.cpp {kind}", found[kind] / found[ours], "ratio")
        for ours, kind in (("float32", "F32"), ("int8", "Q8_0"))
    ]
    figures += [
        Figure(f"{name} {kind}", 1 / found[kind], "tokens/s")
        for name, kind in (("steadytok", "float32"), ("llama.cpp", "F32"), ("steadytok", "int8"), ("llama.cpp", "Q8_0"))
    ]
    figures += [
        Figure(f"logits apart from llama.cpp's {kind}, of the largest", apart, "ratio")
        for kind, apart in found["differences"].items()
    ]
    return Row("engine_peer", ABOUT, tuple(figures), (f"llama-cpp-python {found['version']}, on CPUs only.",))
