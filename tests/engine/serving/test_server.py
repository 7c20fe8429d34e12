"""The engine over real loopback HTTP."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

# Classes of conftest; tests are not packages, so they cannot be named here.
Client = Any
Answer = Any


def parse_events(body: bytes) -> list[str]:
    """Returns the data of each server-sent event."""
    return [line.removeprefix("data: ") for line in body.decode().split("\n\n") if line]


def test_completion_has_openai_shape(client: Client) -> None:
    """A completion has its text, finish reason and usage."""
    answer = client.complete(prompt="tokens", max_tokens=5, temperature=0)
    fields = answer.json()

    assert answer.status == 200
    assert fields["object"] == "text_completion"
    assert fields["model"] == "tiny"
    assert fields["choices"][0]["finish_reason"] == "length"
    assert fields["usage"] == {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def test_stream_equals_whole(client: Client) -> None:
    """The events of a stream add up to the text of the same request in one piece."""
    request: dict[str, Any] = {"prompt": "é", "max_tokens": 20, "temperature": 0.9, "seed": 3}
    text = client.complete(**request).json()["choices"][0]["text"]
    answer = client.complete(**request, stream=True, stream_options={"include_usage": True})
    *pieces, usage, done = parse_events(answer.body)
    choices = [json.loads(piece)["choices"][0] for piece in pieces]

    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert "".join(choice["text"] for choice in choices) == text
    assert [choice["finish_reason"] for choice in choices] == [None] * 19 + ["length"]
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"]["completion_tokens"] == 20
    assert done == "[DONE]"


def test_stream_without_usage(client: Client) -> None:
    """Usage is streamed only if requested."""
    answer = client.complete(prompt="a", max_tokens=2, stream=True)

    assert [event == "[DONE]" for event in parse_events(answer.body)] == [False, False, True]


def test_seed_repeats(client: Client) -> None:
    """The same seed, also a negative one, gives the same text."""
    texts = [client.complete(prompt="a", max_tokens=30, seed=-5).json()["choices"][0]["text"] for _ in range(2)]

    assert texts[0] == texts[1]


WRONG_COMPLETIONS: list[tuple[bytes, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b"\xff\xfe", "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"prompt": "a", "temperature": NaN}', "NaN is not a JSON number"),
    (b"[]", "must be a JSON object"),
    (b"{}", "prompt must be a string"),
    (b'{"prompt": null}', "prompt must be a string"),
    (b'{"prompt": ["a", "b"]}', "one prompt per request"),
    (b'{"prompt": []}', "prompt must be a string"),
    (b'{"prompt": [[]]}', "prompt must be a string"),
    (b'{"prompt": [1, true]}', "prompt must be a string"),
    (b'{"prompt": [257]}', "tokens go from 0 to 256"),
    (b'{"prompt": [-1]}', "tokens go from 0 to 256"),
    (b'{"prompt": "\\ud800"}', "half of a surrogate pair"),
    (b'{"prompt": "a", "max_tokens": "5"}', "max_tokens must be a whole number from 1 to 128"),
    (b'{"prompt": "a", "max_tokens": 0}', "max_tokens must be a whole number"),
    (b'{"prompt": "a", "max_tokens": -1}', "max_tokens must be a whole number"),
    (b'{"prompt": "a", "max_tokens": true}', "max_tokens must be a whole number"),
    (b'{"prompt": "a", "max_tokens": 1.5}', "max_tokens must be a whole number"),
    (b'{"prompt": "a", "max_tokens": 1' + b"0" * 5000 + b"}", "not JSON"),
    (b'{"prompt": "a", "max_tokens": 127}', "together 129: the context of this engine is 128 tokens"),
    (b'{"prompt": "' + b"a" * 128 + b'", "max_tokens": 1}', "The prompt has 129 tokens"),
    (b'{"prompt": "a", "temperature": -0.1}', "temperature must be a number from 0 to 2"),
    (b'{"prompt": "a", "temperature": 1e999}', "temperature must be a number"),
    (b'{"prompt": "a", "temperature": "hot"}', "temperature must be a number"),
    (b'{"prompt": "a", "seed": 1.0}', "seed must be a whole number"),
    (b'{"prompt": "a", "seed": 9223372036854775808}', "seed must be a whole number"),
    (b'{"prompt": "a", "stream": 1}', "stream must be true or false"),
    (b'{"prompt": "a", "stream_options": {"x": 1}}', "stream_options has 'x'"),
    (b'{"prompt": "a", "stream_options": []}', "stream_options must be"),
    (b'{"prompt": "a", "n": 2}', "n is not supported"),
    (b'{"prompt": "a", "top_p": 1.1}', "top_p must be a number from 0 to 1"),
    (b'{"prompt": "a", "stop": 1}', "stop must be a string or a list of at most 4 strings"),
    (b'{"prompt": "a", "stop": ["a", "b", "c", "d", "e"]}', "stop must be a string or a list of at most 4 strings"),
    (b'{"prompt": "a", "stop": ""}', "must have from 1 to 256 characters"),
    (b'{"prompt": "a", "stop": ["' + b"a" * 257 + b'"]}', "must have from 1 to 256 characters"),
    (b'{"prompt": "a", "model": 1}', "model must be a string"),
    (b'{"prompt": "a", "maxtokens": 5}', "Unknown field 'maxtokens'"),
]


@pytest.mark.parametrize(("body", "sentence"), WRONG_COMPLETIONS)
def test_wrong_completion_is_refused(client: Client, body: bytes, sentence: str) -> None:
    """Wrong input is a 400 with a sentence, nothing is generated, and the engine survives."""
    answer = client.ask("POST", "/v1/completions", body)

    assert answer.status == 400
    assert sentence in answer.json()["error"]["message"]
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert client.read_metric("generated_tokens_total") == 0
    assert client.ask("GET", "/healthz").status == 200


def test_neutral_fields_are_taken(client: Client) -> None:
    """Neutral values that clients send by habit, and null, are accepted."""
    answer = client.complete(
        prompt="a", max_tokens=1, n=1, top_p=1.0, echo=False, seed=None, model="any", ignore_eos=True, user="me"
    )

    assert answer.status == 200


def test_context_can_be_filled(client: Client) -> None:
    """Prompt and answer may fill the context to the last token."""
    answer = client.complete(prompt="a" * 99, max_tokens=28)

    assert answer.json()["usage"]["total_tokens"] == 128


@pytest.mark.parametrize("size", [(1 << 20) + 1, 10 << 20])
def test_too_large_a_body_is_refused(client: Client, size: int) -> None:
    """A body over 1 MiB is a 413 that the client can read."""
    answer = client.ask("POST", "/v1/completions", b" " * size)

    assert answer.status == 413
    assert f"{size} bytes: at most 1048576" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1_0\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
        (b"BREW /healthz HTTP/1.1\r\n\r\n", b"501"),
        (b"GET /healthz HTTP/9.9\r\n\r\n", b"505"),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET /healthz HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
    ],
)
def test_broken_http_is_refused(client: Client, request_text: bytes, status: bytes) -> None:
    """A malformed request gets its status, a sentence, and a closed connection."""
    with socket.create_connection(("127.0.0.1", client.server.server_port), timeout=10) as raw:
        raw.sendall(request_text)
        raw.shutdown(socket.SHUT_WR)
        answer = b""
        while part := raw.recv(1 << 16):
            answer += part

    assert status in answer.split(b"\r\n", 1)[0]
    assert b'"message": "' in answer
    assert client.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/embeddings", 404),
        ("GET", "/pace", 405),
        ("POST", "/metrics", 405),
    ],
)
def test_wrong_door(client: Client, method: str, path: str, status: int) -> None:
    """An unknown path is a 404 and a wrong method a 405, each with the alternatives."""
    answer = client.ask(method, path)

    assert answer.status == status
    assert "error" in answer.json()


def test_connection_is_kept(client: Client) -> None:
    """A connection stays open for many requests, also refused ones."""
    connection = client.connect()
    statuses = []
    for path, body in [
        ("/v1/completions", b'{"prompt": "a", "max_tokens": 1}'),
        ("/v1/completions", b"{"),
        ("/x", b""),
    ]:
        connection.request("POST", path, body)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
        assert connection.sock is not None
    connection.close()

    assert statuses == [200, 400, 404]


def test_metrics_parse_and_count(client: Client, wait_until: Any) -> None:
    """Every metric appears once, and the token counters equal the usage of the response."""
    usage = client.complete(prompt="tokens", max_tokens=9).json()["usage"]
    wait_until(lambda: client.read_metric("requests_running") == 0)  # an answer arrives a moment before its turn ends
    answer = client.ask("GET", "/metrics")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
    prefix = "steadytok_reference_"

    assert {name.removeprefix(prefix): family.type for name, family in families.items()} == {
        "generated_tokens": "counter",
        "decode_seconds": "counter",
        "decode_passes": "counter",
        "phase_seconds": "counter",
        "requests": "counter",
        "time_to_first_token_seconds": "histogram",
        "inter_token_latency_seconds": "histogram",
        "request_seconds": "histogram",
        "streamed_bytes": "counter",
        "streamed_bytes_per_token": "gauge",
        "sgemv_bytes_per_second": "gauge",
        "bandwidth_efficiency_ratio": "gauge",
        "slots": "gauge",
        "prompt_tokens": "counter",
        "prompt_seconds": "counter",
        "requests_running": "gauge",
        "requests_waiting": "gauge",
        "kv_cache_usage_ratio": "gauge",
        "duty": "gauge",
        "weights_bytes": "gauge",
        "cpu_seconds": "counter",
        "resident_bytes": "gauge",
        "info": "gauge",
    }
    assert client.read_metric("generated_tokens_total") == usage["completion_tokens"] == 9
    assert client.read_metric("prompt_tokens_total") == usage["prompt_tokens"] - 1
    assert client.read_metric("decode_seconds_total") > 0
    assert client.read_metric("duty") == 1
    assert client.read_metric("kv_cache_usage_ratio") == 0
    assert families[prefix + "info"].samples[0].labels == {"model": "tiny", "context": "128", "threads": "1"}


def put_pace(client: Client, body: bytes, token: str | None = "a-token") -> Answer:
    """Sends PUT /pace."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return client.ask("PUT", "/pace", body, **headers)


