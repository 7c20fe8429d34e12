"""Attacks the socket: another user, paths as arguments, and a minute of random requests."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hand.conftest import POLICY, RunningHand

NOBODY = 65534
SECONDS = 60.0
CALLERS = 4
REQUESTS = [
    {"verb": "hello", "arguments": {}},
    {
        "verb": "governor",
        "arguments": {"policy": 0, "governor": "performance", "lease": "g", "ttl": 1, "expected": None},
    },
    {"verb": "epp", "arguments": {"policy": 0, "preference": "power", "lease": "e", "ttl": 0.2}},
    {"verb": "freeze", "arguments": {"unit": "llama.service", "duty": 0.9, "period": 0.1, "lease": "f", "ttl": 0.5}},
    {"verb": "reclaim", "arguments": {"node": 0, "bytes": 1 << 20}},
    {"verb": "migrate", "arguments": {"pid": 1 << 21, "start_time": 0, "from": 0, "to": 0, "bytes": 4096}},
    {"verb": "command", "arguments": {"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "A1"}}},
    {"verb": "renew", "arguments": {"leases": ["g", "e", "f"], "ttl": 1}},
    {"verb": "release", "arguments": {"lease": "g"}},
]
TEXTS = ["../../etc/passwd", "/proc/self/mem", "\0", "a" * 5000, "🔥", "-1", "1e999", "$(id)", "\n"]
HOSTILE_VALUES = [*TEXTS, {}, [], None, True, -1, 2**70]


@pytest.fixture(name="open_socket")
def _open_socket(folder: Path) -> Iterator[RunningHand]:
    """A hand whose socket is open to every user, as a careless administrator leaves it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as socket_folder:
        os.chmod(socket_folder, 0o755)
        hand = RunningHand(folder, "--socket", f"{socket_folder}/sock")
        hand.socket_path = Path(socket_folder, "sock")
        hand.socket_path.chmod(0o666)
        yield hand
        hand.terminate()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_another_user_is_refused_whatever_the_socket_allows(open_socket: RunningHand) -> None:
    """The kernel identifies the caller; the hand does not read that user's bytes."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):  # the child must never continue as a second test run
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(open_socket.socket_path))
                os.write(writer, client.recv(4096))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        answer = json.loads(answers.read())
    os.waitpid(child, 0)

    assert answer == {"ok": False, "code": "refused", "error": f"user {NOBODY} may not use this hand"}
    assert f"refused a connection: user {NOBODY} may not use this hand" in open_socket.read_log()
    assert open_socket.request_result("hello")["version"]


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("governor", {"policy": "0/../../../../proc/sys/vm", "governor": "performance", "lease": "g", "ttl": 1}),
        ("governor", {"policy": 0, "governor": "../performance", "lease": "g", "ttl": 1}),
        ("governor", {"policy": 0, "governor": "performance", "lease": "../leases", "ttl": 1}),
        ("freeze", {"unit": "../llama.service", "duty": 0.5, "period": 0.1, "lease": "f", "ttl": 1}),
        ("freeze", {"unit": "/system.slice/llama.service", "duty": 0.5, "period": 0.1, "lease": "f", "ttl": 1}),
        ("reclaim", {"unit": "llama.service/../other.service", "bytes": 1 << 20}),
        ("reclaim", {"node": "0/../node0", "bytes": 1 << 20}),
        ("compact", {"node": "0\0"}),
        ("command", {"name": "../say"}),
        ("command", {"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "$(touch /tmp/x)"}}),
        ("release", {"lease": "../../g"}),
    ],
)
def test_no_argument_is_a_path(hand: RunningHand, verb: str, arguments: dict[str, object]) -> None:
    """Units, nodes, policies, leases and commands are names and numbers; a path among them is invalid."""
    answer = hand.request(verb, **arguments)

    assert (answer["ok"], answer["code"]) == (False, "invalid")


def test_a_link_in_the_place_of_a_file_is_not_followed(hand: RunningHand) -> None:
    """Otherwise root would write to the target of a planted link."""
    file, victim = hand.root / POLICY / "scaling_governor", hand.folder / "victim"
    victim.write_text("powersave")
    file.unlink()
    file.symlink_to(victim)
    answer = hand.request("governor", policy=0, governor="performance", lease="g", ttl=1)

    assert (answer["code"], victim.read_text()) == ("failed", "powersave")


@pytest.mark.parametrize("size", [4095, 4096, 4097, 1 << 20])
def test_a_request_has_a_longest_length(hand: RunningHand, size: int) -> None:
    """A request has up to 4,096 bytes; a longer one is refused and its connection closed."""
    request = b'{"verb": "hello", "arguments": {}' + b" " * (size - 34) + b"}\n"
    answer = hand.send(request)

    assert answer["ok"] == (size <= 4096)
    assert answer["ok"] or "more than 4096 bytes" in answer["error"]


def mutate_request(dice: random.Random) -> bytes:
    """Returns a valid request with some random changes."""
    request = json.loads(json.dumps(dice.choice(REQUESTS)))
    arguments = request["arguments"]
    for _ in range(dice.randrange(3)):
        match dice.randrange(4):
            case 0 if arguments:
                arguments[dice.choice(sorted(arguments))] = dice.choice(HOSTILE_VALUES)
            case 1:
                arguments[dice.choice(["more", "node", "lease", "unit", ""])] = dice.choice(HOSTILE_VALUES)
            case 2 if arguments:
                del arguments[dice.choice(sorted(arguments))]
            case _:
                request["verb"] = dice.choice([*HOSTILE_VALUES, "shell", "reclaim", "compact", "__init__"])
    raw = bytearray(json.dumps(request).encode() + b"\n")
    for _ in range(dice.choice([0, 0, 0, 1, 8])):
        raw[dice.randrange(len(raw))] = dice.randrange(256)
    return bytes(raw)


def make_garbage(dice: random.Random) -> bytes:
    """Returns random bytes, often with newlines among them."""
    raw = dice.randbytes(dice.choice([1, 10, 4095, 4096, 4097, 20_000]))
    return raw.replace(b"\x00", b"\n") if dice.random() < 0.5 else raw


def attack(hand: RunningHand, seed: int, deadline: float) -> None:
    """Connects again and again and may hang up at any moment."""
    dice = random.Random(seed)
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), hand.connect() as connection:  # the hand may hang up at any byte
            connection.settimeout(0.2)
            for _ in range(dice.randrange(1, 6)):
                raw = make_garbage(dice) if dice.random() < 0.3 else mutate_request(dice)
                for piece in [raw] if dice.random() < 0.8 else [raw[:7], raw[7:]]:
                    connection.sendall(piece)
                if dice.random() < 0.7:
                    connection.recv(1 << 16)


@pytest.mark.deep
@pytest.mark.timeout(300)
def test_a_minute_of_anything_does_not_end_the_hand(hand: RunningHand) -> None:
    """The hand still answers, logs no traceback, releases every lease and leaks no connection."""
    seed = random.SystemRandom().randrange(1 << 32)
    end_time = time.monotonic() + SECONDS
    callers = [threading.Thread(target=attack, args=(hand, seed + number, end_time)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()

    assert hand.process.poll() is None, f"seed {seed}: {hand.read_log()[-2000:]}"
    assert "Traceback" not in hand.read_log(), f"seed {seed}"
    deadline = time.monotonic() + 20
    while (answer := hand.request("hello"))["ok"] is False or answer["result"]["leases"]:
        assert time.monotonic() < deadline, f"seed {seed}: {answer}"
        time.sleep(0.2)
    assert hand.read("sys/devices/system/cpu/cpufreq/policy0/scaling_governor") == "powersave"
    assert hand.read("sys/fs/cgroup/system.slice/llama.service/cgroup.freeze") == "0"
    assert len(os.listdir(f"/proc/{hand.process.pid}/fd")) < 20
    assert len(os.listdir(f"/proc/{hand.process.pid}/task")) < 8
    assert hand.terminate() == 0
