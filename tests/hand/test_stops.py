"""However the hand ends, under whatever load: nothing stays changed, frozen or running."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hand.conftest import CONFIG, HOUSE, UNIT, RunningHand, wait_until

POLICIES = 4
FREEZE_FILE = f"{UNIT}/cgroup.freeze"
MOST_REQUESTS = 60  # before a stop
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def policy_file(number: int, name: str) -> str:
    return f"sys/devices/system/cpu/cpufreq/policy{number}/{name}"


@pytest.fixture(name="busy_folder")
def _busy_folder(folder: Path) -> Path:
    """Several policies, and commands that stay, go into the background, leave their session or flood their pipe."""
    for number in range(1, POLICIES):
        policy = folder / "root" / policy_file(number, "x")
        policy.parent.mkdir()
        for name in ("scaling_governor", "scaling_available_governors"):
            (policy.parent / name).write_bytes((folder / "root" / policy_file(0, name)).read_bytes())
    scripts = {
        "wait": f"echo $$ >> {folder}/pids; exec sleep 1000",
        "background": f"sleep 1000 & echo $! >> {folder}/pids; echo started",
        "session": f"setsid sh -c 'echo $$ >> {folder}/pids; exec sleep 1000' & sleep 1000",
        "flood": f"echo $$ >> {folder}/pids; exec cat /dev/zero",
    }
    commands = ""
    for name, script in scripts.items():
        seconds = 60 if name == "wait" else 0.3
        commands += f"[commands.{name}]\nargv = {json.dumps(['/bin/sh', '-c', script])}\ntimeout = {seconds}\n"
        commands += f'user = "{pwd.getpwuid(os.geteuid()).pw_name}"\n'  # may write into the test's folder
    (folder / "pids").touch()
    (folder / "hand.toml").write_text(CONFIG + commands)
    return folder


@pytest.fixture(name="busy_hand")
def _busy_hand(busy_folder: Path) -> Iterator[RunningHand]:
    running = RunningHand(busy_folder)
    yield running
    if running.process.poll() is None:
        running.kill()
    running.log.close()


def list_living(folder: Path) -> list[int]:
    """Returns the processes of commands that live; a zombie has ended."""
    living = []
    for pid in map(int, (folder / "pids").read_text().split()):
        with contextlib.suppress(OSError):  # it has ended
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                living.append(pid)
    return living


def make_request(dice: random.Random) -> dict[str, Any]:
    number = dice.randrange(POLICIES)
    governor = {"policy": number, "governor": "performance", "lease": f"g{number}", "ttl": 60}
    freeze = {"unit": "llama.service", "duty": 0.5, "period": 0.05, "lease": "f", "ttl": 60}
    verb, arguments = dice.choices(
        [
            ("governor", governor),
            ("freeze", freeze),
            ("command", {"name": dice.choice(["background", "session", "flood", "wait"])}),
            ("compact", {"node": 0}),
            ("release", {"lease": f"g{number}"}),
            ("renew", {"leases": ["f", f"g{number}"], "ttl": 30}),
            ("hello", {}),
        ],
        [20, 10, 1, 1, 4, 2, 1],
    )[0]
    return {"verb": verb, "arguments": arguments}


class Load:
    """Callers that send random requests, and at random hang up without the answer, until the hand refuses them."""

    def __init__(self, hand: RunningHand, seed: int, callers: int = 6) -> None:
        self._hand = hand
        self._begun = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._call, args=(random.Random(seed + i),)) for i in range(callers)]
        for thread in self._threads:
            thread.start()

    def _call(self, dice: random.Random) -> None:
        with contextlib.suppress(OSError):  # the hand has closed its socket
            while True:
                with self._hand.connect() as connection, connection.makefile("rb") as lines:
                    if not self._ask(connection, lines.readline, dice):
                        return

    def _ask(self, connection: socket.socket, read_answer: Callable[[], bytes], dice: random.Random) -> bool:
        """Sends requests over one connection; returns False once the hand is closing."""
        while True:
            request = make_request(dice)
            connection.sendall(json.dumps(request).encode() + b"\n")
            self._begun.release(MOST_REQUESTS if request["arguments"].get("name") == "wait" else 1)  # the rest waits
            if dice.random() < 0.1:
                return True
            line = read_answer()
            if not line or json.loads(line).get("code") == "closing":
                return False

    def wait_for_requests(self, count: int) -> None:
        """Returns when that many requests were sent."""
        for _ in range(count):
            assert self._begun.acquire(timeout=20)

    def join(self) -> None:
        """Returns when every caller has been refused; fails where one waits for ever."""
        for thread in self._threads:
            thread.join(20)
            assert not thread.is_alive()


def check_restored(hand: RunningHand) -> None:
    """Everything is as it was before the hand started, and its state names nothing to restore."""
    governors = [hand.read(policy_file(number, "scaling_governor")) for number in range(POLICIES)]
    assert governors == ["powersave"] * POLICIES, hand.read_log()[-3000:]
    assert hand.read(FREEZE_FILE) == "0"
    assert json.loads((hand.folder / "state/leases.json").read_text())["leases"] == []
    assert list_living(hand.folder) == []
    assert "Traceback" not in hand.read_log()


def stop_under_load(hand: RunningHand, seed: int, number: signal.Signals) -> None:
    load = Load(hand, seed)
    load.wait_for_requests(random.Random(seed).randrange(1, MOST_REQUESTS))
    hand.process.send_signal(number)
    hand.process.send_signal(number)  # a second signal must not interrupt the restore
    assert hand.process.wait(30) == 0, hand.read_log()[-3000:]
    hand.log.close()
    load.join()
    check_restored(hand)


@pytest.mark.parametrize("number", STOPS)
def test_a_stop_under_load_leaves_nothing_changed(busy_hand: RunningHand, number: signal.Signals) -> None:
    """Each signal that asks for an end closes the intake first, then restores: 12 of 12 stops had left a value set."""
    stop_under_load(busy_hand, random.SystemRandom().randrange(1 << 32), number)


def complete_torn_writes(hand: RunningHand) -> None:
    """The kernel takes a write whole; on a disk, a kill may come after the file was emptied and before the text."""
    for number in range(POLICIES):
        hand.write(
            policy_file(number, "scaling_governor"), hand.read(policy_file(number, "scaling_governor")) or "performance"
        )
    hand.write(FREEZE_FILE, hand.read(FREEZE_FILE) or "1")


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_any_sequence_of_stops_and_kills_leaves_nothing_changed(busy_hand: RunningHand) -> None:
    """Hands follow each other, ended by random signals or killed at random points; the last stop restores all."""
    seed = random.SystemRandom().randrange(1 << 32)
    dice = random.Random(seed)
    for turn in range(25):
        if dice.random() < 0.4:
            load = Load(busy_hand, seed + turn)
            load.wait_for_requests(dice.randrange(1, MOST_REQUESTS))
            busy_hand.kill()
            load.join()
            complete_torn_writes(busy_hand)
            wait_until(lambda: list_living(busy_hand.folder) == [])  # the kernel tells each program of the hand's death
            busy_hand.start()
        stop_under_load(busy_hand, seed + turn, dice.choice(STOPS))
        busy_hand.start()


def test_a_stop_ends_a_command_under_way(busy_hand: RunningHand) -> None:
    """A command that may run for a minute is killed with all its processes, and its caller hears that it is unclear."""
    with busy_hand.connect() as connection, connection.makefile("rb") as lines:
        connection.sendall(b'{"verb": "command", "arguments": {"name": "wait"}}\n')
        wait_until(lambda: list_living(busy_hand.folder) != [])
        assert busy_hand.terminate() == 0
        answer = json.loads(lines.readline())

    assert (answer["code"], answer["error"]) == ("ambiguous", "the command was killed, because the hand ends")
    assert list_living(busy_hand.folder) == []


def test_a_killed_hand_takes_its_command_with_it(busy_hand: RunningHand) -> None:
    """The kernel ends the program that runs the command when the hand is killed, and with it the command."""
    with busy_hand.connect() as connection:
        connection.sendall(b'{"verb": "command", "arguments": {"name": "wait"}}\n')
        wait_until(lambda: list_living(busy_hand.folder) != [])
        busy_hand.kill()

    wait_until(lambda: list_living(busy_hand.folder) == [])


def test_a_connected_caller_is_told_that_the_hand_is_ending(busy_hand: RunningHand) -> None:
    """What was sent before the end and not begun is refused; then the hand hangs up."""
    with busy_hand.connect() as first, busy_hand.connect() as second, second.makefile("rb") as lines:
        first.sendall(b'{"verb": "command", "arguments": {"name": "wait"}}\n')
        wait_until(lambda: list_living(busy_hand.folder) != [])
        # The first waits for the command to end, the second for the first.
        second.sendall(b'{"verb": "compact", "arguments": {"node": 0}}\n{"verb": "hello"}\n')
        wait_until(lambda: not has_unread(second))
        assert busy_hand.terminate() == 0
        codes = [json.loads(line)["code"] for line in lines]

    assert codes == ["closing", "closing"]


def has_unread(connection: socket.socket) -> bool:
    """True while the hand has not read all that was sent: ioctl_tty(2), SIOCOUTQ."""
    import fcntl
    import struct
    import termios

    return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0] > 0


@pytest.mark.parametrize("name", ["background", "session", "flood"])
def test_what_a_command_starts_ends_with_it(busy_hand: RunningHand, name: str) -> None:
    """A process in the background, in a session of its own, or behind a flooded pipe does not outlive the command."""
    answer = busy_hand.request("command", name=name)

    assert answer.get("code", "ok") == ("ok" if name == "background" else "ambiguous")
    assert (busy_hand.folder / "pids").read_text()
    assert list_living(busy_hand.folder) == []
    assert busy_hand.request_result("hello")["version"]


@pytest.fixture(name="piped")
def _make_piped_hand(busy_hand: RunningHand) -> Iterator[tuple[subprocess.Popen[bytes], RunningHand]]:
    """A hand that ends when its standard input closes, as the agent starts it with `hand: direct`."""
    hand = busy_hand
    hand.terminate()
    arguments = ["--direct", "--until-stdin-closes", "--socket", str(hand.socket_path)]
    arguments += ["--state", str(hand.folder / "state"), "--root", str(hand.root)]
    command = [sys.executable, "-m", "hand", *arguments, "--config", str(hand.folder / "hand.toml")]
    with subprocess.Popen(command, cwd=HOUSE, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while b"ready" not in process.stderr.readline():
            assert process.poll() is None
        yield process, hand
        process.kill()


def test_the_end_of_the_agent_is_a_stop(piped: tuple[subprocess.Popen[bytes], RunningHand]) -> None:
    """When the agent dies the kernel closes the hand's standard input, and the hand restores everything."""
    process, hand = piped
    hand.request_result("governor", policy=0, governor="performance", lease="g0", ttl=60)
    hand.request_result("freeze", unit="llama.service", duty=0.5, period=0.05, lease="f", ttl=60)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stderr.close()  # a dead agent reads no log either
    process.stdin.close()

    assert process.wait(30) == 0
    check_restored(hand)


