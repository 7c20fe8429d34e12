"""An eye takes no order but a pass of a collector; the agent takes nothing but samples of the one it asked for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling import eye_pool, eye_protocol
from agent.sampling.eye_protocol import ProtocolError, decode_request, decode_response, decode_result
from agent.sampling.passes import SERIES_CAP, CollectionResult
from agent.sampling.plugins import bind_collector, load_collectors
from tests.agent.sampling.watched_eye import WatchedEye
from tests.waiting import wait_until

HWMON = bind_collector(load_collectors()["hwmon"], "hwmon", interval=None, deadline=None, config=None)
METRIC = HWMON.metrics[0]
GOOD: dict[str, Any] = {
    "collector": "hwmon",
    "seconds": 0.1,
    "cpu_seconds": 0.1,
    "metrics": [[METRIC.name, METRIC.kind, METRIC.help]],
    "samples": [[0, [["chip", "jc42"]], 47.0]],
    "notes": [],
}


@pytest.fixture(name="ask_eye")
def _ask_eye(tmp_path: Path) -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """The real process; each call sends one line and returns the response."""
    (tmp_path / "sys/class/hwmon").mkdir(parents=True)
    command = [sys.executable, "-P", "-m", "agent.sampling.eye", str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as eye:
        assert eye.stdin is not None
        assert eye.stdout is not None
        requests, responses = eye.stdin, eye.stdout
        assert decode_response(responses.readline()) == eye_protocol.READY

        def ask(line: bytes) -> dict[str, Any]:
            requests.write(line)
            requests.flush()
            response: dict[str, Any] = json.loads(responses.readline())
            return response

        yield ask
        requests.close()
        assert eye.wait(20) == 0


ORDERS = [
    (b"\n", "expected "),
    (b"null\n", "expected "),
    (b"[]\n", "expected "),
    (b"\xff\xfe\n", "expected "),
    (b'{"collect": 1}\n', "expected "),
    (b'{"collect": ""}\n', "expected "),
    (b'{"collect": "hwmon", "run": "/bin/sh"}\n', "expected "),
    (b'{"verb": "governor", "arguments": {}}\n', "expected "),
    (b'{"collect": "hwmon", "own": ' + b"[" * 100_000 + b"}\n", "expected "),
    (b'{"collect": "' + b"x" * 3_000_000 + b'"}\n', "a request has more than 1048576 bytes"),
    (b'{"collect": "reboot"}\n', "there is no collector 'reboot'"),
    (b'{"collect": "../../etc/shadow"}\n', "there is no collector '../../etc/shadow'"),
    (b'{"collect": "_host"}\n', "there is no collector '_host'"),
    (b'{"collect": "meminfo"}\n', "the collector meminfo is read by the agent itself, and by no eye"),
    (b'{"collect": "engine"}\n', "the collector engine is read by the agent itself, and by no eye"),
    (b'{"collect": "dimm"}\n', "the collector dimm is read by the agent itself, and by no eye"),
    (b'{"collect": "kmsg", "own": {"path": "/etc/shadow"}}\n', "the collector kmsg has no settings"),
    (b'{"collect": "hwmon", "own": {"root": "/"}}\n', "unknown field `root`"),
    (b'{"collect": "hwmon", "own": {"chips": 7}}\n', "Expected `array`"),
]


def test_an_eye_refuses_what_is_no_order_and_stays(ask_eye: Callable[[bytes], dict[str, Any]]) -> None:
    """Unknown verbs, collectors, settings, types and sizes each get a sentence, and the next request is carried out."""
    for line, sentence in ORDERS:
        response = ask_eye(line)
        assert sentence in response["error"], line[:80]
        assert response["samples"] == []

    assert ask_eye(b'{"collect": "hwmon"}\n')["error"] is None


def test_no_collector_of_the_agent_itself_is_read_by_an_eye(ask_eye: Callable[[bytes], dict[str, Any]]) -> None:
    """For each collector: an eye, which may read more, reads only those that are declared to need that or may block."""
    for name, module in load_collectors().items():
        is_for_eye = getattr(module, "ISOLATED", False) or getattr(module, "PRIVILEGED", False)
        if not is_for_eye:
            assert "by no eye" in ask_eye(json.dumps({"collect": name}).encode() + b"\n")["error"]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_sentence(line: bytes) -> None:
    """No other exception leaves the decoder: it would end the eye of all collectors."""
    try:
        decode_request(line)
    except ProtocolError as error:
        assert str(error)


def change(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


RESPONSES = [
    (
        change(metrics=[["steadytok_meminfo_bytes", "gauge", ""]]),
        "which is no metric of hwmon",
    ),
    (change(metrics=[["steadytok_collector_success", "gauge", ""]]), "which is no metric of hwmon"),
    (change(metrics=[["node_load1", "gauge", ""]]), "which is no metric of hwmon"),
    (change(metrics=[["ALERTS", "gauge", ""]]), "which is no metric of hwmon"),
    (change(metrics=[["", "gauge", ""]]), "length >= 1"),
    (change(samples=[[0, [["__name__", "up"]], 1.0]]), "the label '__name__', which is reserved"),
    (change(samples=[[1, [], 1.0]]), "a sample without a metric"),
    (change(samples=[[-1, [], 1.0]]), "a sample without a metric"),
    (change(samples=[[0, [["chip", "x" * 9000]], 1.0]]), "length <= 8192"),
    (change(samples=[[0, [[str(n), "x"] for n in range(65)], 1.0]]), "length <= 64"),
    (change(samples=[[0, [], "1e3"]]), "Invalid enum value"),
    (change(samples=[[0, [], True]]), "Expected `float | str`"),
    (change(samples=[[0, [], 1.0]] * (SERIES_CAP + 1)), f"length <= {SERIES_CAP}"),
    (change(notes=[["p", "r"]] * 20_001), "length <= 20000"),
    (change(seconds=-1.0), ">= 0"),
    (change(again=-1.0), ">= 0"),
    (change(error="x" * 9000), "length <= 8192"),
    (change(more="," * 1_000_001), "has more than 16777216 bytes or 1000000 commas"),
    (change(more="x" * (16 << 20)), "has more than 16777216 bytes or 1000000 commas"),
]


@pytest.mark.parametrize(("response", "sentence"), RESPONSES, ids=[sentence[:40] for _, sentence in RESPONSES])
def test_a_pass_with_what_is_not_its_own_fails(response: dict[str, Any], sentence: str) -> None:
    """Series of others, reserved labels and what has no bound cost that pass, in a sentence; the eye stays."""
    results: list[CollectionResult] = []
    pool = eye_pool.EyePool("/", results.append)
    runner = pool.get_runner("hwmon")
    runner.collector, runner.busy_since = HWMON, 5.0
    pool._handle_response(pool.shared_eye, json.dumps(response).encode())

    (result,) = results
    assert result.error is not None
    assert result.error.startswith("the eye's response is refused: ")
    assert sentence in result.error
    assert (result.began, result.samples, runner.busy_since) == (5.0, (), None)


def test_type_and_help_are_those_that_the_agent_knows() -> None:
    """An eye cannot make a counter of a gauge."""
    line = json.dumps(change(metrics=[[METRIC.name, "counter", "other"]])).encode()
    (sample,) = decode_result(decode_response(line), HWMON, 1.0).samples

    assert sample.metric is METRIC


def test_every_collector_in_an_eye_declares_its_metrics() -> None:
    """The check by name rests on that: ours have no metric whose name is known only when they read."""
    for name, module in load_collectors().items():
        assert module.METRICS or not (getattr(module, "ISOLATED", False) or getattr(module, "PRIVILEGED", False)), name


@given(st.binary(max_size=300))
def test_any_bytes_are_a_response_or_a_sentence(line: bytes) -> None:
    """No other exception leaves the decoder, nested as deep as the line allows."""
    for text in (line, b'{"x": ' + b"[" * 50_000 + line):
        try:
            decode_response(text)
        except ProtocolError as error:
            assert str(error)


@pytest.mark.parametrize("line", [json.dumps(GOOD).encode(), b"Segmentation fault\n"])
def test_an_eye_that_floods_the_agent_is_replaced(line: bytes) -> None:
    """Each line costs the agent's loop time: after a bound the exception ends that eye, and nothing is delivered."""
    results: list[CollectionResult] = []
    pool = eye_pool.EyePool("/", results.append)
    pool.get_runner("hwmon")
    for _ in range(eye_pool.MAX_FAULTS - 1):
        pool._handle_response(pool.shared_eye, line)
    with pytest.raises(ProtocolError, match="100 lines that nobody requested or can use"):
        pool._handle_response(pool.shared_eye, line)

    assert results == []


