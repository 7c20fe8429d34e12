"""
Names what an engine can answer to the request for its metrics, and what an operator does about each answer.

A living engine that gives no metrics is not down: llama.cpp answers 501 without --metrics, 401 under --api-key and 503
while it loads its model (https://github.com/ggml-org/llama.cpp/pull/28915).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from collectors._engine.exposition import BodyKind, classify_body


class Answer(NamedTuple):
    """Whether the engine lives, and what the operator does to get its metrics."""

    alive: bool
    advice: str


ANSWERS: Mapping[str, Answer] = {
    "metrics": Answer(True, ""),
    "empty": Answer(True, "has no metrics yet; send it a request"),
    "foreign": Answer(
        True,
        "has metrics, but none of its kind; see kind and url under engines:, and that the engine's statistics are on "
        "(vLLM without --disable-log-stats)",
    ),
    "key_required": Answer(True, "wants a key for its metrics; name a file with it: api_key_file under engines:"),
    "bad_request": Answer(
        True, "refuses the request; llama.cpp's router needs the model in the url: http://HOST:PORT/metrics?model=NAME"
    ),
    "not_served": Answer(
        True,
        "does not serve metrics at this address; start llama.cpp with --metrics and SGLang with --enable-metrics, or "
        "correct the path of its url under engines:",
    ),
    "loading": Answer(True, "loads its model"),
    "redirected": Answer(True, "sends the request elsewhere; name the address of its metrics as url under engines:"),
    "compressed": Answer(
        True, "compresses its metrics although asked not to; see the proxy in front of it, or name the engine's own url"
    ),
    "untrusted": Answer(
        True,
        "has a certificate that this host does not trust; add its authority to the host's, as the system's own package "
        "ca-certificates does, or use a name in url that the certificate has",
    ),
    "error": Answer(True, "fails to give its metrics; see its log"),
    "unreachable": Answer(False, "does not answer the gateway in front of it; see whether its process lives"),
    "not_metrics": Answer(False, "answers with something other than metrics; correct its url under engines:"),
    "none": Answer(False, "does not answer; see whether its process lives, and its url under engines:"),
}
"""By the value of the label `answer`."""

_BY_STATUS: Mapping[int, str] = {
    400: "bad_request",
    401: "key_required",
    403: "key_required",
    404: "not_served",
    405: "not_served",
    410: "not_served",
    501: "not_served",
    502: "unreachable",
    503: "unreachable",
    504: "unreachable",
}


_BY_BODY: Mapping[BodyKind, str] = {
    BodyKind.SAMPLES: "foreign",
    BodyKind.EMPTY: "empty",
    BodyKind.OTHER: "not_metrics",
}


def classify_answer(status: int, text: str, fault: str) -> str:
    """Returns what an answer without any of the engine's metrics stands for; `fault` is why it could not be used."""
    if fault:
        return fault
    if status == 200:
        return _BY_BODY[classify_body(text)]
    if 300 <= status < 400:
        return "redirected"
    if status == 503 and "loading" in text.lower():  # llama.cpp: {"message":"Loading model"}
        return "loading"
    return _BY_STATUS.get(status, "error")
