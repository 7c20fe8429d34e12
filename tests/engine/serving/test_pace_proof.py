"""PUT /pace is open to the token and to a signature made with it, and the answer is signed in turn."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.serving.json_fields import HttpError
from engine.serving.pace_proof import ANSWER_HEADER, MAX_CLOCK_DIFFERENCE, PaceToken
from tests.engine.conftest import TOKEN

Client = Any
BODY = json.dumps({"duty": 0.5, "ttl": "30s"}).encode()


def sign(**changes: Any) -> str:
    """Signs PUT /pace as the agent does, with one part changed."""
    now = changes.pop("now", 1e9)
    token = PaceToken(changes.pop("token", TOKEN), lambda: now)
    return token.sign_request(**{"method": "PUT", "path": "/pace", "body": BODY, **changes})


def check(authorization: str, token: PaceToken | None = None) -> str | None:
    """Checks the credential of PUT /pace at the time at which `sign` signs."""
    return (token or PaceToken(TOKEN, lambda: 1e9)).check(authorization, "PUT", "/pace", BODY)


def test_a_signed_request_sets_the_pace_and_its_answer_is_signed(client: Client) -> None:
    """The token itself is in neither direction on the wire."""
    token = PaceToken(TOKEN)
    authorization = token.sign_request("PUT", "/pace", BODY)
    answer = client.ask("PUT", "/pace", BODY, Authorization=authorization)
    nonce = authorization.partition("nonce=")[2][:32]

    assert answer.status == 200
    assert answer.headers[ANSWER_HEADER] == token.sign_answer(nonce, 200, answer.body)
    assert client.read_metric("duty") == 0.5
    assert TOKEN not in authorization


@pytest.mark.parametrize(
    "changes",
    [{"token": "another"}, {"method": "POST"}, {"path": "/v1/models"}, {"body": b'{"duty": 0.1}'}],
)
def test_a_signature_of_another_request_is_refused(changes: dict[str, Any]) -> None:
    """Method, path and body are signed, so that who sees one request can make no other of it."""
    with pytest.raises(HttpError, match="signed with another token"):
        check(sign(**changes))


@pytest.mark.parametrize("seconds", [MAX_CLOCK_DIFFERENCE + 1, -MAX_CLOCK_DIFFERENCE - 1])
def test_an_old_request_is_refused(seconds: float) -> None:
    """A request of another time is refused, and the sentence has the difference of the clocks."""
    with pytest.raises(HttpError, match="the clocks differ by 61 s"):
        check(sign(now=1e9 + seconds))


def test_a_request_counts_once() -> None:
    """A stranger who has seen a request cannot repeat it."""
    token, authorization = PaceToken(TOKEN, lambda: 1e9), sign()

    assert check(authorization, token)
    with pytest.raises(HttpError, match="has been sent before"):
        check(authorization, token)
    assert check(sign(), token)


@pytest.mark.parametrize("authorization", ["", "Bearer", "Bearer ", f"Basic {TOKEN}", "Bearer \N{SNOWMAN}", TOKEN])
def test_whatever_is_no_credential_is_refused(authorization: str) -> None:
    """Only the whole token is one."""
    with pytest.raises(HttpError, match="Authorization: Bearer and the engine's token"):
        check(authorization)


def test_the_token_itself_still_counts() -> None:
    """A gateway or curl shows it as a bearer token; such an answer needs no proof."""
    assert check(f"Bearer {TOKEN}") is None
