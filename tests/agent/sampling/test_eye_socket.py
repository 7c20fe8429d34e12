"""An eye that somebody else starts for each connection, as systemd does with Accept=yes."""

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

from agent.sampling import eye_pool as sight_module
from agent.sampling.eye_socket import eye_socket_path
from agent.sampling.passes import CollectionResult, Outcome
from agent.sampling.plugins import bind_collector, load_collectors
from tests.agent.watched import Watched, until


class Doorkeeper:
    """Starts `python -m agent.sampling.eye` on each connection, and keeps them."""

    def __init__(self, path: Path, root: Path) -> None:
        self.eyes: list[subprocess.Popen[bytes]] = []
        self.path = path
        self._root = root
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(path))
        self._door.listen()
        threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                connection, _ = self._door.accept()
                with connection:
                    command = [sys.executable, "-P", "-m", "agent.sampling.eye", str(self._root)]
                    self.eyes.append(subprocess.Popen(command, stdin=connection, stdout=connection))

    def close(self) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._door.close()
        for eye in self.eyes:
            eye.kill()
            eye.wait(20)


@pytest.fixture(name="doorkeeper")
def _doorkeeper(tmp_path: Path) -> Iterator[Doorkeeper]:
    chip = tmp_path / "root/sys/class/hwmon/hwmon0"
    chip.mkdir(parents=True)
    (chip / "name").write_text("jc42\n")
    (chip / "temp1_input").write_text("47000\n")
    doorkeeper = Doorkeeper(tmp_path / "eye.sock", tmp_path / "root")
    yield doorkeeper
    doorkeeper.close()


def test_what_the_eye_at_the_door_reads_arrives(doorkeeper: Doorkeeper, tmp_path: Path) -> None:
    """A pass is ordered and answered over the connection, and the eye ends when we hang up."""

    async def scenario() -> CollectionResult:
        watched = Watched(tmp_path / "root", str(doorkeeper.path))
        watched.sight.get_runner("hwmon")
        await watched.sight.start()
        result = await watched.ask(1.0)
        await watched.sight.close()
        return result

    result = asyncio.run(scenario())

    assert result.outcome is Outcome.OK
    assert 47.0 in [sample.value for sample in result.samples]
    assert [eye.wait(20) for eye in doorkeeper.eyes] == [0]


def test_an_eye_that_died_is_called_again(doorkeeper: Doorkeeper, tmp_path: Path) -> None:
    """While there is none a pass fails at once; the next eye answers."""

    async def scenario() -> tuple[CollectionResult, CollectionResult]:
        watched = Watched(tmp_path / "root", str(doorkeeper.path))
        watched.sight.get_runner("hwmon")
        await watched.sight.start()
        await watched.ask(1.0)
        doorkeeper.eyes[0].kill()
        shared = watched.sight.shared_eye
        await until(lambda: shared.generation is None)
        failed = await watched.ask(2.0)
        await until(lambda: shared.generation == 2)
        again = await watched.ask(3.0)
        await watched.sight.close()
        return failed, again

    failed, again = asyncio.run(scenario())

    assert failed.error == "the eye is not running"
    assert again.outcome is Outcome.OK


def test_a_read_that_does_not_return_gets_an_eye_of_its_own(
    doorkeeper: Doorkeeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared eye is left alone, and the second is hung up on when it is stuck as well: both end."""
    monkeypatch.setattr(sight_module, "STUCK_AFTER", 5.0)
    policy = tmp_path / "root/sys/devices/system/cpu/cpufreq/policy0"
    policy.mkdir(parents=True)
    (policy / "scaling_driver").write_text("intel_pstate\n")
    os.mkfifo(policy / "scaling_cur_freq")  # a read of it waits for ever

    async def scenario() -> list[str | None]:
        watched = Watched(tmp_path / "root", str(doorkeeper.path))
        cpufreq = bind_collector(load_collectors()["cpufreq"], "cpufreq", interval=None, deadline=0.5, config=None)
        lane = watched.sight.get_runner("cpufreq")
        await watched.sight.start()
        lane.start(cpufreq, 100.0)
        watched.sight.restart_stuck(106.0)
        moved = await asyncio.wait_for(watched.passes.get(), 20)
        await lane.eye.wait_until_alive(20)
        lane.start(cpufreq, 107.0)
        watched.sight.restart_stuck(113.0)
        ended = await asyncio.wait_for(watched.passes.get(), 20)
        await watched.sight.close()
        return [moved.error, ended.error]

    assert asyncio.run(scenario()) == ["the read did not return", "the eye ended while it was reading"]
    assert [eye.wait(20) for eye in doorkeeper.eyes] == [0, 0]


def test_root_and_pictures_have_eyes_of_their_own(doorkeeper: Doorkeeper, tmp_path: Path) -> None:
    """The door is for a user without rights, on this machine, who may open it."""
    assert eye_socket_path(str(tmp_path), str(doorkeeper.path)) is None
    assert eye_socket_path("/", str(tmp_path / "none")) is None
    assert eye_socket_path("/", str(doorkeeper.path)) == (None if os.geteuid() == 0 else str(doorkeeper.path))
