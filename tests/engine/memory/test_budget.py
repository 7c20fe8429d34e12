"""The estimated memory is the memory of the process, allocated before the first request."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[3]
MIB = 1 << 20
SIZE = re.compile(r"([\d.]+) MiB")


class Engine(NamedTuple):
    """A process, its ready line, and in MiB: estimated total, estimate without Python, and growth."""

    pid: int
    ready: dict[str, Any]
    announced_total: float
    announced: float
    grown: float


@contextmanager
def run_engine(*arguments: str) -> Iterator[Engine]:
    """Runs the engine as a child until the end of the block."""
    command = [sys.executable, "-m", "engine", "--nice", "0", *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            ready = json.loads(child.stdout.readline())
            lines = iter(child.stderr.readline, "")
            total = re.search(r"together ([\d.]+) MiB", next(line for line in lines if "together" in line))
            announced, grown = map(
                float, SIZE.findall(next(line for line in lines if "estimated without Python" in line))
            )
            assert total is not None
            yield Engine(child.pid, ready, float(total[1]), announced, grown)
        finally:
            child.terminate()
            child.communicate(timeout=20)


def read_resident(pid: int) -> float:
    """Returns the resident MiB of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def complete(url: str, prompt: str, tokens: int) -> None:
    """Sends one request and reads its response."""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body), timeout=50) as answer:
        assert json.loads(answer.read())["usage"]["completion_tokens"] == tokens


@pytest.mark.parametrize(
    "arguments",
    [
        ("--size", "8MiB", "--context", "64", "--slots", "1"),
        ("--size", "32MiB", "--context", "4096", "--slots", "4"),
        ("--size", "128MiB", "--context", "1024", "--slots", "2", "--threads", "2"),
        ("--size", "4MiB", "--context", "2048", "--slots", "16"),
        ("--size", "32MiB", "--context", "512", "--weights", "int8"),
    ],
)
def test_what_is_told_is_what_is_taken(arguments: tuple[str, ...]) -> None:
    """
    Weights, KV cache of all slots, scratch and passes grow the process by the estimate, to 3 % and 1.5 MiB.

    Heap and BLAS round up by 1.5 MiB; the compiled code for 8-bit weights makes it 4 MiB.
    """
    with run_engine(*arguments) as started:
        assert started.announced == pytest.approx(started.grown, rel=0.03, abs=4 if "int8" in arguments else 1.5)


@pytest.mark.deep
def test_measuring_is_told_and_given_back() -> None:
    """8-bit weights need a temporary float32 matrix for the measurement: the peak stays below the estimated total."""
    with run_engine("--size", "64MiB", "--context", "512", "--weights", "int8") as started:
        peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{started.pid}/status").read_text())
        complete(started.ready["url"], "a", 20)
        with urllib.request.urlopen(f"{started.ready['url']}/metrics", timeout=20) as answer:
            metrics = answer.read().decode()

        assert peak is not None
        assert started.announced_total > int(peak[1]) / 1024 > read_resident(started.pid) + 50
        assert re.search(r"^steadytok_reference_sgemv_bytes_per_second [\d.e+]+$", metrics, re.M)
        assert re.search(r"^steadytok_reference_bandwidth_efficiency_ratio [\d.e-]+$", metrics, re.M)


def test_the_first_request_takes_nothing() -> None:
    """A prompt and an answer that fill the context do not make the process grow."""
    with run_engine("--size", "8MiB", "--context", "2048", "--slots", "2") as started:
        before = read_resident(started.pid)
        complete(started.ready["url"], "a" * 1900, 100)

        assert read_resident(started.pid) - before < 2


def test_lazy_shows_how_engines_die() -> None:
    """With --lazy the KV cache is estimated but not allocated: the first request allocates it."""
    with run_engine("--size", "8MiB", "--context", "2048", "--slots", "2", "--lazy") as started:
        before = read_resident(started.pid)
        complete(started.ready["url"], "a" * 1900, 100)
        grown = read_resident(started.pid) - before

        assert started.announced - started.grown > 10
        assert grown > 8


def test_what_does_not_fit_is_refused_with_the_sum() -> None:
    """The refusal comes before any allocation, with the need, the available memory, and the limit's name."""
    command = [sys.executable, "-m", "engine", "--size", "64MiB", "--context", "131072", "--slots", "64"]
    command[command.index("64MiB")] = "900000GiB"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)

    assert done.returncode == 2
    assert re.search(
        r"memory: weights \S+ MiB, KV cache \S+ MiB in 64 slots, scratch \S+ MiB, passes .* together", done.stderr
    )
    assert re.search(r"cannot start: \S+ MiB are needed, more than the \S+ MiB that .* has available", done.stderr)