def test_a_flooding_process_is_killed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process in the place of the eye that writes without end: the agent reads the bound, and kills it."""
    monkeypatch.setattr("agent.runtime.child_process.MIN_PAUSE", 0.05)
    package = tmp_path / "flooding_eye.py"
    package.write_text("while True: print('{}' * 100, flush=True)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def scenario() -> None:
        pool = eye_pool.EyePool("/", lambda _: None)
        pool._arguments = ("flooding_eye",)
        pool.shared_eye = pool._make_eye("eye")
        pool.get_runner("hwmon")
        await pool.start()
        first_pid = pool.shared_eye.pid
        assert first_pid is not None
        await wait_until(lambda: pool.shared_eye.pid not in (None, first_pid))
        with pytest.raises(ProcessLookupError):
            os.kill(first_pid, 0)
        await pool.close()

    asyncio.run(scenario())


def test_a_slow_start_is_no_stuck_read(tmp_path: Path) -> None:
    """While its eye starts a pass waits for minutes; it counts as stuck from the moment at which the eye is ready."""

    async def scenario() -> None:
        eye = WatchedEye(tmp_path)
        runner = eye.pool.get_runner("hwmon")
        runner.start(eye.hwmon, 100.0)  # no process yet: nobody responds
        runner.busy_since, runner.deadline = 100.0, 0.5
        eye.results.get_nowait()
        eye.pool.restart_stuck(100.0 + eye_pool.START_TIMEOUT)
        assert runner.eye is eye.pool.shared_eye
        assert runner.busy_since == 100.0

        eye.pool._handle_response(eye.pool.shared_eye, json.dumps(ready()).encode())
        eye.pool.restart_stuck(250.0)
        eye.pool.restart_stuck(259.0)
        assert runner.eye is eye.pool.shared_eye
        eye.pool.restart_stuck(261.0)
        assert runner.eye is not eye.pool.shared_eye
        assert eye.results.get_nowait().error == "the read did not return"
        await eye.pool.close()

    asyncio.run(scenario())


def ready() -> dict[str, Any]:
    return {**GOOD, "collector": "", "seconds": 0.0, "cpu_seconds": 0.0, "metrics": [], "samples": []}


def test_an_eye_that_does_not_start_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed after its own, longer limit; its collectors stay with it, as another eye would start no sooner."""
    monkeypatch.setattr("agent.runtime.child_process.MIN_PAUSE", 0.05)
    (tmp_path / "sleeping_eye.py").write_text("import time; time.sleep(1000)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def scenario() -> None:
        eye = WatchedEye(tmp_path)
        eye.pool._arguments = ("sleeping_eye",)
        eye.pool.shared_eye = eye.pool._make_eye("eye")
        runner = eye.pool.get_runner("hwmon")
        await eye.pool.start()
        first_pid = eye.pool.shared_eye.pid
        runner.start(eye.hwmon, 100.0)
        eye.pool.restart_stuck(101.0 + eye_pool.START_TIMEOUT)
        result = await asyncio.wait_for(eye.results.get(), 20)
        await wait_until(lambda: eye.pool.shared_eye.pid not in (None, first_pid))

        assert result.error == "the eye ended while it was reading"
        assert runner.eye is eye.pool.shared_eye
        await eye.pool.close()

    asyncio.run(scenario())
