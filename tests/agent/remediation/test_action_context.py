"""The context of an action: a refused connection is a failure, a lost answer is unknown, and errors hide secrets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.actions import FailedError, UnknownError
from agent.remediation import action_context
from agent.remediation.action_context import LiveActionContext
from rules.history.history import History
from tests import processes

SECRET = "T0K3N-0F-THE-CHAT"


@pytest.fixture(name="access")
def _access(tmp_path: Path) -> LiveActionContext:
    return LiveActionContext(History(60_000).snapshot(), 0, "/", "/nobody", tmp_path / "token")


StartServer = Callable[[socket.AddressFamily, object, Callable[[socket.socket], None]], socket.socket]


@pytest.fixture(name="door")
def _start_server() -> Iterator[StartServer]:
    """Yields a function that starts a server for one caller."""
    sockets = []

    def start(family: socket.AddressFamily, address: object, greet: Callable[[socket.socket], None]) -> socket.socket:
        server = socket.socket(family, socket.SOCK_STREAM)
        server.bind(address)
        server.listen(1)
        sockets.append(server)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                greet(connection)

        threading.Thread(target=serve, daemon=True).start()
        return server

    yield start
    for server in sockets:
        server.close()


def test_a_line_is_sent_and_all_is_read(access: LiveActionContext, door: StartServer, tmp_path: Path) -> None:
    """Over a Unix socket and over TCP alike, until the other end closes."""

    def greet(connection: socket.socket) -> None:
        connection.sendall(b"to " + connection.recv(99))
        connection.sendall(b"and more\n")

    door(socket.AF_UNIX, str(tmp_path / "sock"), greet)
    port = door(socket.AF_INET, ("127.0.0.1", 0), greet).getsockname()[1]

    for address in (str(tmp_path / "sock"), f"127.0.0.1:{port}"):
        assert access.line(address, "show info") == "to show info\nand more\n"


@pytest.mark.parametrize("address", ["/nobody/sock", "127.0.0.1:1", "127.0.0.1:x", "nowhere.invalid:80"])
def test_nobody_there_is_a_failure(access: LiveActionContext, address: str) -> None:
    """Nothing was sent, so nothing was done."""
    with pytest.raises(FailedError, match=address.split(":")[0]):
        access.line(address, "show info")


def test_no_answer_is_not_known(
    access: LiveActionContext, door: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request was sent, and may have been done."""
    monkeypatch.setattr(action_context, "PATIENCE", 0.1)
    ended = threading.Event()
    door(socket.AF_UNIX, str(tmp_path / "sock"), lambda _: ended.wait(10) or None)

    with pytest.raises(UnknownError, match="did not answer"):
        access.line(str(tmp_path / "sock"), "show info")
    ended.set()


def test_a_failure_does_not_tell_a_webhooks_secret(access: LiveActionContext) -> None:
    """The audit, which anybody may read, has the host and the port of the address, and no path."""
    origin = f"http://127.0.0.1:{processes.find_free_port()}"

    with pytest.raises(FailedError) as raised:
        access.http("POST", f"{origin}/services/{SECRET}?key={SECRET}", b"{}")

    assert str(raised.value) == f"{origin}: Connection refused"
