"""A tiny model, and the engine over real loopback HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from engine.checkpoints.tokenizer import ByteTokenizer
from engine.decoder.model import Model
from engine.decoder.weights import Array, ModelConfig, create_seeded_weights
from engine.serving.chat import PlainTemplate
from engine.serving.pace import Pace
from engine.serving.requests import ModelSpec
from engine.serving.scheduler import BatchScheduler
from engine.serving.server import EngineServer, ServedModel

CONTEXT = 128
TOKEN = "a-token"
TINY = ModelConfig(vocab=257, dim=32, layers=2, heads=4, kv_heads=2, head_dim=8, hidden=48)


class Answer(NamedTuple):
    """A response: status, headers and body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Client:
    """Sends requests to one server, each over a new connection."""

    def __init__(self, server: EngineServer, gate: threading.Event | None = None) -> None:
        self.server = server
        self.gate = gate or threading.Event()

    def connect(self) -> http.client.HTTPConnection:
        """Returns a new connection to the server."""
        return http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """Sends one request; returns its response."""
        connection = self.connect()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def complete(self, **fields: Any) -> Answer:
        """Sends POST /v1/completions."""
        return self.ask("POST", "/v1/completions", json.dumps(fields).encode())

    def read_metric(self, name: str) -> float:
        """Reads one unlabelled value of /metrics."""
        lines = self.ask("GET", "/metrics").body.decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"steadytok_reference_{name} "))


class SlowModel(Model):
    """A model whose passes take at least 5 ms, and wait while the gate is closed."""

    def __init__(self, gate: threading.Event, slots: int = 1) -> None:
        super().__init__(create_seeded_weights(TINY, seed=7), CONTEXT, slots)
        self.gate = gate

    def decode(self, tokens: Sequence[int], slots: Sequence[int], positions: Sequence[int]) -> Array:
        """Decodes once the gate is open."""
        time.sleep(0.005)
        self.gate.wait(20)
        return super().decode(tokens, slots, positions)


def wait_patiently(condition: Callable[[], bool], timeout: float = 20.0) -> None:
    """Returns when the condition holds; fails after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.005)


@pytest.fixture(name="model")
def _model() -> Model:
    return Model(create_seeded_weights(TINY, seed=7), CONTEXT)


def start_server(model: Model, token: str | None) -> EngineServer:
    """Starts a server on a free port."""
    batch = BatchScheduler(model, Pace(time.monotonic), time.monotonic)
    spec = ModelSpec(CONTEXT, TINY.vocab, ByteTokenizer(), PlainTemplate())
    server = EngineServer(("127.0.0.1", 0), ServedModel("tiny", batch, spec, threads=1, sgemv=1e9), token)
    batch.start()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def stop_server(server: EngineServer) -> None:
    """Stops the server and its requests."""
    server.served_model.scheduler.stop(timeout=10)
    server.shutdown()
    server.server_close()


@pytest.fixture(name="client")
def _client(model: Model) -> Iterator[Client]:
    server = start_server(model, TOKEN)
    yield Client(server)
    stop_server(server)


@pytest.fixture(name="slow_client")
def _slow_client() -> Iterator[Client]:
    yield from run_slow_client(slots=1)


@pytest.fixture(name="slow_client_of_3")
def _slow_client_of_3() -> Iterator[Client]:
    yield from run_slow_client(slots=3)


def run_slow_client(slots: int) -> Iterator[Client]:
    """Yields a client of a server whose passes wait for the gate."""
    gate = threading.Event()
    gate.set()
    server = start_server(SlowModel(gate, slots), TOKEN)
    yield Client(server, gate)
    gate.set()
    stop_server(server)


@pytest.fixture(name="wait_until")
def _wait_until() -> Callable[[Callable[[], bool]], None]:
    return wait_patiently


@pytest.fixture(name="client_without_token")
def _client_without_token(model: Model) -> Iterator[Client]:
    server = start_server(model, None)
    yield Client(server)
    stop_server(server)
