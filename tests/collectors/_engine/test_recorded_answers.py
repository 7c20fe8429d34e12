"""Answers of real engines with the head that each sent: the status line and the headers are bytes of a recording."""

from __future__ import annotations

import contextlib
import re
import socketserver
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from collectors import Host, Reading, engine
from tests.answering import run_server

Series = Callable[[Iterable[Reading]], dict[str, float]]

RECORDED = Path(__file__).parent / "recorded"
LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
COLD_LLAMA = RECORDED / "llama.cpp-b11434-cold.prom"  # b11549 answers with the same bytes
# The body of each head, its kind, its answer, and the running requests.
EXPECTED: dict[str, tuple[bytes, str, str, float | None]] = {
    "llama.cpp-b11434-loading": (LOADING, "llama.cpp", "loading", None),
    "llama.cpp-b11549-cold": (COLD_LLAMA.read_bytes(), "llama.cpp", "metrics", 0),
    "sglang-0.5.23-cold": ((RECORDED / "sglang-0.5.23-cold.prom").read_bytes(), "sglang", "metrics", 0),
    "vllm-0.32.0-cold": ((RECORDED / "vllm-0.32.0-cold.prom").read_bytes(), "vllm", "metrics", 0),
}


def _build_answer(name: str) -> bytes:
    """Returns the head as it was recorded and the body behind it, as long or in chunks, as the head says."""
    head, body = (RECORDED / f"{name}.headers").read_bytes(), EXPECTED[name][0]
    if b"chunked" in head:
        half = len(body) // 2
        chunks = (body[:half], body[half:], b"")
        return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return re.sub(rb"(?i)(content-length: )\d+", rb"\g<1>%d" % len(body), head) + body


@contextlib.contextmanager
def _serve(answer: bytes) -> Iterator[str]:
    class Peer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            self.wfile.write(answer)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Peer)
    with run_server(server):
        yield f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_recorded_head_is_understood(
    monkeypatch: pytest.MonkeyPatch, series: Series, name: str, is_named: bool
) -> None:
    """Empty headers, chunks, `version=1.0.0` and 503 with JSON: the answer is that of the engine, which lives."""
    for timeout in ("_TOTAL_TIMEOUT", "_READ_TIMEOUT"):  # a busy test machine makes none of its answers late
        monkeypatch.setattr(engine, timeout, 30.0)
    _, kind, answer, running = EXPECTED[name]
    kind = kind if is_named or answer == "metrics" else "auto"
    with _serve(_build_answer(name)) as url:
        target = engine.EngineEndpoint(name="e", url=url, kind=kind if is_named else "auto")  # type: ignore[arg-type]  # plain words
        values = series(engine.collect(Host("/"), engine.Config(engines=(target,))))

    assert values[f'steadytok_engine_up{{engine="e",kind="{kind}"}}'] == 1
    assert values[f'steadytok_engine_answer_info{{answer="{answer}",engine="e"}}'] == 1
    assert values.get('steadytok_engine_requests_running{engine="e"}') == running


def test_every_recorded_head_is_used() -> None:
    """No head lies there without a test."""
    assert {path.stem for path in RECORDED.glob("*.headers")} == EXPECTED.keys()
