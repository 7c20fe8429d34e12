"""
The one place where a thread reads an answer over HTTP: bounded in bytes, in time and in where the request goes.

A peer may be broken, hostile, or a stranger on the port. So one deadline holds for connecting, sending and the whole
answer: urllib's timeout starts anew with each byte. The bytes on the wire are counted, head and interim answers
included, and a compressed answer is refused, since 1 MB of gzip can hold 1 GB. Another host or scheme gets no request.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from collectors._host.budgeted_socket import BudgetedSocket, ExchangeBudget, connect_within
from collectors._host.budgeted_socket import HttpAnswerError as HttpAnswerError  # part of this door

MAX_REFUSAL_BYTES = 64 << 10  # of the body of an answer that is not 2xx: its beginning is its reason
MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK = 1 << 16
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"  # as in a browser's address: all else is sent as %XX


class HttpRedirectError(HttpAnswerError):
    """The peer redirects elsewhere; `origin` is the scheme, host and port that it names."""

    def __init__(self, status: int, location: str) -> None:
        parts = urllib.parse.urlsplit(location)
        self.status = status
        self.origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        super().__init__(f"HTTP {status}: redirects to {self.origin}, which is not followed; expected its own answer")


class HttpCompressedError(HttpAnswerError):
    """The peer compressed its answer, although it was asked not to."""

    def __init__(self, encoding: str) -> None:
        super().__init__(f"the answer is compressed ({encoding[:20]}), which was not asked for")


def shorten_url(url: str) -> str:
    """Returns a URL for a note: without its user, its query, and what precedes `/metrics` in its path."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        parts.port  # noqa: B018  raises ValueError for a port that is no number, which may be a password with a slash
    except ValueError:
        return "a URL that cannot be read"
    path = parts.path if parts.path.count("/") <= 1 else f"/…{parts.path[parts.path.rindex('/') :]}"
    return f"{parts.scheme}://{host}{path}"


class HttpAnswer(NamedTuple):
    """The answer to a request."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    fault: str = ""
    """Why the answer of a peer that lives cannot be used: "compressed", or "untrusted" for its certificate."""

    @property
    def text(self) -> str:
        """The body as UTF-8; the charset that the peer claims is not trusted."""
        return self.body.decode("utf-8", "replace")

    def parse_json(self) -> Any:
        """Returns the body as JSON; raises ValueError, also for one that nests deeper than can be parsed."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("the answer nests too deeply") from None


def request_http(
    method: str,
    url: str,
    *,
    timeout: float,
    limit: int,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
    follow: bool = False,
    cut: bool = False,
) -> HttpAnswer:
    """
    Sends one request and returns its answer, of any status. Raises OSError, or ValueError for a URL or header.

    `timeout` holds for everything together. With `follow`, redirects within the same origin are followed. An answer of
    more than `limit` bytes is refused, or cut with `cut`.
    """
    deadline = time.monotonic() + timeout
    for _ in range(MAX_REDIRECTS + 1):
        answer = _exchange(method, url, body, headers or {}, tls, ExchangeBudget(deadline, limit), cut=cut)
        if not follow or answer.status not in REDIRECTS:
            return answer
        target = urllib.parse.urljoin(url, answer.headers.get("location", ""))
        if _split(target)[:3] != _split(url)[:3]:
            raise HttpRedirectError(answer.status, target)
        url = target
    raise HttpAnswerError(f"HTTP {answer.status}: more than {MAX_REDIRECTS} redirects")


def find_answer(error: Exception) -> HttpAnswer | None:
    """Returns what a failed request shows of a peer that lives; None where it shows nothing of the kind."""
    if isinstance(error, HttpRedirectError):
        return HttpAnswer(error.status, {}, b"")
    if isinstance(error, HttpCompressedError):
        return HttpAnswer(200, {}, b"", "compressed")
    if isinstance(error, ssl.SSLCertVerificationError):  # before any request was sent
        return HttpAnswer(0, {}, b"", "untrusted")
    return None


def _exchange(
    method: str,
    url: str,
    body: bytes | None,
    headers: Mapping[str, str],
    tls: ssl.SSLContext | None,
    budget: ExchangeBudget,
    *,
    cut: bool,
) -> HttpAnswer:
    scheme, host, port, path, credential = _split(url)
    sent_headers = {"Accept-Encoding": "identity", "Connection": "close", **credential, **headers}
    for name, value in sent_headers.items():
        if not value.isprintable() or not value.isascii():  # http.client's own error would quote the secret
            raise ValueError(f"the value of the header {name} is not one line of ASCII")
    request = http.client.HTTPConnection(host, port)
    connection = connect_within(budget, host, port)
    try:
        if scheme == "https":
            context = tls or ssl.create_default_context()
            connection = context.wrap_socket(connection, server_hostname=host)
        request.sock = cast(socket.socket, BudgetedSocket(connection, budget))
        request.request(method, path, body, sent_headers)
        with request.getresponse() as response:
            received = {name.lower(): value for name, value in response.getheaders()}
            return HttpAnswer(response.status, received, _read_body(response, budget.limit, cut=cut))
    except http.client.HTTPException as error:
        if isinstance(error, OSError):
            raise  # RemoteDisconnected: a listener that wants a certificate ends so
        reason = str(error) or type(error).__name__
        raise HttpAnswerError(f"the answer is not HTTP, or broke off: {reason[:200]}") from None
    finally:
        connection.close()


def _split(url: str) -> tuple[str, str, int, str, dict[str, str]]:
    """Returns scheme, host, port, path with query, and the header of a user in the URL. Raises ValueError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected an http:// or https:// URL")
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:  # its text quotes what stands there, which can be a password with a slash
        raise ValueError("the port in the URL is no number") from None
    path = urllib.parse.quote(f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}", _URL_CHARACTERS)
    if parts.username is None:
        return parts.scheme, parts.hostname, port, path, {}
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    credential = {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return parts.scheme, parts.hostname, port, path, credential


def _read_body(response: http.client.HTTPResponse, limit: int, *, cut: bool) -> bytes:
    """Reads the body; of a refusal only its beginning, and nothing where even that does not come."""
    is_refusal = response.status // 100 != 2
    encoding = (response.getheader("Content-Encoding") or "identity").lower()
    if encoding != "identity" and not is_refusal:
        raise HttpCompressedError(encoding)
    if is_refusal:
        try:
            return b"" if encoding != "identity" else _read_up_to(response, min(limit, MAX_REFUSAL_BYTES), cut=True)
        except (OSError, http.client.HTTPException):
            return b""  # the status is the answer; its body is only a courtesy
    return _read_up_to(response, limit, cut=cut)


def _read_up_to(response: http.client.HTTPResponse, limit: int, *, cut: bool) -> bytes:
    """Returns the body; raises HttpAnswerError for one that broke off, or has more than `limit` bytes unless `cut`."""
    body = bytearray()
    while len(body) <= limit and (part := response.read(min(_CHUNK, limit + 1 - len(body)))):
        body += part
    if len(body) > limit:
        if not cut:
            raise HttpAnswerError(f"the answer is longer than {limit} bytes")
        del body[limit:]
    elif response.length:  # a short read, which http.client hides for a read of a size
        raise HttpAnswerError(f"the answer broke off {response.length} bytes before its end")
    return bytes(body)
