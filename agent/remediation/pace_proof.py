"""
Sends a request to an engine with the proof that the agent knows the pace token, and never the token itself.

Whoever binds an engine's port gets what is sent there. So the request is signed, and the answer counts only with the
engine's own signature. `engine/serving/pace_proof.py` is the other side. https://www.rfc-editor.org/rfc/rfc2104
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import urllib.parse

from agent.actions import FailedError
from agent.text.units import url_origin
from collectors import HttpAnswer, request_http

SCHEME = "Steadytok-HMAC-SHA256"
ANSWER_HEADER = "steadytok-proof"


def request_with_proof(method: str, url: str, body: bytes, token: str, *, timeout: float, limit: int) -> HttpAnswer:
    """
    Returns the answer, of any status. Raises FailedError where success is claimed by somebody without the token.

    Raises OSError, or ValueError for a URL, as `request_http` does.
    """
    key, sent_at, nonce = token.encode(), str(int(time.time())), secrets.token_hex(16)
    route = "/" + urllib.parse.urlsplit(url).path.rpartition("/")[2]  # a proxy may have taken a prefix away
    mac = _sign(key, "request", method, route, sent_at, nonce, body)
    headers = {
        "Authorization": f"{SCHEME} time={sent_at}, nonce={nonce}, mac={mac}",
        "Content-Type": "application/json",
    }
    answer = request_http(method, url, body=body, headers=headers, timeout=timeout, limit=limit, cut=True)
    expected = _sign(key, "answer", str(answer.status), nonce, answer.body)
    given_proof = answer.headers.get(ANSWER_HEADER, "").encode("latin-1", "replace")
    if answer.status // 100 == 2 and not hmac.compare_digest(given_proof, expected.encode()):
        raise FailedError(
            f"{url_origin(url)}: the answer has no proof of the pace token: another program has the engine's port, or "
            "the engine is none of steadytok's and needs its own credential (token_file)"
        )
    return answer


def _sign(key: bytes, *parts: str | bytes) -> str:
    encoded = (part if isinstance(part, bytes) else part.encode("utf-8", "replace") for part in parts)
    return hmac.new(key, b"\n".join(encoded), hashlib.sha256).hexdigest()
