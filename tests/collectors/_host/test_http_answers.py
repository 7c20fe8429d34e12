"""The door of threads to HTTP: what is sent, what is refused, and what its sentences keep to themselves."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from collectors import Host, HttpAnswer, HttpAnswerError, HttpRedirectError, request_http
from tests import certificates, hostile_peers

SECRET = "S3cr3t-0f-th3-d00r"


def answer_with(text: str) -> Callable[[socket.socket, threading.Event], None]:
    """Returns a peer that answers with this text."""
    return lambda connection, _: connection.sendall(text.encode())


def send(answer: str, path: str = "/", *, user: str = "", cut: bool = False) -> tuple[HttpAnswer, bytes]:
    """Sends one GET with a limit of 100 bytes; returns the answer, and the request as it came."""
    with hostile_peers.serve(answer_with(answer)) as (address, requests):
        result = request_http("GET", f"http://{user}{address}{path}", timeout=30, limit=100, cut=cut)
        return result, requests[0]


def test_what_is_sent() -> None:
    """No compression is asked for, a user becomes Basic, and what a URL may not hold is encoded."""
    answer, request = send(
        "HTTP/1.1 200 OK\r\nX-Name: v\r\nContent-Length: 2\r\n\r\nok", "/a b/ü?q=x y", user=f"u:{SECRET}%20x@"
    )

    assert answer == (200, {"x-name": "v", "content-length": "2"}, b"ok", "")
    assert request.startswith(b"GET /a%20b/%C3%BC?q=x%20y HTTP/1.1\r\n")
    assert b"Accept-Encoding: identity\r\n" in request
    assert f"Authorization: Basic {base64.b64encode(f'u:{SECRET} x'.encode()).decode()}\r\n".encode() in request


@pytest.mark.parametrize(
    "value", [f"Bearer {SECRET}\r\nX: y", f"Bearer {SECRET}\n", f"Bearer {SECRET}\0", f"ü{SECRET}"]
)
def test_a_header_that_cannot_be_sent_is_not_quoted(value: str) -> None:
    """http.client's own error has the value, and so would the audit."""
    with pytest.raises(ValueError, match="the value of the header Authorization is not one line of ASCII") as raised:
        request_http("GET", "http://127.0.0.1:1/", timeout=1, limit=1, headers={"Authorization": value})

    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"http://u:{SECRET}/x@h/", "the port in the URL is no number"),
        (f"ftp://u:{SECRET}@h/", "expected an http:// or https:// URL"),
        (f"{SECRET}", "expected an http:// or https:// URL"),
        ("http://", "expected an http:// or https:// URL"),
        ("http://h:99999/", "the port in the URL is no number"),
    ],
)
def test_a_url_that_cannot_be_used_is_not_quoted(url: str, words: str) -> None:
    """A password with a slash makes a port of its beginning, which the parser's own error has."""
    with pytest.raises(ValueError, match=words) as raised:
        request_http("GET", url, timeout=1, limit=1)

    assert SECRET not in str(raised.value)


def test_a_long_answer_is_refused_or_cut() -> None:
    """At the limit an answer is whole; beyond it there is none, unless its beginning is enough."""
    answer = "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}"

    assert send(answer.format(100, "a" * 100))[0].body == b"a" * 100
    assert send(answer.format(101, "a" * 101), cut=True)[0].body == b"a" * 100
    with pytest.raises(HttpAnswerError, match="longer than 100 bytes"):
        send(answer.format(101, "a" * 101))


def test_a_short_answer_is_none() -> None:
    """Half an exposition is no exposition: a body that breaks off is a failure, which http.client hides."""
    with pytest.raises(HttpAnswerError, match="broke off 60 bytes before its end"):
        send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + "a" * 40)


def test_a_refusal_is_an_answer() -> None:
    """Its status counts, whatever becomes of its body."""
    for tail in ("Content-Length: 2\r\n\r\nno", "Content-Length: 9\r\n\r\nno", "Content-Encoding: br\r\n\r\nno"):
        answer, _ = send(f"HTTP/1.1 503 Loading\r\n{tail}")

        assert answer.status == 503


@pytest.mark.parametrize(
    "location", ["https://127.0.0.1:{port}/", "http://127.0.0.2:{port}/", "http://127.0.0.1:1/", "//u:pw@other/x?y"]
)
def test_a_redirect_to_another_origin_is_told(location: str) -> None:
    """Scheme, host or port differ: the sentence names the origin, and nothing else of the address."""
    with hostile_peers.serve(lambda connection, _: connection.sendall(redirect)) as (address, requests):
        target = location.format(port=address.partition(":")[2])
        redirect = f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode()
        with pytest.raises(
            HttpRedirectError, match=r"HTTP 302: redirects to https?://[a-z0-9.:]+, which is not"
        ) as raised:
            request_http("GET", f"http://{address}/metrics", timeout=30, limit=100, follow=True)

    assert len(requests) == 1
    assert "pw" not in str(raised.value)


def test_a_note_has_no_secret_of_a_url() -> None:
    """Notes are in the log, in `check` and on the page."""
    host = Host("/")
    host.get(f"http://u:{SECRET}@127.0.0.1:1/{SECRET}/metrics?key={SECRET}")
    host.get(f"http://u:{SECRET}/x@127.0.0.1:1/metrics")
    host.note("http://127.0.0.1:8000/metrics?model=a", "down")
    notes = host.take_notes()

    assert [note.path for note in notes][::2] == ["http://127.0.0.1:1/…/metrics", "http://127.0.0.1:8000/metrics"]
    assert SECRET not in repr(notes)


def test_tls_is_verified_and_bounded(tmp_path: Path) -> None:
    """Over TLS an answer is read within the same bounds; a certificate of an unknown authority ends the request."""
    authority = certificates.create_authority(tmp_path)
    certificate, key = certificates.create_certificate(tmp_path, "peer")
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate, key)

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), server_context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1 << 16)
            secured.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 200)

    def accept() -> None:
        for _ in range(3):
            answer(server.accept()[0])

    context = ssl.create_default_context(cafile=str(authority))
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        url = f"https://127.0.0.1:{server.getsockname()[1]}/"

        assert request_http("GET", url, timeout=30, limit=200, tls=context).body == b"a" * 200
        with pytest.raises(HttpAnswerError, match="longer than 100 bytes"):
            request_http("GET", url, timeout=30, limit=100, tls=context)
        with pytest.raises(ssl.SSLCertVerificationError):
            request_http("GET", url, timeout=30, limit=100)
