"""
Access control: the checks before a request reaches its route, and the headers of every answer.

The checks in order:
- The Host header names this listener. Otherwise a foreign page could reach loopback through its own name (DNS
  rebinding).
- A change comes from our own origin and carries a credential, on loopback too.
- The body is small enough and arrives in time.

Reading is open unless the configuration closes it. A route that is not known to only read counts as a change, so a new
route is closed until somebody opens it.
https://fetch.spec.whatwg.org/#origin-header, https://www.w3.org/TR/CSP3/
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from agent.config.loader import ConfigError
from agent.runtime.step_guard import StepGuard
from agent.runtime.threads import run_in_thread
from agent.web import prometheus_json, webconfig
from agent.web.credentials import Credentials, has_allowed_name
from agent.web.listener import ConnectionGuard, Listener
from agent.web.passwords import BusyError
from agent.web.webconfig import LoadedWebConfig

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler, Middleware
    from prometheus_client import CollectorRegistry

MAX_BODY = 1 << 20
"""Bytes of a body with a credential; a webhook may carry thousands of alerts."""

MAX_FORM = 256 << 10
"""Bytes of a body without a credential: an expression may have 64 KiB, before its brackets become %28."""

BODY_TIMEOUT = 10.0
"""Seconds in which a body must arrive."""

RELOAD_INTERVAL = 1.0
"""Seconds between checks of the web configuration's files."""

CREDENTIAL = web.RequestKey("credential", str)
"""The key under which a request holds the name of its client, once a credential is verified."""

REASONS = (
    *("address", "body", "busy", "certificate", "credential", "encoding"),
    *("host", "origin", "size", "slow", "type", "version"),
)
"""Reasons for a refusal. Each counter begins at 0, so that a query sees the first increase."""

