"""The client of the hand, against a hand that answers correctly, wrongly, or not at all."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.actions import ActionError, ChangedError, FailedError, UnknownError
from agent.remediation.hand import explain_missing_verbs, send_request

Answer = Callable[[bytes], bytes]


@pytest.fixture(name="hand")
def _hand(tmp_path: Path) -> Iterator[Callable[[Answer], str]]:
    """Yields a function that starts a hand with the given answers and returns its path."""
    sockets = []

    def start(answer: Answer) -> str:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(str(tmp_path / "hand.sock"))
        server.listen()
        sockets.append(server)

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # the test is over
                    return
                with connection, contextlib.suppress(OSError):  # a client that waits no longer
                    connection.sendall(answer(connection.recv(4096)))

        threading.Thread(target=serve, daemon=True).start()
        return str(tmp_path / "hand.sock")

    yield start
    for server in sockets:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def test_a_request_is_one_line_and_gets_its_result(hand: Callable[[Answer], str]) -> None:
    """Verb and arguments as JSON, the result as it came."""
    received: list[bytes] = []

    def answer(line: bytes) -> bytes:
        received.append(line)
        return b'{"ok": true, "result": {"freed_bytes": 7}}\n'

    assert send_request(hand(answer), "drop_caches", {}) == {"freed_bytes": 7}
    assert json.loads(received[0]) == {"verb": "drop_caches", "arguments": {}}
    assert received[0].endswith(b"\n")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (b'{"ok": false, "code": "refused", "error": "not now"}\n', FailedError, "the hand: not now"),
        (b'{"ok": false, "code": "changed", "error": "it is 7"}\n', ChangedError, "it is 7"),
        (b'{"ok": false, "code": "ambiguous", "error": "it was killed"}\n', UnknownError, "the hand: it was killed"),
        (b"{}\n", FailedError, "it gave no reason"),
        (b"no json\n", UnknownError, "is not JSON"),
        (b"[1]\n", UnknownError, "is not JSON"),
        (b'{"ok": tr', UnknownError, "the answer ended early"),
        (b"", UnknownError, "the connection was closed"),
        (b"x" * 9000 + b"\n", UnknownError, "is not JSON"),
        (b"x" * (1 << 21), UnknownError, "more than 1048576 bytes"),
    ],
)
def test_each_bad_answer_has_its_meaning(
    hand: Callable[[Answer], str], answer: bytes, error: type[ActionError], words: str
) -> None:
    """A refusal is a failure, a changed value is left alone; a killed verb or a broken answer is unknown."""
    with pytest.raises(error, match=words):
        send_request(hand(lambda _: answer), "governor", {})


def test_a_hand_that_is_not_there(tmp_path: Path) -> None:
    """Nothing was done, and the message says how to start a hand; a request that is too long is not sent."""
    with pytest.raises(FailedError, match=r"there is no hand at .*: start"):
        send_request(str(tmp_path / "none"), "hello", {})
    with pytest.raises(FailedError, match="more than 4096"):
        send_request(str(tmp_path / "none"), "command", {"environment": "x" * 5000})
    assert explain_missing_verbs(str(tmp_path / "none"), ["governor"]).startswith("there is no hand at ")


def test_a_hand_that_says_nothing_is_not_waited_for_for_ever(hand: Callable[[Answer], str]) -> None:
    """After its timeout the outcome is unknown."""
    silent = threading.Event()

    def answer(_line: bytes) -> bytes:
        silent.wait(5)
        return b""

    with pytest.raises(UnknownError, match="did not answer hello"):
        send_request(hand(answer), "hello", {}, timeout=0.2)
    silent.set()


def test_what_a_hand_can_do(hand: Callable[[Answer], str]) -> None:
    """Its hello lists them."""
    path = hand(lambda _: b'{"ok": true, "result": {"verbs": ["governor"]}}\n')

    assert explain_missing_verbs(path, ["governor"]) == ""
    assert explain_missing_verbs(path, ["migrate"]) == "the hand cannot do migrate here: it has no such verb"
