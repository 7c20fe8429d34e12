"""What `steadytok remedies` and the page ask of the running agent: anybody may read, the token's holder may change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from agent.remediation import journal
from agent.remediation.catalog import Bound
from agent.remediation.guards import HOUR_MS
from agent.remediation.model import HOST, Entry, Phase
from agent.remediation.remediator import Remedies
from agent.web.access import CREDENTIAL

PATH = "/api/v1/remedies"
PATIENCE = 30.0  # seconds for a plan that is only tried

Answer = Callable[[web.Request], Awaitable[Any]]


class DeniedError(Exception):
    """The request is not carried out; the message says why."""

    def __init__(self, status: HTTPStatus, says: str) -> None:
        super().__init__(says)
        self.status = status


class Door:
    """The endpoints below /api/v1/remedies."""

    def __init__(self, remedies: Remedies, now_ms: Callable[[], int]) -> None:
        self._remedies = remedies
        self._now_ms = now_ms

    def routes(self) -> list[web.RouteDef]:
        """Every endpoint; what changes something, or makes an action look at the machine, wants the token."""
        return [
            web.get(PATH, _answering(self._list)),
            web.get(f"{PATH}/audit", _answering(self._audit)),
            web.post(f"{PATH}/pause", self._admitting(self._pause)),
            web.post(f"{PATH}/resume", self._admitting(self._resume)),
            web.post(f"{PATH}/try", self._admitting(self._try)),
        ]

    def _admitting(self, answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def admitted(request: web.Request) -> Any:
            self._admit(request)
            return await answer(request)

        return _answering(admitted)

    def _admit(self, request: web.Request) -> None:
        # The door has looked at it; a server without a door changes nothing.
        if CREDENTIAL not in request:
            raise DeniedError(HTTPStatus.UNAUTHORIZED, "expected a credential, such as the token of the state folder")

    async def _list(self, request: web.Request) -> Any:
        remedies = self._remedies
        return {
            "mode": remedies.settings.mode,
            "halted": remedies.halted,
            "killed": remedies.killed,
            "pauses": remedies.state.pauses,
            "latches": [latch for latch in remedies.state.latches if latch.remedy == HOST],
            "remedies": [self._shown(bound) for bound in remedies.book.values()],
        }

    def _shown(self, bound: Bound) -> Mapping[str, Any]:
        state, name = self._remedies.state, bound.remedy.name
        since = max(self._now_ms() - HOUR_MS, state.resumed_ms.get(name, 0))
        mine = [one for one in state.attempts if one.remedy == name and one.counted and one.began_ms > since]
        held = [act for act in state.acts if any(claim.remedy == name for claim in act.claims)]
        latch = next((latch for latch in state.latches if latch.remedy == name), None)
        last = max((one.began_ms for one in state.attempts if one.remedy == name), default=None)
        word = (
            "given up"
            if latch
            else held[0].phase.value
            if held
            else "disabled"
            if not bound.remedy.enabled
            else "ready"
        )
        return {
            "name": name,
            "action": bound.settings.action,
            "does": bound.action.describe(bound.task),
            "reversible": bound.remedy.reversible,
            "match": bound.settings.match,
            "state": "observed" if held and held[0].observed and held[0].phase is Phase.HELD else word,
            "why": latch.why if latch else "",
            "left": max(0, bound.remedy.max_per_hour - len(mine)),
            "last_ms": last,
            "effect": state.effects.get(name, ""),
            "now": sorted(memory.says for act, memory in self._remedies.steered() if act in held),
            "waiting": sorted({each.told for each in state.sessions if each.remedy == name and each.told}),
        }

    async def _audit(self, request: web.Request) -> Any:
        text = request.query.get("limit", "100")
        if not (text.isascii() and text.isdecimal() and 0 < int(text) <= journal.MOST_ENTRIES):
            raise DeniedError(
                HTTPStatus.BAD_REQUEST, f"limit: expected 1 to {journal.MOST_ENTRIES}, found {text[:40]!r}"
            )
        try:
            return [_told(entry) for entry in journal.audit(self._remedies.around.folder / journal.FILE, int(text))]
        except journal.JournalError as error:
            raise DeniedError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error

    async def _pause(self, request: web.Request) -> Any:
        name = await _text(request, "name") or "operator"
        self._remedies.pause(name, request[CREDENTIAL])
        return {"paused": name}

    async def _resume(self, request: web.Request) -> Any:
        name = await _text(request, "name")
        if not self._remedies.resume(name, request[CREDENTIAL]):
            state = self._remedies.state
            there = ", ".join([*state.pauses, *(latch.remedy for latch in state.latches)]) or "nothing"
            asked = f"nothing named {name!r} is paused or given up" if name else "nothing is paused or given up"
            raise DeniedError(HTTPStatus.NOT_FOUND, f"{asked}; there is: {there}")
        return {"resumed": name or "everything"}

    async def _try(self, request: web.Request) -> Any:
        name = await _text(request, "name") or ""
        if name not in self._remedies.book:
            there = ", ".join(self._remedies.book) or "none"
            raise DeniedError(HTTPStatus.NOT_FOUND, f"no remedy is named {name!r}; there are: {there}")
        try:
            async with asyncio.timeout(PATIENCE):
                event = await self._remedies.tried(name)
        except TimeoutError:
            raise DeniedError(HTTPStatus.GATEWAY_TIMEOUT, f"its plan did not end within {PATIENCE:g} s") from None
        return {"outcome": event.kind.value, "says": event.says, "would_write": event.value, "prior": event.prior}


def _told(entry: Entry) -> Mapping[str, Any]:
    """A line of the audit for whoever reads, less what it acts upon: the address of a webhook can be a secret."""
    kept = {key: value for key, value in entry._asdict().items() if key != "resource"}
    return {**kept, "labels": dict(entry.labels)}


def _answering(answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def respond(request: web.Request) -> web.Response:
        try:
            status, body = HTTPStatus.OK, await answer(request)
        except DeniedError as error:
            status, body = error.status, {"error": str(error)}
        return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")

    return respond


async def _text(request: web.Request, key: str) -> str | None:
    try:
        told = msgspec.json.decode(await request.read() or b"{}", type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise DeniedError(HTTPStatus.BAD_REQUEST, f"expected a JSON object of texts: {error}") from error
    if len(told.get(key, "")) > 64:
        raise DeniedError(HTTPStatus.BAD_REQUEST, f"{key}: expected at most 64 characters")
    return told.get(key)
