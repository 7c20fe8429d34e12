"""Several workers behind one router: real processes on loopback, on the nodes of this host."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.serving.http_connection import MAX_CONNECTIONS, HttpConnection, HttpListener
from engine.serving.json_fields import HttpError
from engine.serving.router import Router
from engine.serving.shutdown import GracePeriod
from engine.serving.workers import Worker, Workers
from tests.engine.busy_connections import keep_connections_busy

ROOT = Path(__file__).parents[3]
TOKEN = "a-token"
ARGUMENTS = ("--size", "1MiB", "--context", "512", "--slots", "1", "--nice", "0")
LONG_ARGUMENTS = (*ARGUMENTS, "--context", "4096")  # context for an answer that takes seconds at duty 0.1
Wait = Callable[[Callable[[], bool]], None]


class TwoWorkers(NamedTuple):
    """Two workers, their router, and its log messages."""

    router: Router
    messages: list[str]

    @property
    def workers(self) -> list[Worker]:
        """The two workers."""
        return self.router.workers.all

    def connect(self) -> http.client.HTTPConnection:
        """Returns a new connection to the router."""
        return http.client.HTTPConnection("127.0.0.1", self.router.server_port, timeout=20)

    def ask(self, method: str, path: str, fields: Any = None, **headers: str) -> tuple[int, bytes]:
        """Sends one request; returns status and body."""
        connection = self.connect()
        try:
            body = b"" if fields is None else json.dumps(fields).encode()
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def read_metric(self, name: str, worker: str) -> float:
        """Reads one value of a worker in the router's /metrics; NaN if it is missing."""
        lines = self.ask("GET", "/metrics")[1].decode().splitlines()
        start = f'steadytok_reference_{name}{{worker="{worker}"}} '
        return next((float(line.split()[1]) for line in lines if line.startswith(start)), float("nan"))


@pytest.fixture(name="both")
def _both(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoWorkers]:
    monkeypatch.setenv("STEADYTOK_ENGINE_TOKEN", TOKEN)
    messages: list[str] = []
    workers = Workers({"0": ARGUMENTS, "1": ARGUMENTS}, messages.append)
    router = Router(("127.0.0.1", 0), workers, TOKEN)
    try:
        workers.start(router.restore_lease)
        threading.Thread(target=router.serve_forever, args=(0.01,), daemon=True).start()
        yield TwoWorkers(router, messages)
    finally:
        workers.stop(GracePeriod(0.0))
        router.shutdown()
        router.server_close()


def test_requests_go_to_who_has_fewest(both: TwoWorkers, wait_until: Wait) -> None:
    """Requests in a row alternate; while one worker has a request to answer, the other gets the next ones."""

    def complete() -> int:
        status = both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})[0]
        wait_until(lambda: not any(worker.running_count for worker in both.workers if worker is not busy))
        return status

    busy: Worker | None = None
    assert [complete() for _ in range(4)] == [200] * 4
    assert [worker.assigned_count for worker in both.workers] == [2, 2]

    busy = both.workers[0]  # of equally busy workers the first is chosen
    with _stop_process(busy), contextlib.closing(both.connect()) as connection:
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 500}))
        wait_until(lambda: both.workers[0].running_count == 1)
        assert [complete() for _ in range(3)] == [200] * 3
        assert busy.running_count == 1

    assert busy.assigned_count == 3
    assert sum(worker.assigned_count for worker in both.workers) == 8


def test_answers_come_as_the_worker_made_them(both: TwoWorkers) -> None:
    """Responses pass unchanged: whole, streamed to [DONE], refused with the worker's sentence, and models."""
    completion = json.loads(both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 3, "temperature": 0})[1])
    events = both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 3, "temperature": 0, "stream": True})[1]
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in events.splitlines() if line.startswith(b"data: {")]

    assert "".join(texts) == completion["choices"][0]["text"]
    assert events.endswith(b"data: [DONE]\n\n")
    status, refusal = both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 9999})
    assert (status, "max_tokens" in json.loads(refusal)["error"]["message"]) == (400, True)
    assert json.loads(both.ask("GET", "/v1/models")[1])["data"][0]["id"] == both.workers[0].ready_fields["model"]
    assert both.ask("GET", "/nothing")[0] == 404


def test_a_client_that_leaves_is_told_to_the_worker(both: TwoWorkers, wait_until: Wait) -> None:
    """The slot of the worker is free long before the end of the answer."""
    connection = both.connect()
    both.ask("PUT", "/pace", {"duty": 0.1, "ttl": "60s"}, Authorization=f"Bearer {TOKEN}")
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 500, "stream": True}))
    stream = connection.getresponse()
    stream.read(10)
    stream.close()
    connection.close()

    wait_until(lambda: all(both.read_metric("requests_running", name) == 0 for name in "01"))
    wait_until(lambda: not any(worker.running_count for worker in both.workers))
    assert sum(both.read_metric("generated_tokens_total", name) for name in "01") < 500