CLOSING_STATUSES = (HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "steadytok",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_READ_METHODS = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?", re.ASCII)


@dataclass(frozen=True)
class AccessPolicy:
    """The configuration of access control."""

    hosts: frozenset[str]
    """Accepted host names; empty: all."""
    loopback: bool
    """True when every name of loopback is accepted too."""
    origin: str | None
    """The origin under which a proxy offers the agent."""
    requires_credential: bool
    """True when reading needs a credential."""
    form_paths: Collection[str]
    """Paths that take a form and change nothing."""


def build_access_policy(
    listen: str,
    hosts: Collection[str],
    external_url: str | None,
    *,
    requires_credential: bool,
    form_paths: Collection[str],
) -> AccessPolicy:
    """Builds the policy of a listener at `listen`; on loopback it accepts only its own names and `hosts`."""
    own_name = listen.rpartition(":")[0].strip("[]").lower()
    loopback = _is_loopback(own_name)
    external = urlsplit(external_url) if external_url else None
    names = {name.lower() for name in hosts}
    if loopback or names:
        names |= {own_name, *([external.hostname or ""] if external else [])}
    origin = f"{external.scheme}://{external.netloc.lower()}" if external else None
    return AccessPolicy(frozenset(names), loopback, origin, requires_credential, frozenset(form_paths))


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


class RequestRefusedError(Exception):
    """A request is refused; `reason` is one word for the counter."""

    def __init__(self, status: HTTPStatus, reason: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


class AccessControl:
    """Checks every request of one server, as a middleware around its routes."""

    def __init__(
        self,
        policy: AccessPolicy,
        credentials: Credentials,
        path: str | None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """Loads the web configuration file at `path`; raises ConfigError when the file is unusable."""
        from prometheus_client import Counter

        self._policy = policy
        self._credentials = credentials
        self._path = path
        self._log = structlog.get_logger()
        self.web_config = webconfig.load_web_config(path)
        self.listener: Listener | None = None
        self._steps = StepGuard()
        self._refusal_counter = Counter(
            "steadytok_http_refused", "Requests refused by access control.", ["reason"], registry=registry
        )
        for reason in REASONS:
            self._refusal_counter.labels(reason)

    async def watch_config(self) -> None:
        """Loads the web configuration again whenever it changes; new connections use the new one."""
        while self._path is not None:
            await asyncio.sleep(RELOAD_INTERVAL)
            with self._steps.guard("watch web configuration"):
                await run_in_thread("web configuration", functools.partial(self._reload_if_changed, self._path))
            if self.listener is not None:
                self.listener.context = self.web_config.context

    def close(self) -> None:
        """Ends the checks of credentials, after the last answer."""
        self._credentials.close()

    def _reload_if_changed(self, path: str) -> None:
        """Checks and reads the files in a thread: a disk that hangs delays no request."""
        if not self.web_config.has_changed:
            return
        files = webconfig.stamp_files(path)  # a bad file is read again only after it changes
        try:
            self.web_config = webconfig.load_web_config(path, self.web_config)
        except ConfigError as error:
            self.web_config = replace(self.web_config, files=files)
            self._log.error("the new web configuration is not used; the old one stays", faults=error.messages)
            return
        self._log.info("web configuration reloaded", file=path)

    def make_middleware(self) -> Middleware:
        """Builds the function that aiohttp calls for each request."""

        @web.middleware
        async def control_access(request: web.Request, handler: Handler) -> web.StreamResponse:
            guard = None if self.listener is None else self.listener.find_guard(request.protocol)
            if guard is not None:
                guard.on_head_received()
            try:
                response = await self._respond(request, handler, guard)
                self._add_headers(response)
                # Sent inside the middleware: a connection is not idle while its answer is being sent.
                with contextlib.suppress(ConnectionError):  # the client has hung up: no fault, and there may be floods
                    await response.prepare(request)
                    await response.write_eof()
            finally:
                if guard is not None:
                    guard.on_answer_sent()
            return response

        return control_access

    async def _respond(
        self, request: web.Request, handler: Handler, guard: ConnectionGuard | None
    ) -> web.StreamResponse:
        try:
            await self._check_request(request)
            if guard is not None:
                guard.on_request_received()
            return await handler(request)
        except RequestRefusedError as error:
            self._refusal_counter.labels(error.reason).inc()
            return _build_refusal(error.status, error.reason, str(error), error.headers)
        except web.HTTPException as error:  # aiohttp's own: no such page, wrong method, body too large
            allowed = {name: value for name, value in error.headers.items() if name == "Allow"}
            return _build_refusal(HTTPStatus(error.status), "not_found", error.reason, allowed)
        except Exception as error:  # a fault in one request ends only that request
            if not _has_left(request, error):
                self._log.exception("a request failed", path=request.path, reason=type(error).__name__)
            return _build_refusal(
                HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "internal error; the log has its reason"
            )

    async def _check_request(self, request: web.Request) -> None:
        self._check_host(request)
        is_change = self._is_change(request)
        size_limit = MAX_BODY if is_change else MAX_FORM
        _check_length(request, size_limit)
        allowed = _allowed_names(self.web_config)
        if allowed and not has_allowed_name(request, allowed):
            message = "the client certificate has no name of client_allowed_sans"
            raise RequestRefusedError(HTTPStatus.FORBIDDEN, "certificate", message)
        if is_change:
            self._check_origin(request)
        if is_change or self._policy.requires_credential or self.web_config.settings.basic_auth_users:
            await self._check_credential(request)
        if request.method not in _READ_METHODS and request.can_read_body:
            await _read_body(request, size_limit, json=is_change)

    def _is_change(self, request: web.Request) -> bool:
        """True for a request that may change something; the route decides, whatever the spelling of the path."""
        if request.method in _READ_METHODS:
            return False
        resource = request.match_info.route.resource
        return resource is None or resource.canonical not in self._policy.form_paths

    def _check_host(self, request: web.Request) -> None:
        # The form `GET http://other/ HTTP/1.1` names another host, which would override the header.
        if not request.raw_path.startswith("/"):
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "address", "expected an address that begins with /")
        if request.version < (1, 0):
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "version", "expected HTTP/1.1")
        host_headers = request.headers.getall("Host", ())
        if not host_headers and request.version < (1, 1):
            return  # a load balancer's check; every browser sends the header
        name = _parse_host(host_headers[0].lower()) if len(host_headers) == 1 else None
        if name is None:
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "host", "expected one Host header of the form NAME:PORT")
        if not self._policy.hosts or name in self._policy.hosts or (self._policy.loopback and _is_loopback(name)):
            return
        raise RequestRefusedError(
            HTTPStatus.MISDIRECTED_REQUEST, "host", f"this agent does not go by the name {name[:100]!r}; see web.hosts"
        )

    def _check_origin(self, request: web.Request) -> None:
        origin = request.headers.get("Origin")
        is_cross_site = request.headers.get("Sec-Fetch-Site", "none") not in ("same-origin", "none")
        if origin is None and not is_cross_site:
            return  # no browser, or our own page
        if origin is not None and self._is_own_origin(origin.lower(), request):
            return
        raise RequestRefusedError(
            HTTPStatus.FORBIDDEN, "origin", "a page of another origin may not change anything here"
        )

    def _is_own_origin(self, origin: str, request: web.Request) -> bool:
        # The scheme is ignored: a proxy that ends TLS changes it. external_url covers the rest.
        authority = origin.partition("://")[2]
        return origin == self._policy.origin or authority == request.headers.get("Host", "none").lower()

    async def _check_credential(self, request: web.Request) -> None:
        settings = self.web_config.settings
        try:
            identity = await self._credentials.identify(request, settings)
        except BusyError:
            raise RequestRefusedError(
                HTTPStatus.TOO_MANY_REQUESTS, "busy", "too many passwords to look at", {"Retry-After": "1"}
            ) from None
        if identity is None:
            scheme = "Basic" if settings.basic_auth_users else "Bearer"
            raise RequestRefusedError(
                HTTPStatus.UNAUTHORIZED,
                "credential",
                "expected a credential, such as Authorization: Bearer and the token of the state folder",
                {"WWW-Authenticate": f'{scheme} realm="steadytok"'},
            )
        request[CREDENTIAL] = identity

    def _add_headers(self, response: web.StreamResponse) -> None:
        if response.prepared:
            return
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.update(self.web_config.settings.http_server_config.headers)


