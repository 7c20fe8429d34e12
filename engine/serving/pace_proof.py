"""
Who may set the pace: a client that shows the engine's token, or that proves to know it without sending it.

Whoever binds an engine's port gets what is sent there, so the agent never sends the token. It signs each request
(HMAC-SHA256) with the time and a number that is used once, and the answer is signed in turn: a stranger on the port
learns nothing, and cannot pretend that an engine is paced. https://www.rfc-editor.org/rfc/rfc2104
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable

from engine.serving.json_fields import HttpError

SCHEME = "Steadytok-HMAC-SHA256"
ANSWER_HEADER = "Steadytok-Proof"
MAX_CLOCK_DIFFERENCE = 60.0  # seconds between the clocks of agent and engine; a request older than this is refused
_CREDENTIAL = re.compile(rf"{SCHEME} time=(\d{{1,12}}), nonce=([0-9a-f]{{32}}), mac=([0-9a-f]{{64}})")


class PaceToken:
    """The engine's token, which authorizes PUT /pace."""

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._key = token.encode()
        self._clock = clock
        self._used: dict[str, float] = {}  # the numbers of accepted requests, with their times
        self._lock = threading.Lock()

    def check(self, authorization: str, method: str, path: str, body: bytes) -> str | None:
        """Returns the number of a signed request, None for a bearer token; raises HttpError without permission."""
        match = _CREDENTIAL.fullmatch(authorization)
        if match is None:
            credential = authorization.encode("latin-1", "replace")
            if not hmac.compare_digest(credential, b"Bearer " + self._key):
                raise HttpError(401, "The pace is set with Authorization: Bearer and the engine's token.")
            return None
        sent_at, nonce, mac = match.groups()
        if not hmac.compare_digest(mac, self._sign("request", method, path, sent_at, nonce, body)):
            raise HttpError(401, "The request is signed with another token than this engine's (--token-file).")
        self._use_once(nonce, float(sent_at))
        return nonce

    def sign_request(self, method: str, path: str, body: bytes) -> str:
        """Returns the Authorization header of a request to an engine with the same token."""
        sent_at, nonce = str(int(self._clock())), secrets.token_hex(16)
        mac = self._sign("request", method, path, sent_at, nonce, body)
        return f"{SCHEME} time={sent_at}, nonce={nonce}, mac={mac}"

    def sign_answer(self, nonce: str, status: int, body: bytes) -> str:
        """Returns the proof that this engine, which knows the token, gave the answer to that request."""
        return self._sign("answer", str(status), nonce, body)

    def _sign(self, *parts: str | bytes) -> str:
        encoded = (part if isinstance(part, bytes) else part.encode("utf-8", "replace") for part in parts)
        return hmac.new(self._key, b"\n".join(encoded), hashlib.sha256).hexdigest()

    def _use_once(self, nonce: str, sent_at: float) -> None:
        now = self._clock()
        if abs(now - sent_at) > MAX_CLOCK_DIFFERENCE:
            difference = f"{abs(now - sent_at):.0f} s"
            raise HttpError(401, f"The request is signed for another time: the clocks differ by {difference}.")
        with self._lock:
            self._used = {used: at for used, at in self._used.items() if now - at <= MAX_CLOCK_DIFFERENCE}
            if nonce in self._used:
                raise HttpError(401, "The request has been sent before: each is signed anew.")
            self._used[nonce] = max(now, sent_at)