def test_a_log_that_nobody_reads_stops_nothing(busy_hand: RunningHand) -> None:
    """An agent that hangs reads no line of the hand's log: leases expire and are restored all the same."""
    busy_hand.terminate()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    arguments = ["--direct", "--socket", str(busy_hand.socket_path), "--state", str(busy_hand.folder / "state")]
    arguments += ["--root", str(busy_hand.root), "--config", str(busy_hand.folder / "hand.toml")]
    with subprocess.Popen([sys.executable, "-m", "hand", *arguments], cwd=HOUSE, stderr=writer) as process:
        os.close(writer)
        wait_until(lambda: can_connect(busy_hand))
        for number in range(POLICIES):
            lease = {"policy": number, "governor": "performance", "lease": f"g{number}", "ttl": 0.5}
            assert busy_hand.request_result("governor", **lease)["now"] == "performance"
        files = [policy_file(number, "scaling_governor") for number in range(POLICIES)]
        wait_until(lambda: all(busy_hand.read(file) == "powersave" for file in files))
        process.terminate()
        assert process.wait(30) == 0
    os.close(reader)


def can_connect(hand: RunningHand) -> bool:
    with contextlib.suppress(OSError):  # it does not listen yet
        hand.connect().close()
        return True
    return False


def test_what_the_kernel_refuses_to_restore_is_left_to_the_next_hand(busy_hand: RunningHand) -> None:
    """A stop that leaves a value changed says which, keeps its lease, and exits with 1; the next hand restores it."""
    hand = busy_hand
    hand.request_result("governor", policy=0, governor="performance", lease="g0", ttl=0.5)
    file = hand.root / policy_file(0, "scaling_governor")
    file.rename(file.with_suffix(".offline"))
    assert hand.terminate() == 1
    assert f"left changed, for the next hand to restore: {policy_file(0, 'scaling_governor')}" in hand.read_log()

    file.with_suffix(".offline").rename(file)
    hand.start()
    wait_until(lambda: hand.read(policy_file(0, "scaling_governor")) == "powersave")
    assert hand.terminate() == 0


def test_a_signal_that_comes_before_the_hand_is_ready_counts(busy_hand: RunningHand) -> None:
    """A hand that resumes a freeze while it starts must not die of a signal that comes meanwhile."""
    busy_hand.request_result("freeze", unit="llama.service", duty=0.5, period=0.05, lease="f", ttl=60)
    busy_hand.kill()
    boot_id = busy_hand.root / "proc/sys/kernel/random/boot_id"
    text = boot_id.read_text()
    boot_id.unlink()
    os.mkfifo(boot_id)  # the hand reads it while it starts, and waits for the text
    starting = threading.Thread(target=busy_hand.start)
    starting.start()
    with boot_id.open("w") as gate:  # returns once the hand reads
        busy_hand.process.terminate()
        gate.write(text)
    starting.join(20)

    assert busy_hand.process.wait(20) == 0
    check_restored(busy_hand)