def test_a_pace_reaches_all_and_those_that_come_later(both: TwoWorkers, wait_until: Wait) -> None:
    """Both workers get the duty, and so does the successor of a dead one; a wrong token is refused."""
    assert both.ask("PUT", "/pace", {"duty": 0.4}, Authorization="Bearer wrong")[0] == 401
    assert both.ask("PUT", "/pace", {"duty": 0.5, "ttl": "60s"}, Authorization=f"Bearer {TOKEN}")[0] == 200
    assert [both.read_metric("duty", name) for name in "01"] == [0.5, 0.5]

    _kill(both.workers[1])
    wait_until(lambda: both.workers[1].start_count == 2 and both.workers[1].port is not None)
    wait_until(lambda: both.read_metric("duty", "1") == 0.5)


def test_one_that_dies_is_named_and_replaced(both: TwoWorkers, wait_until: Wait) -> None:
    """The other worker continues; the counters of the dead one remain and never fall, its gauges are missing."""
    for _ in range(2):
        both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 4})
    before = both.read_metric("generated_tokens_total", "1")
    _kill(both.workers[1])
    wait_until(lambda: both.workers[1].port is None)

    assert both.ask("GET", "/healthz")[0] == 200
    assert json.loads(both.ask("GET", "/healthz")[1])["workers"] == {"0": "up", "1": "down"}
    assert all(both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})[0] == 200 for _ in range(3))
    assert both.read_metric("generated_tokens_total", "1") == before == 4
    assert both.read_metric("worker_up", "1") == 0
    assert both.read_metric("kv_cache_usage_ratio", "1") != both.read_metric(
        "kv_cache_usage_ratio", "1"
    )  # NaN: missing
    wait_until(lambda: both.workers[1].start_count == 2 and both.workers[1].port is not None)
    both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})
    both.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})
    assert both.read_metric("generated_tokens_total", "1") > before
    assert "the worker of node 1 was ended by SIGKILL (signal 9): the others continue" in " ".join(both.messages)


def test_a_stream_that_is_cut_says_so(both: TwoWorkers) -> None:
    """If a worker dies in the middle of an answer, the stream ends with an error event, and without [DONE]."""
    both.ask("PUT", "/pace", {"duty": 0.1, "ttl": "60s"}, Authorization=f"Bearer {TOKEN}")
    connection = both.connect()
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 500, "stream": True}))
    stream = connection.getresponse()
    received = stream.readline()
    _kill(next(worker for worker in both.workers if worker.running_count))
    try:
        received += stream.read()
    except http.client.IncompleteRead as cut:
        received += cut.partial
    connection.close()

    assert b"ended in the middle of this answer" in received
    assert b"[DONE]" not in received


def test_without_any_worker_it_says_when_to_come_back(both: TwoWorkers, wait_until: Wait) -> None:
    """While both workers are being replaced, requests get 503 with Retry-After, and /healthz 503."""
    for worker in both.workers:
        _kill(worker)
    wait_until(lambda: all(worker.port is None for worker in both.workers))
    connection = both.connect()
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "a"}))
    answer = connection.getresponse()

    assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
    assert "No worker is up" in json.loads(answer.read())["error"]["message"]
    assert both.ask("GET", "/healthz")[0] == 503
    assert both.ask("PUT", "/pace", {"duty": 0.5}, Authorization=f"Bearer {TOKEN}")[0] == 503
    connection.close()


class FullWorker(HttpConnection):
    """A worker whose queue is full."""

    def respond(self, path: str, body: bytes) -> None:
        """Refuses every request."""
        raise HttpError(429, "There is no room.", 7)


@contextlib.contextmanager
def run_listener(listener: HttpListener) -> Iterator[HttpListener]:
    """Serves until the end of the block."""
    threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield listener
    finally:
        listener.shutdown()
        listener.server_close()


@pytest.mark.parametrize("down", [(), ("0",), ("1",)])
def test_a_full_worker_is_heard_whoever_else_is_down(down: tuple[str, ...]) -> None:
    """The client gets the 429 of a full worker with Retry-After, not a 503 for the worker that is down."""
    workers = Workers({"0": (), "1": ()}, lambda _: None)
    with (
        run_listener(HttpListener(("127.0.0.1", 0), FullWorker)) as full,
        run_listener(Router(("127.0.0.1", 0), workers)) as router,
    ):
        for worker in workers.all:
            worker.port = None if worker.name in down else full.server_port
        connection = http.client.HTTPConnection("127.0.0.1", router.server_port, timeout=20)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a"}))
        answer = connection.getresponse()

        assert (answer.status, answer.getheader("Retry-After")) == (429, "7")
        assert json.loads(answer.read())["error"]["message"] == "There is no room."
        assert sum(worker.assigned_count for worker in workers.all) == 2 - len(down)
        connection.close()


