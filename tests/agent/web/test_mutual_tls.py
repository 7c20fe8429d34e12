"""The commands that query a running agent which requires certificates of another authority than its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import certificates, processes

CONFIG = "steadytok.yml"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of an agent that accepts certificates named `command.example`, and of the certificates."""
    folder = tmp_path_factory.mktemp("mutual")
    for name in ("servers", "clients"):
        (folder / name).mkdir()
        certificates.create_authority(folder / name)
    certificates.create_certificate(folder / "servers", "agent")
    certificates.create_certificate(folder / "clients", "command", "DNS:command.example")
    certificates.create_certificate(folder / "clients", "stranger", "DNS:stranger.example")
    (folder / "web.yml").write_text(
        "tls_server_config: {cert_file: servers/agent.crt, key_file: servers/agent.key,"
        " client_auth_type: RequireAndVerifyClientCert, client_ca_file: clients/ca.crt,"
        " client_allowed_sans: [command.example]}\n"
    )
    port = processes.find_free_port()
    configure(folder, port, None)
    agent = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(folder / CONFIG)]
    with processes.run_process(agent, folder / "log"):
        processes.wait_until(lambda: '"history memory estimate"' in (folder / "log").read_text(), 30, "readings")
        yield folder


def configure(folder: Path, port: int, certificate: str | None) -> None:
    web: dict[str, object] = {"listen": f"127.0.0.1:{port}", "config": str(folder / "web.yml")}
    if certificate is not None:
        pair = {
            f"{kind}_file": str(folder / "clients" / f"{certificate}.{end}")
            for kind, end in (("cert", "crt"), ("key", "key"))
        }
        web["client_certificate"] = pair
    document = {"engine": {"enabled": False}, "web": web, "state": {"dir": str(folder / "state")}}
    (folder / CONFIG).write_text(json.dumps(document))


def run_command(folder: Path, *arguments: str, certificate: str | None) -> subprocess.CompletedProcess[str]:
    port = json.loads((folder / CONFIG).read_text())["web"]["listen"].rpartition(":")[2]
    configure(folder, int(port), certificate)
    command = [sys.executable, "-m", "agent", *arguments, "--config", str(folder / CONFIG)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("remedies", "list"), "Remedies are"),
        (("remedies", "pause", "night"), "Paused: night"),
        (("top", "--once"), "collector meminfo"),
    ],
)
def test_a_command_shows_its_own_certificate(home: Path, arguments: tuple[str, ...], words: str) -> None:
    """With `web.client_certificate` a command is accepted."""
    done = run_command(home, *arguments, certificate="command")

    assert (done.returncode, done.stderr) == (0, "")
    assert words in done.stdout


@pytest.mark.parametrize("arguments", [("remedies", "list"), ("top", "--once")])
def test_without_one_the_error_says_what_to_do(home: Path, arguments: tuple[str, ...]) -> None:
    """The agent's own certificate is of another authority, so one sentence names the key to set."""
    done = run_command(home, *arguments, certificate=None)

    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "set web.client_certificate to one that its client_ca_file signed" in done.stderr


def test_one_of_another_name_is_refused(home: Path) -> None:
    """The command names the key that refuses it."""
    done = run_command(home, "remedies", "list", certificate="stranger")

    assert (done.returncode, done.stdout) == (1, "")
    assert "has no name of client_allowed_sans" in done.stderr
