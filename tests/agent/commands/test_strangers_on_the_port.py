"""The agent's token is sent to the agent's user, not to whoever listens at the agent's address."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

NOBODY = 65534
LISTEN = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
connection, _ = server.accept()
sys.stdout.write(connection.recv(65536).decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts a process of another user")
@pytest.mark.parametrize("arguments", [("remedies", "pause"), ("top", "--once")])
def test_a_stranger_gets_no_token(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """`remedies` and `top` name the user who has the port, and send nothing."""
    port = processes.find_free_port()
    (tmp_path / "state").mkdir()
    (tmp_path / "state/token").write_text("a-token-of-the-agent\n")
    config = tmp_path / "c.yml"
    config.write_text(f"web: {{listen: '127.0.0.1:{port}'}}\nstate: {{dir: {tmp_path / 'state'}}}\n")
    # -S: the interpreter of a virtual environment may lie where another user cannot read.
    stranger = subprocess.Popen(
        ["/usr/bin/env", "python3", "-I", "-S", "-c", LISTEN, str(port)], stdout=subprocess.PIPE, user=NOBODY, cwd="/"
    )
    try:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"ready\n"
        command = [sys.executable, "-m", "agent", *arguments, "--config", str(config)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    finally:
        stranger.kill()
        received = stranger.communicate()[0]

    assert result.returncode == 1
    assert f"the user {NOBODY} listens at 127.0.0.1:{port}" in result.stderr
    assert received == b""
