"""Memory told in advance is the memory taken, and taken before the first request."""

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
    """A process, its ready line, and what it told at most, told beside Python, and took, in MiB."""

    pid: int
    ready: dict[str, Any]
    announced_total: float
    announced: float
    grown: float


@contextmanager
def run_engine(*arguments: str) -> Iterator[Engine]:
    """The engine as a child, until the end of the block."""
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
    """MiB of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def complete(url: str, prompt: str, tokens: int) -> None:
    """One request, to its end."""
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
    Weights, KV cache of all slots, scratch and passes grow the process by what was told, to 3 % and 1.5 MiB.

    The 1.5 MiB are what the heap and BLAS round up; 4 MiB with the compiled code that 8-bit weights need.
    """
    with run_engine(*arguments) as started:
        assert started.announced == pytest.approx(started.grown, rel=0.03, abs=4 if "int8" in arguments else 1.5)


def test_measuring_is_told_and_given_back() -> None:
    """8-bit weights are measured beside a matrix in float32 for a moment: the process was never larger than it said."""
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
    """A prompt and an answer that fill the context find all memory there: the process does not grow."""
    with run_engine("--size", "8MiB", "--context", "2048", "--slots", "2") as started:
        before = read_resident(started.pid)
        complete(started.ready["url"], "a" * 1900, 100)

        assert read_resident(started.pid) - before < 2


def test_lazy_shows_how_engines_die() -> None:
    """With --lazy the KV cache is told but not taken: the first request takes it, when nobody looks any more."""
    with run_engine("--size", "8MiB", "--context", "2048", "--slots", "2", "--lazy") as started:
        before = read_resident(started.pid)
        complete(started.ready["url"], "a" * 1900, 100)
        grown = read_resident(started.pid) - before

        assert started.announced - started.grown > 10
        assert grown > 8


def test_what_does_not_fit_is_refused_with_the_sum() -> None:
    """Before anything is allocated, with what is needed, what there is, and who has it."""
    command = [sys.executable, "-m", "engine", "--size", "64MiB", "--context", "131072", "--slots", "64"]
    command[command.index("64MiB")] = "900000GiB"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)

    assert done.returncode == 2
    assert re.search(
        r"memory: weights \S+ MiB, KV cache \S+ MiB in 64 slots, scratch \S+ MiB, passes .* together", done.stderr
    )
    assert re.search(r"cannot start: \S+ MiB are needed, more than the \S+ MiB that .* has available", done.stderr)
