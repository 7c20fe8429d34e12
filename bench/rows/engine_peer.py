"""The tokens/s of the reference engine against llama.cpp, on the same seeded weights, in one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bench.peer import SHAPE
from bench.processes import PROJECT_ROOT
from bench.report import BenchmarkResult, Figure
from bench.rows.engine import build_environment

ABOUT = f"tokens/s of decoding a model of the {SHAPE} shape, against llama.cpp on the same weights and threads"


def measure(seconds: float) -> BenchmarkResult:
    """Measures both in turns, in one process; skips the row if the peer is not installed."""
    completed = subprocess.run(
        [sys.executable, "-m", "bench.peer", str(seconds)],
        cwd=PROJECT_ROOT,
        env=os.environ | build_environment(),
        check=True,
        capture_output=True,
        timeout=300 + seconds,
    )
    result = json.loads(completed.stdout)
    if "missing" in result:
        package = {"llama_cpp": "llama-cpp-python"}.get(result["missing"], result["missing"])
        return BenchmarkResult(
            "engine_peer", ABOUT, skipped=f"{package} is not installed (pip install {package} compiles it)."
        )
    figures = [
        Figure(f"steadytok {our_kind} / llama.cpp {kind}", result[kind] / result[our_kind], "ratio")
        for our_kind, kind in (("float32", "F32"), ("int8", "Q8_0"))
    ]
    figures += [
        Figure(f"{name} {kind}", 1 / result[kind], "tokens/s")
        for name, kind in (("steadytok", "float32"), ("llama.cpp", "F32"), ("steadytok", "int8"), ("llama.cpp", "Q8_0"))
    ]
    figures += [
        Figure(f"logits apart from llama.cpp's {kind}, of the largest", difference, "ratio")
        for kind, difference in result["differences"].items()
    ]
    return BenchmarkResult(
        "engine_peer", ABOUT, tuple(figures), (f"llama-cpp-python {result['version']}, on CPUs only.",)
    )
