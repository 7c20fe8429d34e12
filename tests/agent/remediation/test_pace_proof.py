"""The secret of the engines reaches nobody, and paces only the engines that know it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.actions import FailedError, Task
from agent.remediation.action_context import LiveActionContext
from rules.history.history import History
from tests import processes
from tests.answering import run_server
from tests.secret_files import write_secret

TOKEN = "T0K3N-0F-THE-ENGINES"


def make_context(folder: Path) -> LiveActionContext:
    """Makes the context of an act with a pace token."""
    write_secret(folder / "pace_token", TOKEN + "\n")
    return LiveActionContext(History(60_000).snapshot(), 0, "/", "/nobody", folder / "pace_token")


@contextlib.contextmanager
def serve_stranger(proof: str | None) -> Iterator[tuple[str, list[str]]]:
    """Serves as an engine does that says yes to everything; yields its URL and all that it was sent."""
    received: list[str] = []

    class Stranger(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(f"{self.requestline}\n{self.headers}\n{body.decode()}")
            self.send_response(200)
            if proof is not None:
                self.send_header("Steadytok-Proof", proof)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stranger)
    with run_server(server):
        yield f"http://127.0.0.1:{server.server_port}", received


@contextlib.contextmanager
def run_engine(folder: Path, *options: str, **environment: str) -> Iterator[str]:
    """Runs the reference engine; yields its URL."""
    port = processes.find_free_port()
    arguments = [sys.executable, "-m", "engine", "--port", str(port), "--size", "1MiB", *options]
    url = f"http://127.0.0.1:{port}"
    with processes.run_process(arguments, folder / "log", environment):
        processes.wait_until(lambda: processes.fetch(f"{url}/healthz") is not None, 60, "the engine answers")
        yield url


def pace_engine(url: str, context: LiveActionContext, **parameters: Any) -> Any:
    """Paces the engine at a URL to a duty of a half."""
    from agent.actions import pace

    task = Task("cool", {"engine": "r1"}, pace.Config(duty=0.5, **parameters), {}, {"r1": url})
    return pace.put_pace(task, 0.5, 30.0, context)


@pytest.mark.parametrize("proof", [None, "", "0" * 64, TOKEN])
def test_a_stranger_on_the_port_gets_no_secret_and_is_not_believed(tmp_path: Path, proof: str | None) -> None:
    """Neither the engines' token nor the API's is sent, and the stranger's yes is a failure with its reason."""
    context = make_context(tmp_path)
    with serve_stranger(proof) as (url, received), pytest.raises(FailedError) as raised:
        pace_engine(url, context)

    assert f"{url}: the answer has no proof of the pace token: another program has the engine's port" in str(
        raised.value
    )
    assert len(received) == 1
    assert TOKEN not in received[0]
    assert "Authorization: Steadytok-HMAC-SHA256 time=" in received[0]


def test_an_engine_with_the_token_is_paced(tmp_path: Path) -> None:
    """The reference engine takes the signed request, and its answer has the proof."""
    context = make_context(tmp_path)
    with run_engine(tmp_path, "--token-file", str(tmp_path / "pace_token")) as url:
        pace_engine(url, context)

        assert "steadytok_reference_duty 0.5\n" in (processes.fetch(f"{url}/metrics") or "")


def test_an_engine_with_another_token_says_what_to_do(tmp_path: Path) -> None:
    """An engine of an older version has the token of the API: the sentence names the file that it needs now."""
    context = make_context(tmp_path)
    with (
        run_engine(tmp_path, STEADYTOK_ENGINE_TOKEN="the-token-of-the-api") as url,
        pytest.raises(FailedError, match=r"refused the pace: HTTP 401: .*--token-file and the file pace_token"),
    ):
        pace_engine(url, context)


def test_an_operators_token_is_shown_as_bearer(tmp_path: Path) -> None:
    """A gateway of somebody else knows no signature: it gets the credential that the operator names for it."""
    context = make_context(tmp_path)
    write_secret(tmp_path / "gateway", "gateway-secret")
    with serve_stranger(None) as (url, received):
        pace_engine(url, context, token_file=str(tmp_path / "gateway"))

    assert "Authorization: Bearer gateway-secret" in received[0]
