"""The traps of engines: names that look alike, ranks that repeat each other, engines that do not answer."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from collectors import Host, Reading, engine
from collectors._engine.dialects import DIALECTS, detect_kind
from tests.answering import run_server
from tests.processes import wait_until

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
URL = "http://127.0.0.1:8000"
PAGE = {"http/127.0.0.1:8000/metrics": ""}


def _read_values(host: Host, series: Series, *targets: engine.EngineEndpoint) -> dict[str, float]:
    values = series(engine.collect(host, engine.Config(engines=targets)))
    names = {name: name.removeprefix("steadytok_engine_") for name in values if "answer_info" not in name}
    return {names[name]: values[name] for name in names}


def _serve_text(machine: Machine, text: str) -> Host:
    return machine(dict.fromkeys(PAGE, text))


def _make_target(kind: str = "auto", url: str = URL, name: str = "e") -> engine.EngineEndpoint:
    return engine.EngineEndpoint(name=name, url=url, kind=kind)  # type: ignore[arg-type]  # parametrised tests give plain words


@contextmanager
def _start_server(text: str) -> Iterator[str]:
    """Serves the text as an engine's metrics on a free port."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    with run_server(server):
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def _start_dripping_server() -> Iterator[tuple[str, list[socket.socket]]]:
    """Serves an endless answer of a byte now and then; yields its URL and its connections."""
    connections: list[socket.socket] = []
    stopped = threading.Event()

    def drip() -> None:
        while not stopped.wait(0.05):
            try:
                connections.append(listener.accept()[0])
                connections[-1].sendall(b"HTTP/1.0 200 OK\r\n\r\n")
            except BlockingIOError:
                pass
            for connection in list(connections):
                try:
                    connection.sendall(b"#")
                except OSError:
                    connections.remove(connection)
                    connection.close()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", connections
        finally:
            stopped.set()
            thread.join()
            for connection in connections:
                connection.close()


def test_names_are_exact(machine: Machine, series: Series) -> None:
    """Requests waiting by reason are not requests waiting, and a counter's creation time is not the counter."""
    host = _serve_text(
        machine,
        'vllm:num_requests_waiting{engine="0"} 3\nvllm:num_requests_waiting_by_reason{reason="capacity"} 2\n'
        "vllm:generation_tokens_created 1.7e9",
    )

    assert _read_values(host, series, _make_target("vllm")) == {
        'up{engine="e",kind="vllm"}': 1,
        'requests_waiting{engine="e"}': 3,
    }


def test_replicas_add_up_and_the_fullest_cache_counts(machine: Machine, series: Series) -> None:
    """vLLM's data-parallel engines each have their own tokens and cache."""
    text = "".join(
        f'vllm:generation_tokens_total{{engine="{number}"}} {100 * (number + 1)}\n'
        f'vllm:kv_cache_usage_perc{{engine="{number}"}} 0.{number + 1}\n'
        for number in range(3)
    )
    values = _read_values(_serve_text(machine, text), series, _make_target("vllm"))

    assert values['generated_tokens_total{engine="e"}'] == 600
    assert values['kv_cache_usage_ratio{engine="e"}'] == 0.3


def test_ranks_of_one_replica_do_not_add_up(machine: Machine, series: Series) -> None:
    """SGLang's tensor-parallel ranks all count the same tokens; its data-parallel ones do not."""
    text = "".join(
        f'sglang:realtime_tokens_total{{dp_rank="{dp}",mode="decode",tp_rank="{tp}"}} {100 * (dp + 1)}\n'
        for dp in range(2)
        for tp in range(4)
    )

    assert _read_values(_serve_text(machine, text), series, _make_target())['generated_tokens_total{engine="e"}'] == 300


def test_tokens_that_move_now_come_before_those_at_the_end(machine: Machine, series: Series) -> None:
    """SGLang counts generated tokens while it runs, and again when requests end."""
    live = 'sglang:realtime_tokens_total{mode="decode"} 500\nsglang:realtime_tokens_total{mode="prefill_compute"} 70\n'
    ended = "sglang:generation_tokens_total 400\nsglang:prompt_tokens_total 60\n"
    name = 'generated_tokens_total{engine="e"}'

    assert _read_values(_serve_text(machine, ended + live), series, _make_target())[name] == 500
    assert _read_values(_serve_text(machine, ended), series, _make_target())[name] == 400


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("vllm:request_decode_time_seconds_sum 3\nvllm:inter_token_latency_seconds_sum 5\n", 5),
        ("vllm:request_decode_time_seconds_sum 3\nvllm:time_per_output_token_seconds_sum 4\n", 4),
        ("vllm:request_decode_time_seconds_sum 3\n", 3),
    ],
)
def test_decode_time_is_the_one_that_moves_with_each_token(
    machine: Machine, series: Series, text: str, seconds: float
) -> None:
    """vLLM's inter-token latency, under its new or old name, is live; decode time appears when a request ends."""
    assert (
        _read_values(_serve_text(machine, text), series, _make_target("vllm"))['decode_seconds_total{engine="e"}']
        == seconds
    )


def test_absent_there_is_absent_here(machine: Machine, series: Series) -> None:
    """llama.cpp no longer has a metric of its KV cache: that is no 0, and no fault."""
    host = _serve_text(machine, "llamacpp:tokens_predicted_total 7\nllamacpp:requests_processing 0\n")

    assert _read_values(host, series, _make_target()) == {
        'up{engine="e",kind="llama.cpp"}': 1,
        'generated_tokens_total{engine="e"}': 7,
        'requests_running{engine="e"}': 0,
    }
    assert host.take_notes() == []