def _has_left(request: web.Request, error: Exception) -> bool:
    """True where the fault is that the client has hung up."""
    return isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing())


def _allowed_names(web_config: LoadedWebConfig) -> tuple[str, ...]:
    tls = web_config.settings.tls_server_config
    return () if tls is None else tls.client_allowed_sans


def _parse_host(header: str) -> str | None:
    match = _HOST.fullmatch(header)
    return None if match is None else match[1].strip("[]").rstrip(".")


def _check_length(request: web.Request, size_limit: int) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RequestRefusedError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "encoding", "expected a body that is not compressed"
        )
    if (request.content_length or 0) > size_limit:
        _raise_too_large(size_limit)


def _raise_too_large(size_limit: int) -> NoReturn:
    raise RequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "size", f"expected at most {size_limit} bytes")


async def _read_body(request: web.Request, size_limit: int, *, json: bool) -> None:
    """Reads the body; aiohttp keeps it for the handler."""
    if json and request.content_type != "application/json":
        raise RequestRefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "type", "expected Content-Type: application/json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = await request.read()
    except TimeoutError:
        raise RequestRefusedError(
            HTTPStatus.REQUEST_TIMEOUT, "slow", f"the body did not come in {BODY_TIMEOUT:g} s"
        ) from None
    except web.HTTPRequestEntityTooLarge:
        _raise_too_large(MAX_BODY)
    except web.RequestPayloadError:
        raise RequestRefusedError(HTTPStatus.BAD_REQUEST, "body", "the body is not what its headers say") from None
    if len(body) > size_limit:
        _raise_too_large(size_limit)


def _build_refusal(
    status: HTTPStatus, reason: str, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    response = web.Response(
        status=status,
        body=prometheus_json.encode_failure(reason, message),
        headers=headers,
        content_type="application/json",
    )
    if status in CLOSING_STATUSES:
        response.force_close()  # the rest of the request is not read
    return response
