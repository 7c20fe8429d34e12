"""The API of remedies, for `steadytok remedies` and the page: anybody may read, changes need a credential."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from agent.remediation import journal
from agent.remediation.guards import HOUR_MS
from agent.remediation.model import HOST, AuditEntry, Phase, Remedy
from agent.remediation.remediator import Remediator
from agent.web.access import CREDENTIAL
from agent.web.query_runner import QueryRunner, QueryTimeoutError
from agent.web.shared_rendering import Prepare, SharedRendering

PATH = "/api/v1/remedies"
MAX_PAGE = 1000
"""Lines of the audit in one answer: 100,000 at once made the agent grow to 500 MB and its ticks 4 s late."""

LAST_ID = 2**63 - 1  # the highest number that SQLite gives a line
PLAN_TIMEOUT = 30.0  # seconds for a dry run

Handler = Callable[[web.Request], Awaitable[Any]]


class DeniedError(Exception):
    """The request is refused; the message says why."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class RemediesApi:
    """Serves the endpoints below /api/v1/remedies."""

    def __init__(self, remedies: Remediator, now_ms: Callable[[], int], tick_number: Callable[[], int]) -> None:
        self._remedies = remedies
        self._now_ms = now_ms
        self._tick_number = tick_number
        self._list_rendering = SharedRendering(self._identify_source, _run_on_loop)
        self._audit_rendering = SharedRendering(self._identify_source, QueryRunner().run)

    def routes(self) -> list[web.RouteDef]:
        """Returns every route; a change, or an action that reads the machine, needs a credential."""
        return [
            web.get(PATH, _wrap_route(self._list_remedies)),
            web.get(f"{PATH}/audit", _wrap_route(self._list_audit)),
            web.post(f"{PATH}/pause", self._require_credential(self._pause)),
            web.post(f"{PATH}/resume", self._require_credential(self._resume)),
            web.post(f"{PATH}/try", self._require_credential(self._try_plan)),
        ]

    def _require_credential(self, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def check_and_handle(request: web.Request) -> Any:
            self._check_credential(request)
            return await handler(request)

        return _wrap_route(check_and_handle)

    def _check_credential(self, request: web.Request) -> None:
        # access.py has verified it; a server without access control changes nothing.
        if CREDENTIAL not in request:
            raise DeniedError(HTTPStatus.UNAUTHORIZED, "expected a credential, such as the token of the state folder")

    def _identify_source(self) -> tuple[object, ...]:
        remedies = self._remedies
        return (self._tick_number(), remedies.state, remedies.settings, remedies.halted)

    async def _list_remedies(self, request: web.Request) -> Any:
        def prepare() -> Callable[[], bytes]:
            return functools.partial(msgspec.json.encode, self._describe_remedies())

        return msgspec.Raw(await self._list_rendering.render("list", prepare))

    def _describe_remedies(self) -> Mapping[str, Any]:
        remedies = self._remedies
        return {
            "mode": remedies.settings.mode,
            "halted": remedies.halted,
            "killed": remedies.is_killed,
            "pauses": remedies.state.pauses,
            "latches": [latch for latch in remedies.state.latches if latch.remedy == HOST],
            "remedies": [self._describe_remedy(remedy) for remedy in remedies.catalog.values()],
        }

    def _describe_remedy(self, remedy: Remedy) -> Mapping[str, Any]:
        state, name = self._remedies.state, remedy.name
        since = max(self._now_ms() - HOUR_MS, state.resumed_ms.get(name, 0))
        recent_attempts = [
            attempt
            for attempt in state.attempts
            if attempt.remedy == name and attempt.counted and attempt.began_ms > since
        ]
        active_acts = [act for act in state.acts if any(claim.remedy == name for claim in act.claims)]
        latch = next((latch for latch in state.latches if latch.remedy == name), None)
        last = max((attempt.began_ms for attempt in state.attempts if attempt.remedy == name), default=None)
        state_text = (
            "given up"
            if latch
            else active_acts[0].phase.value
            if active_acts
            else "disabled"
            if not remedy.enabled
            else "ready"
        )
        return {
            "name": name,
            "action": remedy.settings.action,
            "does": remedy.action.describe(remedy.task),
            "reversible": remedy.reversible,
            "match": remedy.settings.match,
            "state": "observed"
            if active_acts and active_acts[0].observed and active_acts[0].phase is Phase.HELD
            else state_text,
            "why": latch.why if latch else "",
            "left": max(0, remedy.max_per_hour - len(recent_attempts)),
            "last_ms": last,
            "effect": state.effects.get(name, ""),
            "now": sorted(memory.says for act, memory in self._remedies.iter_steered() if act in active_acts),
            "waiting": sorted(
                {episode.last_reason for episode in state.episodes if episode.remedy == name and episode.last_reason}
            ),
        }

    async def _list_audit(self, request: web.Request) -> Any:
        limit = _read_number(request, "limit", 100, MAX_PAGE, "; `before`, the `id` of the oldest line, has the next")
        before = _read_number(request, "before", LAST_ID, LAST_ID)
        path = self._remedies.context.folder / journal.FILE

        def read_page() -> bytes:
            entries = journal.read_audit_page(path, limit, before)
            return msgspec.json.encode([_encode_audit_entry(number, entry) for number, entry in entries])

        try:
            return msgspec.Raw(await self._audit_rendering.render((limit, before), lambda: read_page))
        except (journal.JournalError, QueryTimeoutError) as error:
            raise DeniedError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error

    async def _pause(self, request: web.Request) -> Any:
        name = await _read_field(request, "name") or "operator"
        self._remedies.pause(name, request[CREDENTIAL])
        return {"paused": name}

    async def _resume(self, request: web.Request) -> Any:
        name = await _read_field(request, "name")
        if not self._remedies.resume(name, request[CREDENTIAL]):
            state = self._remedies.state
            names = ", ".join([*state.pauses, *(latch.remedy for latch in state.latches)]) or "nothing"
            problem = f"nothing named {name!r} is paused or given up" if name else "nothing is paused or given up"
            raise DeniedError(HTTPStatus.NOT_FOUND, f"{problem}; there is: {names}")
        return {"resumed": name or "everything"}

    async def _try_plan(self, request: web.Request) -> Any:
        name = await _read_field(request, "name") or ""
        if name not in self._remedies.catalog:
            names = ", ".join(self._remedies.catalog) or "none"
            raise DeniedError(HTTPStatus.NOT_FOUND, f"no remedy is named {name!r}; there are: {names}")
        try:
            async with asyncio.timeout(PLAN_TIMEOUT):
                event = await self._remedies.dry_run(name)
        except TimeoutError:
            raise DeniedError(HTTPStatus.GATEWAY_TIMEOUT, f"its plan did not end within {PLAN_TIMEOUT:g} s") from None
        return {"outcome": event.kind.value, "says": event.detail, "would_write": event.value, "prior": event.prior}


async def _run_on_loop(prepare: Prepare) -> bytes:
    """Renders on the event loop: there are only as many remedies as the configuration has."""
    return prepare()()


def _read_number(request: web.Request, name: str, default: int, highest: int, hint: str = "") -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 19 and 0 < int(text) <= highest):
        raise DeniedError(HTTPStatus.BAD_REQUEST, f"{name}: expected 1 to {highest}, found {text[:40]!r}{hint}")
    return int(text)


def _encode_audit_entry(number: int, entry: AuditEntry) -> Mapping[str, Any]:
    """Encodes a line of the audit without its resource: the address of a webhook can be a secret."""
    fields = {key: value for key, value in entry._asdict().items() if key != "resource"}
    return {"id": number, **fields, "labels": dict(entry.labels)}


def _wrap_route(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def respond(request: web.Request) -> web.Response:
        try:
            status, body = HTTPStatus.OK, await handler(request)
        except DeniedError as error:
            status, body = error.status, {"error": str(error)}
        return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")

    return respond


async def _read_field(request: web.Request, key: str) -> str | None:
    try:
        fields = msgspec.json.decode(await request.read() or b"{}", type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise DeniedError(HTTPStatus.BAD_REQUEST, f"expected a JSON object of texts: {error}") from error
    if len(fields.get(key, "")) > 64:
        raise DeniedError(HTTPStatus.BAD_REQUEST, f"{key}: expected at most 64 characters")
    return fields.get(key)
