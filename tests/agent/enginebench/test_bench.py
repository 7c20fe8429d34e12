"""`steadytok engine bench` as people and scripts call it, on the reference engine and on other engines."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.engines import baseline_handover
from agent.engines.baseline import DAY_OBSERVATIONS, Baseline, BaselineKey
from agent.engines.baseline_handover import MeasuredBaseline
from agent.storage.state_dir import StateDir
from tests.agent.enginebench.peers import Peer, Reply, data

Start = Callable[..., Peer]
SMALL = ("--", "--size", "1MiB", "--context", "256", "--nice", "0")
SIX = [
    *(data({"choices": [{"text": "a"}]}) for _ in range(6)),
    data({"choices": [], "usage": {"completion_tokens": 6}}),
]


def bench(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    command = [sys.executable, "-m", "agent", "engine", "bench", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=50, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr
    return done


def answers(_path: str, _body: dict[str, Any]) -> Reply:
    """Replies with six tokens, 2 ms apart."""
    return Reply(SIX, pause=0.002)


def test_the_reference_engine_is_started_and_measured(tmp_path: Path) -> None:
    """The bench counts tokens, draws the curve, ends its child, and prints only JSON on standard output."""
    done = bench("-n", "6", "--tokens", "100", "--json", "--plot", tmp_path / "run.svg", *SMALL)
    fields = json.loads(done.stdout)

    assert done.returncode == 0, done.stderr
    assert [request["tokens"] for request in fields["requests"]] == [100] * 6
    assert all(request["tokens_told"] for request in fields["requests"])
    assert fields["model"].startswith("seeded-1MiB")
    assert fields["baseline_tokens_per_second"] > 0
    assert 0 < fields["between_tokens_seconds"]["p50"] <= fields["between_tokens_seconds"]["max"]
    assert (tmp_path / "run.svg").read_text().startswith("<svg")


def test_several_at_once(tmp_path: Path) -> None:
    """Every request has an answer, with several connections too."""
    fields = json.loads(bench("-n", "9", "-c", "3", "--tokens", "10", "--json", *SMALL).stdout)

    assert [request["tokens"] for request in fields["requests"]] == [10] * 9
    assert fields["failures"] == []


def test_another_engine_gets_a_table(peer: Start) -> None:
    """The table has a line for each request, percentiles and a verdict."""
    server = peer(answers)
    done = bench("--url", server.url, "-n", "7", "--tokens", "6")

    assert done.returncode == 0, done.stderr
    assert sum(line.split()[1:2] == ["6"] for line in done.stdout.splitlines()) == 7
    assert "time to first token" in done.stdout
    assert len(server.requests) == 8  # one to warm up


def test_an_engine_that_fails_now_and_then(peer: Start) -> None:
    """Failures are reported with their sentence, the other requests are measured, and the exit status is not 0."""
    count = iter(range(1000))
    busy = Reply([b'{"error": {"message": "busy"}}'], 503, "application/json")
    server = peer(lambda path, body: busy if next(count) % 3 == 2 else answers(path, body))
    done = bench("--url", server.url, "-n", "6", "--save", "--name", "r1")

    assert done.returncode == 1
    assert "2 failed: " in done.stdout
    assert "answered 503: busy" in done.stdout
    assert "the run is incomplete, so the baseline stays as it was" in done.stderr


def test_an_engine_that_dies_is_given_up(peer: Start) -> None:
    """After three failures in a row no more requests are sent."""
    count = iter(range(1000))
    server = peer(lambda path, body: answers(path, body) if next(count) < 3 else Reply([b""], 500, "text/plain"))
    done = bench("--url", server.url, "-n", "50")

    assert done.returncode == 1
    assert "Given up after 3 failures in a row." in done.stdout
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("--url", "http://127.0.0.1:1"), 1, "http://127.0.0.1:1 cannot be reached"),
        (("--url", "127.0.0.1:8000"), 2, "--url must begin with http:// or https://"),
        (("--url", "http://127.0.0.1:1", "--", "--size", "1MiB"), 2, "--url names a running one"),
        (("--url", "http://127.0.0.1:1", "--save"), 2, "--save needs the engine's name in the configuration"),
        (("--save", "-c", "2"), 2, "leave --concurrency out"),
        (("--save", "--", "--size", "1MiB"), 2, "leave them out"),
        (("--timeout", "soon"), 2, "--timeout: expected a duration"),
        (("--key-file", "/nowhere"), 2, "--key-file: "),
        (("--config", "/nowhere"), 2, "/nowhere"),
        (("-n", "0"), 2, "0 is not in the range"),
        (("--", "--size", "huge"), 1, "the reference engine ended at once: cannot start: expected auto or a size"),
    ],
)
def test_what_cannot_be_done_says_why(arguments: tuple[str, ...], status: int, sentence: str) -> None:
    """A wrong option gives one sentence and no run."""
    done = bench(*arguments)

    assert done.returncode == status
    assert sentence in done.stderr
    assert done.stdout == ""


def test_ctrl_c_tells_what_there_is(peer: Start) -> None:
    """A run that is stopped shows the requests that have ended."""
    server = peer(lambda *_: Reply(SIX, pause=0.03))
    command = [sys.executable, "-m", "agent", "engine", "bench", "--url", server.url, "-n", "1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while len(server.requests) < 6:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert "of 1000 requests." in out
    assert "Traceback" not in err


def test_the_engine_keeps_its_own_options() -> None:
    """`steadytok engine` without `bench` is the engine itself, with its own help and errors."""
    command = [sys.executable, "-m", "agent", "engine"]
    help_text = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False, timeout=50)
    refused = subprocess.run([*command, "--size", "huge"], capture_output=True, text=True, check=False, timeout=50)

    assert "--numa" in help_text.stdout
    assert (refused.returncode, "expected auto or a size" in refused.stderr) == (2, True)


def test_a_baseline_waits_for_the_agent(tmp_path: Path, peer: Start) -> None:
    """Without a running agent the baseline lies in the state folder until the next agent adopts it."""
    config = tmp_path / "steadytok.yml"
    server = peer(answers)
    config.write_text(f'engines: [{{name: r1, url: "{server.url}"}}]\nstate: {{dir: "{tmp_path / "state"}"}}\n')
    done = bench("--url", server.url, "-n", "5", "--save", "--config", config)
    state = StateDir(tmp_path / "state")
    baseline = Baseline()
    asyncio.run(baseline_handover.adopt(state, baseline))
    stored = Baseline(state.read(baseline_handover.BASELINE_FILE))
    state.close()

    assert done.returncode == 0, done.stderr
    assert "baseline of r1: " in done.stderr
    assert "no agent runs with" in done.stderr
    assert (baseline.expected_speed("r1") or 0) > 0
    assert stored.expected_speed("r1") == baseline.expected_speed("r1")
    assert list((tmp_path / "state").glob(f"{baseline_handover.PREFIX}*")) == []


def test_a_running_agent_takes_it(tmp_path: Path, peer: Start) -> None:
    """While another process holds the folder's lock the command waits until the agent adopted it, and reports so."""
    state, baseline, over = StateDir(tmp_path), Baseline(), threading.Event()

    def agent() -> None:
        while not over.wait(0.05):
            asyncio.run(baseline_handover.adopt(state, baseline))

    taking = threading.Thread(target=agent)
    taking.start()
    done = bench("--url", peer(answers).url, "-n", "5", "--save", "--name", "r1", "--state", tmp_path)
    over.set()
    taking.join(10)
    state.close()

    assert done.returncode == 0, done.stderr
    assert "the running agent has adopted it" in done.stderr
    assert baseline.expected_speed("r1") is not None


