"""The passes of the reference engine, against BLAS on the same matrices in the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from bench.decoding import BATCH, PROMPT, SHAPES
from bench.processes import PROJECT_ROOT
from bench.report import BenchmarkResult, Figure

THREADS = len(os.sched_getaffinity(0))
ABOUT = f"decode, batch and prefill on {THREADS} threads, against products of the same matrices alone"
DECODE_BUDGET = 1.25  # times sgemv: four fifths of its bandwidth


def measure(seconds: float) -> BenchmarkResult:
    """Measures three shapes in float32 and int8, each in a new process."""
    figures: list[Figure] = []
    notes = [f"A batch is {BATCH} sequences, a prefill {PROMPT} tokens; a time is the best of several, taken in turns."]
    for name in SHAPES:
        times_by_kind = {kind: _run_child(name, kind, seconds / 6) for kind in ("float32", "int8")}
        for kind, times in times_by_kind.items():
            if "left_out" in times:
                notes.append(f"{name} in {kind} is skipped: {times['left_out']}.")
            else:
                figures += _build_figures(f"{name} {kind}", times, DECODE_BUDGET if kind == "float32" else None)
        if all("decode" in times for times in times_by_kind.values()):
            ratio = times_by_kind["float32"]["decode"] / times_by_kind["int8"]["decode"]
            figures.append(Figure(f"{name}: tokens/s of int8 / of float32", ratio, "ratio"))
    return BenchmarkResult("engine", ABOUT, tuple(figures), tuple(notes))


def _build_figures(label: str, times: dict[str, Any], budget: float | None) -> Iterator[Figure]:
    decode = times["decode"]
    yield Figure(f"{label}: a decode pass / its products alone", decode / times["products"], "ratio", budget)
    yield Figure(f"{label}: decode", 1 / decode, "tokens/s")
    yield Figure(f"{label}: weights read while decoding", times["weights_bytes"] / decode / 1e9, "GB/s")
    yield Figure(f"{label}: tokens/s of a batch / of one", BATCH * decode / times["batch"], "ratio")
    yield Figure(f"{label}: tokens/s of a prefill / of decode", PROMPT * decode / times["prefill"], "ratio")


def _run_child(name: str, kind: str, seconds: float) -> dict[str, Any]:
    completed = subprocess.run(
        [sys.executable, "-m", "bench.decoding", name, kind, str(seconds)],
        cwd=PROJECT_ROOT,
        env=os.environ | build_environment(),
        check=True,
        capture_output=True,
        timeout=300 + seconds,
    )
    times: dict[str, Any] = json.loads(completed.stdout)
    return times


def build_environment() -> dict[str, str]:
    """Returns the variables that set the threads of BLAS and Numba, as `python -m engine` sets them."""
    variables = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(variables, str(THREADS)) | {"OMP_WAIT_POLICY": "PASSIVE"}
