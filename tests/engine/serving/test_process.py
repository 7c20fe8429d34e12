"""The real process: `python -m engine`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from engine.memory.numa_nodes import find_tightest_limit, list_nodes
from tests.secret_files import write_secret

ROOT = Path(__file__).parents[3]


def start_engine(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """Starts the engine as a child."""
    return subprocess.Popen(
        [sys.executable, "-m", "engine", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_ready_line(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Reads the ready line."""
    assert child.stdout is not None
    fields: dict[str, Any] = json.loads(child.stdout.readline())
    return fields


def put_pace(url: str, token: str) -> int:
    """Requests a lease with this token; returns the status."""
    request = urllib.request.Request(
        f"{url}/pace", b'{"duty": 0.1}', {"Authorization": f"Bearer {token}"}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_and_ends(number: signal.Signals) -> None:
    """The engine prints its URL in one line, lowers its priority, and exits with 0 on a signal, without traceback."""
    child = start_engine("--size", "1MiB", "--context", "64")
    fields = read_ready_line(child)
    with urllib.request.urlopen(fields["url"] + "/healthz", timeout=10) as answer:
        health = answer.read()
    adjustment = Path(f"/proc/{child.pid}/oom_score_adj").read_text()
    niceness = os.getpriority(os.PRIO_PROCESS, child.pid)
    child.send_signal(number)
    out, err = child.communicate(timeout=20)

    assert json.loads(health) == {"status": "ok"}
    assert fields["weights_bytes"] >= 1 << 20
    assert adjustment == "1000\n"
    assert niceness > os.getpriority(os.PRIO_PROCESS, 0) or niceness == 19
    assert child.returncode == 0
    assert out == ""
    assert "Traceback" not in err
    assert "memory: weights 1.0 MiB, KV cache" in err


def test_ends_in_the_middle_of_a_stream() -> None:
    """Without a drain, a signal during a paced stream ends the process with 0, without traceback."""
    child = start_engine("--size", "1MiB", "--drain", "0", STEADYTOK_ENGINE_TOKEN="from-the-environment")
    url = read_ready_line(child)["url"]

    assert put_pace(url, "from-the-environment") == 200

    body = b'{"prompt": "a", "max_tokens": 1000, "stream": true}'
    with urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", body), timeout=10) as stream:
        first = stream.readline()
        child.send_signal(signal.SIGTERM)
        _out, err = child.communicate(timeout=20)

    assert first.startswith(b"data: {")
    assert child.returncode == 0
    assert "Traceback" not in err


def test_token_from_a_file(tmp_path: Path) -> None:
    """The token is the content of --token-file, which precedes the environment."""
    write_secret(tmp_path / "token", "from-the-file\n")
    child = start_engine("--size", "1MiB", "--token-file", str(tmp_path / "token"), STEADYTOK_ENGINE_TOKEN="other")
    status = put_pace(read_ready_line(child)["url"], "from-the-file")
    child.terminate()
    child.communicate(timeout=20)

    assert status == 200


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o602])
def test_a_token_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    """With it everybody on the host could pace the engine."""
    write_secret(tmp_path / "token", "from-the-file\n").chmod(mode)
    child = start_engine("--size", "1MiB", "--token-file", str(tmp_path / "token"))
    out, err = child.communicate(timeout=20)

    assert (child.returncode, out) == (2, "")
    assert f"/token: others may read or write the token (mode {mode:o}); chmod 640 or 600 it" in err


def test_most_makes_an_automatic_size_smaller() -> None:
    """With auto, --memory-share shrinks the model; the whole process then takes at most that share."""
    available = find_tightest_limit(
        list_nodes(os.sched_getaffinity(0))
    ).available  # of the engine's node, not of the host
    if available is None or available < 1 << 30:
        pytest.skip("this host does not have 1 GiB available")
    share = (60 << 20) / available
    child = start_engine("--size", "auto", "--memory-share", f"{share:.6f}", "--context", "64")
    fields = read_ready_line(child)
    resident = next(
        int(line.split()[1]) * 1024
        for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    )
    child.terminate()
    _, err = child.communicate(timeout=20)

    assert 1 << 20 <= fields["weights_bytes"] <= 25 << 20
    assert resident < 80 << 20
    assert "only, to spare memory" in err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--size", "huge"), "expected auto or a size such as 64MiB"),
        (("--size", "4KiB"), "expected at least 1MiB"),
        (("--size", "900000GiB"), "choose a smaller --size"),
        (("--size", "64MiB", "--most", "0.00001"), "are needed, more than 0.001 % of the"),
        (("--size", "auto", "--most", "0.00001"), "and the smallest model takes 4"),
        (("--size", "1MiB", "--memory-share", "0"), "--memory-share must be more than 0 and at most 1, not 0"),
        (("--size", "1MiB", "--most", "nan"), "--memory-share must be more than 0 and at most 1, not nan"),
        (("--size", "1MiB", "--context", "0"), "--context must be from 2"),
        (("--size", "1MiB", "--threads", "0"), "--threads must be from 1"),
        (("--size", "1MiB", "--port", "70000"), "--port must be from 0 to 65535"),
        (("--size", "1MiB", "--seed", "-1"), "--seed must not be negative"),
        (("--size", "1MiB", "--token-file", "/nowhere/token"), "/nowhere/token"),
        (("--size", "1MiB", "--token-file", "/dev/null"), "/dev/null holds no token"),
        (("--size", "1MiB", "--host", "192.0.2.1"), "cannot start"),
    ],
)
def test_what_cannot_start_says_why(arguments: tuple[str, ...], sentence: str) -> None:
    """A wrong option ends the engine with 2 and one sentence, before the ready line."""
    child = start_engine(*arguments)
    out, err = child.communicate(timeout=20)

    assert child.returncode == 2
    assert out == ""
    assert sentence in err
    assert "Traceback" not in err


def test_is_apart() -> None:
    """The engine imports no other room, and no NumPy before it has set the number of threads."""
    code = "import sys, engine.__main__; print(sorted({name.split('.')[0] for name in sys.modules}))"
    names = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "engine" in names
    assert not any(f"'{other}'" in names for other in ("numpy", "agent", "collectors", "rules", "aiohttp"))


def test_ends_with_its_input() -> None:
    """With --until-stdin-closes the engine exits once the pipe closes, also by the death of the caller."""
    child = subprocess.Popen(
        [sys.executable, "-m", "engine", "--size", "1MiB", "--context", "64", "--until-stdin-closes"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    read_ready_line(child)
    assert child.poll() is None
    _, err = child.communicate(timeout=20)

    assert child.returncode == 0
    assert "Traceback" not in err
