"""The look program reports two facts of other users' processes and nothing else."""

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


def make_process(proc: Path, pid: int, environ: bytes, *links: str) -> None:
    """Creates a process folder with an environment and open files."""
    (proc / f"{pid}/fd").mkdir(parents=True)
    (proc / f"{pid}/environ").write_bytes(environ)
    for number, target in enumerate(links):
        (proc / f"{pid}/fd/{number}").symlink_to(target)


def test_wishes_and_sockets_are_told_and_nothing_else(tmp_path: Path) -> None:
    """Reports the placement variables of an environment and the sockets among the open files."""
    secret = b"API_KEY=swordfish\0USE_NUMA=1\0LLAMA_ARG_NUMA=distribute\0USE_NUMA_TOO=x\0\xff\0"
    make_process(tmp_path, 42, secret, "/dev/null", "socket:[4711]", "pipe:[1]", "/root/swordfish")

    assert look.answer_request(b"42\n", tmp_path) == {
        "variables": {"USE_NUMA": "1", "LLAMA_ARG_NUMA": "distribute"},
        "sockets": ["socket:[4711]"],
    }


@pytest.mark.parametrize(
    "line", [b"self\n", b"42/../1\n", b"0\n", b"-1\n", b"42", b"\n", b"4 2\n", b"\xb2\n", b"9" * 32]
)
def test_only_a_number_is_taken(tmp_path: Path, line: bytes) -> None:
    """No word and no path reaches the file system."""
    make_process(tmp_path, 42, b"")

    assert list(look.answer_request(line, tmp_path)) == ["error"]


def test_a_process_that_has_ended_has_neither(tmp_path: Path) -> None:
    """A process may end between two requests; that is no error."""
    assert look.answer_request(b"42\n", tmp_path) == {"variables": {}, "sockets": []}


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """The error names the file and the kernel's reason."""
    (tmp_path / "42/environ").mkdir(parents=True)

    assert look.answer_request(b"42\n", tmp_path) == {"error": f"{tmp_path}/42/environ: Is a directory"}


def test_a_real_process_is_looked_at_until_its_asker_hangs_up() -> None:
    """The program answers over one socket, as systemd passes it, and ends when the caller hangs up."""
    ours, theirs = socket.socketpair()
    with ours, socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-m", "hand.look"]
        with theirs:
            environment = {**os.environ, "USE_NUMA": "1"}
            look_process = subprocess.Popen(command, stdin=theirs, stdout=theirs, cwd=HOUSE, env=environment)
        ours.settimeout(30)
        with ours.makefile("rb") as answers:
            ours.sendall(b"%d\nnonsense\n%d\n" % (os.getpid(), look_process.pid))
            test_response, error_response, look_response = (json.loads(answers.readline()) for _ in range(3))
            ours.shutdown(socket.SHUT_WR)
            assert look_process.wait(30) == 0

        assert os.readlink(f"/proc/self/fd/{server.fileno()}") in test_response["sockets"]
        assert list(error_response) == ["error"]
        assert look_response["variables"] == {"USE_NUMA": "1"}


def test_who_hangs_up_before_the_answer_leaves_no_complaint() -> None:
    """The eye stops waiting after a timeout; the program then exits with 0 and logs nothing."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"1\n")
        ours.close()
        command = [sys.executable, "-m", "hand.look"]
        completed = subprocess.run(
            command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd=HOUSE, check=False, timeout=30
        )

    assert (completed.returncode, completed.stderr) == (0, b"")


def test_both_sides_mean_the_same_variables() -> None:
    """The hand imports no other room, so the list exists twice."""
    assert look.PLACEMENT_VARIABLES == placement_options.VARIABLES