def test_the_lock_tells_whether_an_agent_runs(tmp_path: Path) -> None:
    """Reads the state before, during and after an agent's run without disturbing it."""
    folder = tmp_path / "state"
    assert not baseline_handover.is_agent_running(folder)
    state = StateDir(folder)
    assert baseline_handover.is_agent_running(folder)
    state.close()
    assert not baseline_handover.is_agent_running(folder)
    with (folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_nonsense_that_was_given_is_dropped(tmp_path: Path) -> None:
    """An invalid baseline file is removed and changes nothing; the next valid one is adopted."""
    state, baseline = StateDir(tmp_path), Baseline()
    for name, text in (("1", "nonsense"), ("2", '{"engine": "r1"}')):
        (tmp_path / f"{baseline_handover.PREFIX}{name}.json").write_text(text)
    baseline_handover.hand_over(tmp_path, MeasuredBaseline("r1", "", "1", -5.0))
    baseline_handover.hand_over(tmp_path, MeasuredBaseline("r2", "", "1", 50.0))
    asyncio.run(baseline_handover.adopt(state, baseline))
    state.close()

    assert list(tmp_path.glob(f"{baseline_handover.PREFIX}*")) == []
    assert (baseline.expected_speed("r1"), baseline.expected_speed("r2")) == (None, pytest.approx(50.0, rel=0.01))


def test_what_was_given_holds_for_a_day() -> None:
    """A measured baseline holds at once, stays during a day of slower speeds, and follows a faster engine."""
    baseline = Baseline()
    baseline.observe(BaselineKey("r1"), 10.0)
    baseline.set_measured(BaselineKey("r1"), 100.0)
    assert baseline.expected_speed("r1") == pytest.approx(100.0, rel=0.01)

    for _ in range(DAY_OBSERVATIONS - DAY_OBSERVATIONS // 9 - 1):
        baseline.observe(BaselineKey("r1"), 60.0)
    assert baseline.expected_speed("r1") == pytest.approx(100.0, rel=0.01)

    for _ in range(2 * DAY_OBSERVATIONS):
        baseline.observe(BaselineKey("r1"), 60.0)
    assert baseline.expected_speed("r1") == pytest.approx(60.0, rel=0.01)