def test_connections_of_the_front_are_bounded(wait_until: Wait) -> None:
    """The router accepts as many connections as its workers together; where all are at work, the next gets a 503."""
    workers = Workers({"0": (), "1": ()}, lambda _: None)
    with run_listener(Router(("127.0.0.1", 0), workers)) as router:
        assert router.max_connections == 2 * MAX_CONNECTIONS
        router.max_connections = 3
        with (
            keep_connections_busy(router, 3, wait_until),
            socket.create_connection(("127.0.0.1", router.server_port), timeout=20) as one_more,
        ):
            assert one_more.recv(1000).startswith(b"HTTP/1.1 503 ")


def test_one_that_cannot_start_ends_the_start_with_its_sentence() -> None:
    """A second try would fail the same way: the start fails with the node and the worker's sentence."""
    workers = Workers({"0": ARGUMENTS, "1": (*ARGUMENTS, "--seed", "-1")}, lambda _: None)
    try:
        with pytest.raises(ValueError, match="the worker of node 1: cannot start: --seed must not be negative"):
            workers.start(lambda _: None)
    finally:
        workers.stop(GracePeriod(0.0))


def test_a_drain_that_is_over_ends_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker cuts a stream that exceeds the drain and exits by itself: it is not killed meanwhile."""
    monkeypatch.setenv("STEADYTOK_ENGINE_TOKEN", TOKEN)
    workers = Workers({"0": (*LONG_ARGUMENTS, "--drain", "0.5")}, lambda _: None)
    workers.start(lambda _: None)
    with _hold_stream(workers.all[0].port or 0):
        workers.stop(GracePeriod(0.5))

    assert workers.all[0].process is not None
    assert workers.all[0].process.wait(20) == 0


# Runs the replicated engine also on a machine with one node.
ENGINE_CODE = """
import sys
from engine.memory import binding
binding.Binding.is_replicated = True
from engine.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("second_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_hurries_the_workers_too(second_signal: signal.Signals) -> None:
    """With a long drain and a long stream, router and workers end after a second signal."""
    arguments = [*LONG_ARGUMENTS, "--numa", "replicate", "--drain", "3600"]
    environment = {**os.environ, "STEADYTOK_ENGINE_TOKEN": TOKEN}
    command = [sys.executable, "-c", ENGINE_CODE, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as router:
        assert router.stdout is not None
        assert router.stderr is not None
        ready = json.loads(router.stdout.readline())
        with _hold_stream(int(ready["url"].rpartition(":")[2])):
            router.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                router.wait(0.5)
            router.send_signal(second_signal)

            assert router.wait(20) == 0
        assert not any(_is_alive(worker["pid"]) for worker in ready["workers"])
        assert "Traceback" not in router.stderr.read()


ROUTER_CODE = """
import threading, sys
from engine.serving.http_connection import MAX_CONNECTIONS, HttpConnection, HttpListener
from engine.serving.json_fields import HttpError
from engine.serving.router import Router
from engine.serving.shutdown import GracePeriod
from engine.serving.workers import Workers
workers = Workers({"0": sys.argv[1:]}, lambda _: None)
workers.start(lambda _: None)
print(workers.all[0].process.pid, flush=True)
threading.Event().wait()
"""


def test_workers_do_not_outlive_a_killed_front(wait_until: Wait) -> None:
    """After SIGKILL of the router the workers exit, because the kernel closes their standard input."""
    command = [sys.executable, "-c", ROUTER_CODE, *ARGUMENTS]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as router:
        assert router.stdout is not None
        worker = int(router.stdout.readline())
        router.kill()
        router.wait(20)

    wait_until(lambda: not _is_alive(worker))


@contextlib.contextmanager
def _hold_stream(port: int) -> Iterator[None]:
    """Holds a stream open that lasts, because the engine is paced."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as pacing:
        pacing.request("PUT", "/pace", json.dumps({"duty": 0.1, "ttl": "60s"}), {"Authorization": f"Bearer {TOKEN}"})
        assert pacing.getresponse().status == 200
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a", "max_tokens": 4000, "stream": True}))
        with connection.getresponse() as stream:
            stream.readline()
            yield


@contextlib.contextmanager
def _stop_process(worker: Worker) -> Iterator[None]:
    """Stops the process of a worker, so that it answers nothing."""
    assert worker.process is not None
    worker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        worker.process.send_signal(signal.SIGCONT)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _kill(worker: Worker) -> None:
    assert worker.process is not None
    os.kill(worker.process.pid, signal.SIGKILL)
    time.sleep(0.05)
