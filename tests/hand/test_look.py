"""The look at other users' processes: two things are told of them, and nothing else can be had."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from collectors._process import placement_options
from hand import look

HOUSE = Path(__file__).parents[2]


def process(proc: Path, pid: int, environ: bytes, *links: str) -> None:
    """A process with an environment and open files."""
    (proc / f"{pid}/fd").mkdir(parents=True)
    (proc / f"{pid}/environ").write_bytes(environ)
    for number, target in enumerate(links):
        (proc / f"{pid}/fd/{number}").symlink_to(target)


def test_wishes_and_sockets_are_told_and_nothing_else(tmp_path: Path) -> None:
    """Of an environment only what asks for a placement; of open files only the sockets."""
    secret = b"API_KEY=swordfish\0USE_NUMA=1\0LLAMA_ARG_NUMA=distribute\0USE_NUMA_TOO=x\0\xff\0"
    process(tmp_path, 42, secret, "/dev/null", "socket:[4711]", "pipe:[1]", "/root/swordfish")

    assert look.answer_request(b"42\n", tmp_path) == {
        "variables": {"USE_NUMA": "1", "LLAMA_ARG_NUMA": "distribute"},
        "sockets": ["socket:[4711]"],
    }


@pytest.mark.parametrize(
    "line", [b"self\n", b"42/../1\n", b"0\n", b"-1\n", b"42", b"\n", b"4 2\n", b"\xb2\n", b"9" * 32]
)
def test_only_a_number_is_taken(tmp_path: Path, line: bytes) -> None:
    """No word and no path reaches the file system."""
    process(tmp_path, 42, b"")

    assert list(look.answer_request(line, tmp_path)) == ["error"]


def test_a_process_that_has_ended_has_neither(tmp_path: Path) -> None:
    """It ends between two looks, which is no fault."""
    assert look.answer_request(b"42\n", tmp_path) == {"variables": {}, "sockets": []}


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """The file and the kernel's reason."""
    (tmp_path / "42/environ").mkdir(parents=True)

    assert look.answer_request(b"42\n", tmp_path) == {"error": f"{tmp_path}/42/environ: Is a directory"}


def test_a_real_process_is_looked_at_until_its_asker_hangs_up() -> None:
    """Question and answer over one socket, as systemd gives it; the end of the questions is the end."""
    ours, theirs = socket.socketpair()
    with ours, socket.create_server(("127.0.0.1", 0)) as door:
        command = [sys.executable, "-m", "hand.look"]
        with theirs:
            environment = {**os.environ, "USE_NUMA": "1"}
            looking = subprocess.Popen(command, stdin=theirs, stdout=theirs, cwd=HOUSE, env=environment)
        ours.settimeout(30)
        with ours.makefile("rb") as answers:
            ours.sendall(b"%d\nnonsense\n%d\n" % (os.getpid(), looking.pid))
            us, nonsense, itself = (json.loads(answers.readline()) for _ in range(3))
            ours.shutdown(socket.SHUT_WR)
            assert looking.wait(30) == 0

        assert os.readlink(f"/proc/self/fd/{door.fileno()}") in us["sockets"]
        assert list(nonsense) == ["error"]
        assert itself["variables"] == {"USE_NUMA": "1"}


def test_who_hangs_up_before_the_answer_leaves_no_complaint() -> None:
    """An eye waits for a while only; what then ends is no failed unit, and writes nothing into the journal."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"1\n")
        ours.close()
        command = [sys.executable, "-m", "hand.look"]
        done = subprocess.run(
            command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd=HOUSE, check=False, timeout=30
        )

    assert (done.returncode, done.stderr) == (0, b"")


def test_both_sides_mean_the_same_variables() -> None:
    """The hand imports nothing of the house, so that the list stands there twice."""
    assert look.PLACEMENT_VARIABLES == placement_options.VARIABLES
