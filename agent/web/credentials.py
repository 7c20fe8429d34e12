"""
Identifies a client by a bearer token, a user's password, or a certificate that the listener has verified.

With users configured, a certificate does not replace a password: as in Prometheus' own servers both are required.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping

import structlog
from aiohttp import web

from agent.runtime.errors import describe_reason
from agent.storage.file_stamp import FileStamp, read_file_stamp
from agent.storage.secret_file import SHORTEST_TOKEN, read_secret
from agent.web.passwords import Passwords
from agent.web.webconfig import WebConfig

_MAX_CREDENTIAL_BYTES = 4096  # of a credential in a request


class TokenFile:
    """A bearer token in a file, read again after each change of the file: a rotated token needs no restart."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self._path = path
        self._stamp: FileStamp | None = None
        self._token = b""
        self._log = structlog.get_logger()
        self._reload()  # logs a wrong path at the start, not at the first request

    def matches(self, token: bytes) -> bool:
        """True for the token that the file holds now; an unreadable file holds none."""
        self._reload()
        return bool(self._token) and hmac.compare_digest(token, self._token)

    def _reload(self) -> None:
        current = read_file_stamp(self._path)
        if current == self._stamp:
            return
        self._stamp, self._token = current, b""
        try:
            self._token = read_secret(self._path, SHORTEST_TOKEN).encode()
        except (OSError, ValueError) as error:
            reason = describe_reason(error)
            self._log.warning("a token cannot be used", token=self.name, file=self._path, reason=reason)


class Credentials:
    """Verifies the credentials of requests."""

    def __init__(self, state_token: str, tokens: Mapping[str, str]) -> None:
        """`state_token` is the token of the state folder; `tokens` maps a name to the file of its token."""
        self._state_token = state_token.encode()
        self._tokens = [TokenFile(name, path) for name, path in tokens.items()]
        self._passwords = Passwords()

    async def identify(self, request: web.Request, settings: WebConfig) -> str | None:
        """Returns the client's name, or None without a valid credential. Raises BusyError."""
        scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
        if len(credential) <= _MAX_CREDENTIAL_BYTES and len(request.headers.getall("Authorization", ())) == 1:
            if scheme.lower() == "bearer":
                return self._identify_bearer(credential.strip().encode("utf-8", "surrogateescape"))
            if scheme.lower() == "basic" and settings.basic_auth_users:
                return await self._identify_basic(credential.strip(), settings.basic_auth_users, request.remote or "")
        return None if settings.basic_auth_users else _identify_certificate(request)

    def close(self) -> None:
        """Ends the checks of passwords."""
        self._passwords.close()

    def _identify_bearer(self, token: bytes) -> str | None:
        if hmac.compare_digest(token, self._state_token):
            return "the state folder's token"
        return next((f"token {token_file.name}" for token_file in self._tokens if token_file.matches(token)), None)

    async def _identify_basic(self, encoded: str, users: Mapping[str, str], address: str) -> str | None:
        try:
            name, colon, password = base64.b64decode(encoded, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            return None
        if not colon or not await self._passwords.verify(users, name, password, address):
            return None
        return f"user {name}"


def _identify_certificate(request: web.Request) -> str | None:
    """Returns the name in a client certificate; OpenSSL hands over only verified certificates."""
    certificate = None if request.transport is None else request.transport.get_extra_info("peercert")
    if not certificate:
        return None
    subject = {key: value for part in certificate.get("subject", ()) for key, value in part}
    return f"certificate {subject.get('commonName', '')}"


def has_allowed_name(request: web.Request, allowed: tuple[str, ...]) -> bool:
    """True when the client's certificate has one of the names of `client_allowed_sans`."""
    certificate = None if request.transport is None else request.transport.get_extra_info("peercert")
    return any(value in allowed for _, value in (certificate or {}).get("subjectAltName", ()))
