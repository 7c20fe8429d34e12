"""Facts that only another user may read, through the look service, from a process without those rights."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hand import look

HOUSE = Path(__file__).parents[3]
NOBODY = 65534
PORT = 18321
LISTENS = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n" + (
    f"   0: 0100007F:{PORT:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100\n"
)
# The imports come first: the user without rights may not be able to read this code either.
PROGRAM = f"""
import json, os, sys
from collectors import Host
from collectors._process import placement_request, sockets
from collectors._process.engine_processes import EngineProcess

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
host, passes = Host(sys.argv[1]), []
process = EngineProcess("r1", "0", "llama.cpp", 42, 7, "llama-server")
for _ in range(2):
    ports = sorted(sockets.find_ports(host, [42]))
    sources = [option.source for option in placement_request.find_requests(host, process, {{"0": frozenset({{0}})}})]
    passes.append((ports, sources, [tuple(note) for note in host.take_notes()]))
print(json.dumps(passes))
"""


@pytest.fixture(name="root")
def _root() -> Iterator[Path]:
    """A machine with an engine whose environment and sockets are private, in a folder that others may enter."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in ("proc/42/net", "proc/42/fd", "run/steadytok", "open/42/fd"):
            (root / path).mkdir(parents=True)
        (root / "proc/42/cmdline").write_text("llama-server\0")
        (root / "proc/42/net/tcp").write_text(LISTENS)
        (root / "proc/42/environ").write_text("")
        (root / "open/42/environ").write_text("SECRET=swordfish\0LLAMA_ARG_NUMA=distribute\0")
        (root / "open/42/fd/3").symlink_to("socket:[4711]")
        (root / "proc/42/environ").chmod(0)
        (root / "proc/42/fd").chmod(0)
        root.chmod(0o755)
        yield root
        (root / "proc/42/fd").chmod(0o700)


def run_passes(root: Path) -> list[Any]:
    """Runs two passes in a process without rights; returns ports, sources and notes of each."""
    command = [sys.executable, "-c", PROGRAM, str(root)]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    passes: list[Any] = json.loads(done.stdout)
    return passes


def listen(root: Path, serve: Callable[[socket.socket], None]) -> socket.socket:
    """Opens the service's socket and hands each connection to `serve`."""
    path = root / "run/steadytok/look.sock"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o666)
    listener.listen()

    def accept_connections() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return  # the test has ended
            with connection:
                serve(connection)

    threading.Thread(target=accept_connections, daemon=True).start()
    return listener


def make_look_server(root: Path) -> Callable[[socket.socket], None]:
    """Returns a server that answers for the machine's processes."""

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(json.dumps(look.answer_request(line, root / "open")).encode() + b"\n")

    return serve


def test_ports_and_wishes_of_another_users_engine_are_told(root: Path) -> None:
    """Each pass has the port and the request, without a note and without the rest of the environment."""
    with listen(root, make_look_server(root)):
        assert run_passes(root) == [[[PORT], ["LLAMA_ARG_NUMA"], []]] * 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection closed by the service"),
        (b"what\n", "JSON is malformed: invalid character (byte 0)"),
        (b'{"variables": 7}\n', "Expected `object`, got `int` - at `$.variables`"),
    ],
)
def test_who_answers_nonsense_is_said_and_left_alone(root: Path, answer: bytes, reason: str) -> None:
    """A malformed answer gives no ports and no requests; each pass notes the reason, and retries only after a delay."""
    calls = []

    def serve(connection: socket.socket) -> None:
        calls.append(connection.recv(100))
        connection.sendall(answer)

    with listen(root, serve):
        passes = run_passes(root)

    assert passes == [[[], [], [["run/steadytok/look.sock", reason]] * 2]] * 2
    assert calls == [b"42\n"]


def test_what_cannot_be_told_is_noted(root: Path) -> None:
    """The note has the kernel's reason."""
    (root / "open/42/environ").unlink()
    (root / "open/42/environ").mkdir()
    with listen(root, make_look_server(root)):
        (first, _) = run_passes(root)

    assert first[:2] == [[], []]
    assert {tuple(note) for note in first[2]} == {("process 42", f"{root}/open/42/environ: Is a directory")}


def test_without_a_door_the_refusal_is_said(root: Path) -> None:
    """Without the service both files are noted with the kernel's reason."""
    (first, _) = run_passes(root)

    assert first[:2] == [[], []]
    assert sorted(first[2]) == [["proc/42/environ", "Permission denied"], ["proc/42/fd", "Permission denied"]]
