"""An eye that another program starts for each connection, as systemd does with Accept=yes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.sampling import eye_pool
from agent.sampling.eye_socket import find_eye_socket
from agent.sampling.passes import CollectionResult, Outcome
from agent.sampling.plugins import bind_collector, load_collectors
from tests.agent.sampling.watched_eye import WatchedEye
from tests.waiting import wait_until


class EyeServer:
    """Starts `python -m agent.sampling.eye` for each connection, and lists the processes."""

    def __init__(self, path: Path, root: Path) -> None:
        self.eyes: list[subprocess.Popen[bytes]] = []
        self.path = path
        self._root = root
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    command = [sys.executable, "-P", "-m", "agent.sampling.eye", str(self._root)]
                    self.eyes.append(subprocess.Popen(command, stdin=connection, stdout=connection))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for eye in self.eyes:
            eye.kill()
            eye.wait(20)


@pytest.fixture(name="eye_server")
def _eye_server(tmp_path: Path) -> Iterator[EyeServer]:
    chip = tmp_path / "root/sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("jc42\n")
    (chip / "temp1_input").write_text("47000\n")
    server = EyeServer(tmp_path / "eye.sock", tmp_path / "root")
    yield server
    server.close()


def test_what_the_eye_at_the_door_reads_arrives(eye_server: EyeServer, tmp_path: Path) -> None:
    """Request and result of a pass cross the connection, and the eye ends when the agent hangs up."""

    async def scenario() -> CollectionResult:
        watched = WatchedEye(tmp_path / "root", str(eye_server.path))
        watched.pool.get_runner("hwmon")
        await watched.pool.start()
        result = await watched.collect(1.0)
        await watched.pool.close()
        return result

    result = asyncio.run(scenario())

    assert result.outcome is Outcome.OK
    assert 47.0 in [sample.value for sample in result.samples]
    assert [eye.wait(20) for eye in eye_server.eyes] == [0]


def test_an_eye_that_died_is_called_again(eye_server: EyeServer, tmp_path: Path) -> None:
    """Without an eye a pass fails at once; the next eye answers."""

    async def scenario() -> tuple[CollectionResult, CollectionResult]:
        watched = WatchedEye(tmp_path / "root", str(eye_server.path))
        watched.pool.get_runner("hwmon")
        await watched.pool.start()
        await watched.collect(1.0)
        eye_server.eyes[0].kill()
        shared = watched.pool.shared_eye
        await wait_until(lambda: shared.generation is None)
        failed = await watched.collect(2.0)
        await wait_until(lambda: shared.generation == 2)
        again = await watched.collect(3.0)
        await watched.pool.close()
        return failed, again

    failed, again = asyncio.run(scenario())

    assert failed.error == "the eye is not running"
    assert again.outcome is Outcome.OK


def test_a_read_that_does_not_return_gets_an_eye_of_its_own(
    eye_server: EyeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared eye stays, and the connection to the second is closed when it is stuck too: both end."""
    monkeypatch.setattr(eye_pool, "STUCK_AFTER", 5.0)
    policy = tmp_path / "root/sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_driver").write_text("intel_pstate\n")
    os.mkfifo(policy / "scaling_cur_freq")  # a read of it waits for ever

    async def scenario() -> list[str | None]:
        watched = WatchedEye(tmp_path / "root", str(eye_server.path))
        cpufreq = bind_collector(load_collectors()["cpufreq"], "cpufreq", interval=None, deadline=0.5, config=None)
        runner = watched.pool.get_runner("cpufreq")
        await watched.pool.start()
        await wait_until(lambda: watched.pool.is_ready(runner.eye))
        runner.start(cpufreq, 100.0)
        watched.pool.restart_stuck(106.0)
        moved = await asyncio.wait_for(watched.results.get(), 20)
        await wait_until(lambda: watched.pool.is_ready(runner.eye))
        runner.start(cpufreq, 107.0)
        watched.pool.restart_stuck(113.0)
        ended = await asyncio.wait_for(watched.results.get(), 20)
        await watched.pool.close()
        return [moved.error, ended.error]

    assert asyncio.run(scenario()) == ["the read did not return", "the eye ended while it was reading"]
    assert [eye.wait(20) for eye in eye_server.eyes] == [0, 0]


def test_root_and_pictures_have_eyes_of_their_own(eye_server: EyeServer, tmp_path: Path) -> None:
    """The socket is for an unprivileged user of this machine who may open it."""
    assert find_eye_socket(str(tmp_path), str(eye_server.path)) is None
    assert find_eye_socket("/", str(tmp_path / "none")) is None
    assert find_eye_socket("/", str(eye_server.path)) == (None if os.geteuid() == 0 else str(eye_server.path))