@pytest.mark.parametrize(
    ("body", "ttl"),
    [(b'{"duty": 0.5, "ttl": "30s"}', 30), (b'{"duty": 0.5, "ttl": 90}', 90), (b'{"duty": 0.5}', 30)],
)
def test_pace_is_set(client: Client, body: bytes, ttl: float) -> None:
    """PUT /pace sets the duty and returns its ttl."""
    answer = put_pace(client, body)

    assert answer.status == 200
    assert answer.json() == {"duty": 0.5, "ttl": ttl}
    assert client.read_metric("duty") == 0.5


def test_pace_lease_ends(client: Client, wait_until: Any) -> None:
    """Without renewal the duty is 1 again after the ttl."""
    put_pace(client, b'{"duty": 0.1, "ttl": "50ms"}')

    wait_until(lambda: client.read_metric("duty") == 1)


@pytest.mark.parametrize("token", [None, "", "wrong", "a-token ", "a-tokené"])
def test_pace_needs_the_token(client: Client, token: str | None) -> None:
    """Without the right token PUT /pace is a 401 and changes nothing."""
    answer = put_pace(client, b'{"duty": 0.5}', token if token is None else token.encode().decode("latin-1"))

    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert client.read_metric("duty") == 1


def test_pace_without_configured_token(client_without_token: Client) -> None:
    """An engine without a token refuses every PUT /pace."""
    answer = put_pace(client_without_token, b'{"duty": 0.5}', "None")

    assert answer.status == 403
    assert "started without a token" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"{", "not JSON"),
        (b"{}", "duty is missing"),
        (b'{"duty": 0.09}', "duty must be a number from 0.1 to 1"),
        (b'{"duty": 1.01}', "duty must be a number"),
        (b'{"duty": "0.5"}', "duty must be a number"),
        (b'{"duty": true}', "duty must be a number"),
        (b'{"duty": 0.5, "ttl": 0}', "ttl must be"),
        (b'{"duty": 0.5, "ttl": -1}', "ttl must be"),
        (b'{"duty": 0.5, "ttl": 3601}', "ttl must be"),
        (b'{"duty": 0.5, "ttl": "2h"}', "ttl must be"),
        (b'{"duty": 0.5, "ttl": "30"}', "ttl must be"),
        (b'{"duty": 0.5, "ttl": "soon"}', "ttl must be"),
        (b'{"duty": 0.5, "ttl": [30]}', "ttl must be"),
        (b'{"duty": 0.5, "until": 30}', "Unknown field 'until'"),
    ],
)
def test_wrong_pace_is_refused(client: Client, body: bytes, sentence: str) -> None:
    """A wrong lease is a 400 with a sentence and changes nothing."""
    answer = put_pace(client, body)

    assert answer.status == 400
    assert sentence in answer.json()["error"]["message"]
    assert client.read_metric("duty") == 1
