"""The eye: its pipe, its death, and its replacement."""

from __future__ import annotations

import asyncio
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sampling import eye_pool
from agent.sampling.eye_protocol import decode_response, decode_result, encode_result
from agent.sampling.passes import CollectionResult
from agent.sampling.plugins import bind_collector, load_collectors
from collectors import Note, Sample, counter, gauge
from tests.agent.sampling.watched_eye import WatchedEye
from tests.waiting import wait_until

METRICS = (gauge("steadytok_a", "A."), counter("steadytok_b_total", "B."))
COLLECTOR = replace(
    bind_collector(load_collectors()["hwmon"], "x", interval=None, deadline=None, config=None), metrics=METRICS
)
LABEL_NAMES = st.text(min_size=1).filter(lambda name: not name.startswith("__"))
SAMPLES = st.lists(
    st.builds(
        Sample,
        st.sampled_from(METRICS),
        st.lists(st.tuples(LABEL_NAMES, st.text(min_size=1)), max_size=2).map(tuple),
        st.floats(),
    )
)


def is_same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


@given(SAMPLES, st.lists(st.builds(Note, st.text(), st.text())), st.none() | st.text(), st.none() | st.just(30.0))
def test_a_pass_crosses_the_pipe_unchanged(
    samples: list[Sample], notes: list[Note], error: str | None, again: float | None
) -> None:
    """All values of a result, NaN and infinities too, arrive as they were sent."""
    sent = CollectionResult("x", 5.0, 0.1, 0.02, tuple(samples), tuple(notes), error, again)
    line = msgspec.json.encode(encode_result(sent))
    received = decode_result(decode_response(line), COLLECTOR, 5.0)

    assert b"\n" not in line
    assert received._replace(samples=()) == sent._replace(samples=())
    assert [(s.metric, s.labels) for s in received.samples] == [(s.metric, s.labels) for s in sent.samples]
    assert all(is_same(one.value, other.value) for one, other in zip(received.samples, sent.samples, strict=True))


def make_sensor(root: Path, celsius: int) -> Path:
    chip = root / "sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("jc42\n")
    (chip / "temp1_input").write_text(f"{celsius}000\n")
    return chip


def run_scenario(root: Path, scenario: Callable[[WatchedEye], object]) -> None:
    async def run() -> None:
        eye = WatchedEye(root)
        eye.pool.get_runner("hwmon")
        try:
            await eye.pool.start()
            await wait_until(lambda: eye.pool.is_ready(eye.pool.shared_eye))
            await scenario(eye)  # type: ignore[misc]  # a coroutine function in every test
        finally:
            await eye.pool.close()

    asyncio.run(run())


def test_the_eye_reads_what_its_root_holds(tmp_path: Path) -> None:
    """A pass in the eye gives the Samples of its root, with the time of the request."""
    make_sensor(tmp_path, 61)

    async def scenario(eye: WatchedEye) -> None:
        result = await eye.collect(7.0)

        assert result.began == 7.0
        assert 61.0 in [sample.value for sample in result.samples]

    run_scenario(tmp_path, scenario)


def test_a_killed_eye_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass under way fails with its reason, and a new process runs the next one."""
    monkeypatch.setattr("agent.runtime.child_process.MIN_PAUSE", 0.05)
    make_sensor(tmp_path, 61)

    async def scenario(eye: WatchedEye) -> None:
        await eye.collect(1.0)
        first_pid = eye.pool.shared_eye.pid
        assert first_pid is not None
        os.kill(first_pid, signal.SIGSTOP)  # so that no response comes before the kill
        eye.pool.get_runner("hwmon").start(eye.hwmon, 2.0)
        os.kill(first_pid, signal.SIGKILL)
        lost = await asyncio.wait_for(eye.results.get(), 20)
        assert lost.error == "the eye ended while it was reading"

        await wait_until(lambda: eye.pool.shared_eye.pid not in (None, first_pid))
        assert (await eye.collect(3.0)).samples

    run_scenario(tmp_path, scenario)


def test_a_read_that_never_returns_hides_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that hangs gets its own eye, which is replaced each time; the shared eye lives on."""
    monkeypatch.setattr("agent.runtime.child_process.MIN_PAUSE", 0.05)
    monkeypatch.setattr(eye_pool, "STUCK_AFTER", 5.0)
    policy = tmp_path / "sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_driver").write_text("intel_pstate\n")
    os.mkfifo(policy / "scaling_cur_freq")
    make_sensor(tmp_path, 61)

    async def scenario(eye: WatchedEye) -> None:
        cpufreq = bind_collector(load_collectors()["cpufreq"], "cpufreq", interval=None, deadline=0.5, config=None)
        shared_pid = eye.pool.shared_eye.pid
        runner = eye.pool.get_runner("cpufreq")
        runner.start(cpufreq, 100.0)
        eye.pool.restart_stuck(104.0)
        assert runner.busy_since == 100.0

        eye.pool.restart_stuck(106.0)
        lost = await asyncio.wait_for(eye.results.get(), 20)
        assert lost.error == "the read did not return"
        assert (await eye.collect(107.0)).samples
        assert eye.pool.shared_eye.pid == shared_pid

        await wait_until(lambda: eye.pool.is_ready(runner.eye))
        first_pid = runner.eye.pid
        runner.start(cpufreq, 108.0)
        eye.pool.restart_stuck(114.0)
        lost = await asyncio.wait_for(eye.results.get(), 20)
        assert lost.error == "the eye ended while it was reading"

        (policy / "scaling_cur_freq").unlink()
        (policy / "scaling_cur_freq").write_text("2000000\n")
        await wait_until(lambda: runner.eye.pid not in (None, first_pid))
        runner.start(cpufreq, 115.0)
        assert 2e9 in [sample.value for sample in (await asyncio.wait_for(eye.results.get(), 20)).samples]
        assert eye.pool.shared_eye.pid == shared_pid

    run_scenario(tmp_path, scenario)


def test_what_is_no_answer_is_passed_over(tmp_path: Path) -> None:
    """A stray line on the eye's output is logged, and the next response is read."""
    make_sensor(tmp_path, 61)

    async def scenario(eye: WatchedEye) -> None:
        eye.pool._handle_response(eye.pool.shared_eye, b"Segmentation fault\n")

        assert (await eye.collect(1.0)).samples

    run_scenario(tmp_path, scenario)


def test_the_eye_ends_with_the_agent(tmp_path: Path) -> None:
    """Closing its input is enough to end it, so it cannot outlive the agent."""

    async def scenario(eye: WatchedEye) -> None:
        pid = eye.pool.shared_eye.pid
        assert pid is not None
        await eye.pool.close()

        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run_scenario(tmp_path, scenario)