def test_one_unreadable_series_makes_its_metric_missing(machine: Machine, series: Series) -> None:
    """A sum over two replicas with an unreadable one would be wrong; the rest of the answer is right."""
    host = _serve_text(
        machine,
        'vllm:generation_tokens_total{engine="0"} 5\nvllm:generation_tokens_total{engine="1"} what\n'
        "vllm:num_requests_running 1\n",
    )

    assert _read_values(host, series, _make_target()) == {
        'up{engine="e",kind="vllm"}': 1,
        'requests_running{engine="e"}': 1,
    }
    assert len(host.take_notes()) == 1


@pytest.mark.parametrize("text", ["<html></html>", '{"detail":"Not Found"}', "ok"])
def test_a_page_is_no_engine(machine: Machine, series: Series, text: str) -> None:
    """An answer other than metrics means that the engine is down."""
    host = _serve_text(machine, text)

    assert _read_values(host, series, _make_target("vllm")) == {'up{engine="e",kind="vllm"}': 0}
    assert len(host.take_notes()) == 1


def test_metrics_of_something_else_are_told(machine: Machine, series: Series) -> None:
    """An engine with its statistics switched off, or of a kind that is not supported, is up without values."""
    host = _serve_text(machine, "process_cpu_seconds_total 5\n")

    assert _read_values(host, series, _make_target("vllm")) == {'up{engine="e",kind="vllm"}': 1}
    assert _read_values(host, series, _make_target("auto")) == {'up{engine="e",kind="auto"}': 1}
    assert len(host.take_notes()) == 2


@pytest.mark.parametrize("kind", DIALECTS)
def test_engines_are_known_by_their_prefix(kind: str) -> None:
    """Each kind is detected by a sample, on the first line or later, and not by a comment."""
    prefix = DIALECTS[kind].prefix

    assert detect_kind(f"{prefix}x 1") == kind
    assert detect_kind(f"a 1\n{prefix}x 1") == kind
    assert detect_kind(f"# HELP {prefix}x …\na 1") is None


def test_a_dead_engine_keeps_the_kind_it_had(machine: Machine, series: Series) -> None:
    """An engine whose kind was detected goes down in the same series."""
    host = _serve_text(machine, "llamacpp:n_decode_total 1\n")
    up = 'up{engine="e",kind="llama.cpp"}'

    assert _read_values(host, series, _make_target())[up] == 1

    os.remove(host.path("http/127.0.0.1:8000/metrics"))

    assert _read_values(host, series, _make_target()) == {up: 0}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", "http://h:1/metrics"),
        ("http://h:1/", "http://h:1/metrics"),
        ("http://h:1/metrics", "http://h:1/metrics"),
        ("http://h:1/v1/", "http://h:1/v1/metrics"),
        ("http://h:1/metrics?model=a", "http://h:1/metrics?model=a"),
        ("http://h:1?model=a", "http://h:1/metrics?model=a"),
    ],
)
def test_where_metrics_are(url: str, expected: str) -> None:
    """/metrics is added where it is missing; llama.cpp's router needs its query."""
    assert engine.build_metrics_url(url) == expected


def test_a_dead_engine_hides_no_other(series: Series) -> None:
    """With one engine that refuses, one that never answers and one that lives, the last is read."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        closed_port = closed.getsockname()[1]
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as silent,
        _start_server("llamacpp:tokens_predicted_total 7\n") as alive,
    ):
        values = _read_values(
            Host("/"),
            series,
            _make_target("vllm", f"http://127.0.0.1:{closed_port}", "refused"),
            _make_target("vllm", f"http://127.0.0.1:{silent.getsockname()[1]}", "silent"),
            _make_target("auto", alive, "alive"),
        )

    assert values == {
        'up{engine="refused",kind="vllm"}': 0,
        'up{engine="silent",kind="vllm"}': 0,
        'up{engine="alive",kind="llama.cpp"}': 1,
        'generated_tokens_total{engine="alive"}': 7,
    }


def test_what_speaks_no_http_is_down_and_asked_again(series: Series) -> None:
    """An answer that is not HTTP, or a malformed URL, fails that request and no other."""
    host = Host("/")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        strange = _make_target("vllm", f"http://127.0.0.1:{listener.getsockname()[1]}", "strange")
        for _ in range(2):
            thread = threading.Thread(target=_greet, args=(listener,))
            thread.start()
            values = _read_values(host, series, strange, _make_target("vllm", "http://[::1", "typo"))
            thread.join()

            assert values == {'up{engine="strange",kind="vllm"}': 0, 'up{engine="typo",kind="vllm"}': 0}
    assert len(host.take_notes()) == 4


def _greet(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")


def test_an_answer_that_drips_ends_at_its_deadline(series: Series) -> None:
    """An engine that drips its answer costs one connection at a time, and none once its deadline is over."""
    host = Host("/")
    with _start_dripping_server() as (url, connections):
        answers = [_read_values(host, series, _make_target("vllm", url)) for _ in range(3)]

        wait_until(lambda: not connections, 30, "every connection is closed at its deadline")
    assert answers == [{'up{engine="e",kind="vllm"}': 0}] * 3
    assert len(host.take_notes()) >= 3


def test_an_engine_that_comes_back_is_read(series: Series) -> None:
    """After a failure the next pass sends a new request."""
    host = Host("/")
    with _start_server("nothing useful") as url:
        assert _read_values(host, series, _make_target("reference", url)) == {'up{engine="e",kind="reference"}': 0}
    with _start_server("steadytok_reference_duty 0.5\n") as url:
        assert _read_values(host, series, _make_target("reference", url))['duty{engine="e"}'] == 0.5


def test_without_engines_there_is_nothing(series: Series) -> None:
    """By default no engine is configured, and no request is sent."""
    assert _read_values(Host("/"), series) == {}
