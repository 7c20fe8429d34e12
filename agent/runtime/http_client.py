"""
The one door for answers over HTTP on the event loop; `collectors.request_http` is that of threads.

A peer may be broken, hostile, or a stranger on the port: an Alertmanager's error body without end took 3.7 GB, and 1 MB
of gzip 2.2 GB. So the bytes of each answer are counted on the wire, head and interim answers included. Nothing is
unpacked, no redirect is followed, and every request has one deadline for its whole answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import aiohttp
import msgspec

from agent.runtime.errors import describe_error
from collectors import HttpAnswer, HttpAnswerError

MAX_HEAD_BYTES = 256 << 10  # of heads, interim answers and the frames of chunks, beside the body
MAX_WHOLE_BYTES = 16 << 20  # of an answer that is kept in memory; a stream may have more
MAX_REFUSAL_BYTES = 64 << 10  # of the body of an answer that is not 2xx: its beginning is its reason
_HEADERS = {"Accept-Encoding": "identity"}


class HttpClient:
    """Sends requests from the event loop; must be closed. `limit` is the greatest number of bytes of an answer."""

    def __init__(
        self, *, limit: int, timeout: float, headers: Mapping[str, str] | None = None, connections: int = 100
    ) -> None:
        """`timeout` is in seconds for a whole exchange, from connecting to the last byte."""
        self._limit = limit
        self._session = aiohttp.ClientSession(
            connector=_MeteredConnector(limit + MAX_HEAD_BYTES, connections),
            timeout=aiohttp.ClientTimeout(total=timeout),
            headers={**_HEADERS, **(headers or {})},
            auto_decompress=False,
            trust_env=False,  # a proxy would get the credentials
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._session.close()

    aclose = close  # the name that contextlib.aclosing calls

    async def exchange(self, method: str, url: str, **options: Any) -> HttpAnswer:
        """Returns the answer of any status. Raises OSError (TimeoutError too), or ValueError for a URL or header."""
        async with self.open(method, url, **options) as response:
            return await self.read_answer(response)

    @contextlib.asynccontextmanager
    async def open(self, method: str, url: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yields the response once its head is there; what aiohttp raises becomes HttpAnswerError."""
        try:
            async with self._session.request(method, url, allow_redirects=False, **options) as response:
                yield response
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise HttpAnswerError(_describe_without_url(error)) from error

    async def read_answer(self, response: aiohttp.ClientResponse) -> HttpAnswer:
        """Reads the body; of a refusal only its beginning, and nothing where even that does not come."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        encoding = headers.get("content-encoding", "identity").lower()
        if response.status // 100 != 2:
            return HttpAnswer(response.status, headers, await self._read_refusal(response, encoding))
        if encoding != "identity":
            raise HttpAnswerError(f"the answer is compressed ({encoding[:20]}), which was not asked for")
        body = bytearray()
        limit = min(self._limit, MAX_WHOLE_BYTES)
        async for part in self.iter_parts(response):
            body += part
            if len(body) > limit:
                raise HttpAnswerError(f"the answer is longer than {limit} bytes")
        return HttpAnswer(response.status, headers, bytes(body))

    async def iter_parts(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Yields the body in the pieces that arrive; raises HttpAnswerError where it is longer than the limit."""
        count = 0
        async for part in response.content.iter_any():
            count += len(part)
            if count > self._limit:
                raise HttpAnswerError(f"the answer is longer than {self._limit} bytes")
            yield part

    async def _read_refusal(self, response: aiohttp.ClientResponse, encoding: str) -> bytes:
        body = bytearray()
        try:
            while encoding == "identity" and len(body) < MAX_REFUSAL_BYTES:
                part = await response.content.readany()
                if not part:
                    break
                body += part
        except (aiohttp.ClientError, OSError):
            pass  # the status is the answer; its body is only a courtesy
        response.close()  # the rest of the body is not read, so the connection cannot serve again
        return bytes(body[:MAX_REFUSAL_BYTES])


def decode_json(body: bytes, kind: Any = Any) -> Any:
    """Returns the body as a value of `kind`. Raises ValueError, also for one that nests deeper than can be parsed."""
    try:
        return msgspec.json.decode(body, type=kind)
    except RecursionError:
        raise ValueError("the answer nests too deeply") from None


def _describe_without_url(error: Exception) -> str:
    """Describes a failure; aiohttp's own texts quote it, and it can hold a secret."""
    if isinstance(error, aiohttp.InvalidURL):
        return "the URL cannot be used"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer is not HTTP: {error.message[:200]}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the connection ended before a whole answer"
    return describe_error(error)[:300]


class _MeteredConnector(aiohttp.TCPConnector):
    """Counts what arrives on each connection from one request to the next."""

    def __init__(self, limit: int, connections: int) -> None:
        super().__init__(limit=connections)
        self._greatest = limit

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        """Returns a connection whose bytes are counted from now on."""
        connection = await super().connect(*arguments, **options)
        transport = connection.transport
        if transport is not None:
            protocol = cast(asyncio.Protocol, transport.get_protocol())
            inner = protocol.inner if isinstance(protocol, _Meter) else protocol
            transport.set_protocol(_Meter(inner, transport, self._greatest))
        return connection


class _Meter(asyncio.Protocol):
    """Stands between a transport and aiohttp's protocol, and ends the connection once too many bytes have come."""

    def __init__(self, inner: asyncio.Protocol, transport: asyncio.Transport, limit: int) -> None:
        self.inner = inner
        self._transport = transport
        self._left = limit

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()
        else:
            self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()
