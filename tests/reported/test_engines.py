"""Engines' metrics as public reports show them, and the readings that are right."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from agent.commands import check
from collectors import Host, Reading, engine
from collectors._engine.answers import ANSWERS
from tests.answering import run_server
from tests.certificates import create_authority, create_certificate
from tests.structure import HOUSE

Machine = Callable[[Mapping[str, str]], Host]
Series = Callable[[Iterable[Reading]], dict[str, float]]
PICTURES = Path(__file__).parent / "pictures" / "engines"
KEY = "sk-0123456789"
LLAMA = "llamacpp:tokens_predicted_total 100\nllamacpp:tokens_predicted_seconds_total 10.5\n"
VLLM = 'vllm:generation_tokens_total{engine="0",model_name="m"} 5.0\n'


class EnginePass(NamedTuple):
    """One pass over an engine: its values without the common prefix, its answer, and why readings are missing."""

    values: dict[str, float]
    answer: str
    notes: list[str]


def _collect(host: Host, series: Series, target: engine.EngineEndpoint) -> EnginePass:
    readings = list(engine.collect(host, engine.Config(engines=(target,))))
    (answer,) = [dict(reading.labels)["answer"] for reading in readings if reading and reading.metric is engine.ANSWER]
    values = {
        name.removeprefix("steadytok_engine_").partition("{")[0]: value
        for name, value in series(readings).items()
        if "answer_info" not in name
    }
    return EnginePass(values, answer, [note.reason for note in host.take_notes()])


def _read_picture(machine: Machine, series: Series, picture: str, kind: str) -> EnginePass:
    host = machine({"http/127.0.0.1:9000/metrics": (PICTURES / f"{picture}.prom").read_text()})
    target = engine.EngineEndpoint(name="e", url="http://127.0.0.1:9000", kind=kind)  # type: ignore[arg-type]  # plain words
    return _collect(host, series, target)


def test_priorities_are_not_added_to_their_total(machine: Machine, series: Series) -> None:
    """
    SGLang's --enable-priority-scheduling exposes a total under priority="" and one series for each priority.

    Of requests' series, priority="" is those that gave no priority (sglang 0.5.23, tokenizer_manager.py).
    """
    values = _read_picture(machine, series, "sglang-priority-scheduling", "auto").values

    assert values["requests_running"] == 12
    assert values["requests_waiting"] == 4
    assert values["generated_tokens_total"] == 88231
    assert values["first_tokens_total"] == 8 + 7
    assert values["first_token_seconds_total"] == 4 + 3


def test_context_parallel_ranks_repeat_each_other(machine: Machine, series: Series) -> None:
    """sglang#31896: eight ranks expose the same five requests."""
    values = _read_picture(machine, series, "sglang-context-parallel", "auto").values

    assert values["requests_running"] == 5
    assert values["generated_tokens_total"] == 1007


@pytest.mark.parametrize(
    ("name", "label"), [("vllm:num_requests_running", "engine"), ("sglang:num_running_reqs", "dp_rank")]
)
def test_data_parallel_replicas_are_not_added_to_their_total(
    machine: Machine, series: Series, name: str, label: str
) -> None:
    """The replicas add up; a series without their label beside them is their sum already."""
    parts = f'{name}{{model_name="m",{label}="0"}} 3\n{name}{{model_name="m",{label}="1"}} 4\n'
    target = engine.EngineEndpoint(name="e", url="http://127.0.0.1:9000")
    for text in (parts, f'{name}{{model_name="m"}} 7\n{parts}', f'{name}{{model_name="m",{label}=""}} 7\n{parts}'):
        host = machine({"http/127.0.0.1:9000/metrics": text})
        assert _collect(host, series, target).values == {"up": 1, "requests_running": 7}


def test_metrics_wrapped_in_json_are_no_metrics(machine: Machine, series: Series) -> None:
    """ggml-org/llama.cpp#17384, #17386: the body is one JSON string."""
    done = _read_picture(machine, series, "llamacpp-json-escaped", "llama.cpp")

    assert done.values == {"up": 0}
    assert done.answer == "not_metrics"
    assert len(done.notes) == 1


def test_a_ratio_that_is_nan_hides_no_other_metric(machine: Machine, series: Series) -> None:
    """llama.cpp#11868: before the first request ratios are -nan."""
    done = _read_picture(machine, series, "llamacpp-nan", "auto")

    assert done.values == {"up": 1, "prompt_tokens_total": 0, "generated_tokens_total": 0, "requests_running": 0}
    assert done.notes == ["llamacpp:kv_cache_usage_ratio is nan, expected 0 to 1"]


def test_an_exposition_may_begin_with_nan(machine: Machine, series: Series) -> None:
    """docker/model-runner#78: families are sorted by name, and the first sample of all is nan."""
    done = _read_picture(machine, series, "model-runner-nan-first", "auto")

    assert done.values == {"up": 1, "generated_tokens_total": 20, "decode_seconds_total": 0.4}
    assert done.notes == []


def test_a_cache_cannot_be_less_than_empty(machine: Machine, series: Series) -> None:
    """vllm-project/vllm-ascend#10048: the KV cache is -39 % full."""
    done = _read_picture(machine, series, "vllm-negative-kv-usage", "vllm")

    assert done.values == {"up": 1, "requests_running": 2, "generated_tokens_total": 1000}
    assert done.notes == ["vllm:kv_cache_usage_perc is -0.38754, expected 0 to 1"]


@pytest.mark.parametrize("kind", ["vllm", "auto"])
def test_rays_names_are_read(machine: Machine, series: Series, kind: str) -> None:
    """ray-project/ray#59071, #52719: under Ray Serve vLLM's metrics are called ray_vllm_…"""
    done = _read_picture(machine, series, "vllm-under-ray", kind)

    assert done.values == {"up": 1, "requests_running": 1, "generated_tokens_total": 12345}
    assert done.notes == []


@pytest.mark.parametrize("kind", ["sglang", "auto"])
def test_names_with_underscores_are_read(machine: Machine, series: Series, kind: str) -> None:
    """lightseekorg/smg#813: the gateway exposes sglang_… in place of sglang:…"""
    done = _read_picture(machine, series, "sglang-underscore-names", kind)

    assert done.values == {"up": 1, "requests_running": 1, "generated_tokens_total": 311}
    assert done.notes == []


def test_one_of_two_spellings_is_read(machine: Machine, series: Series) -> None:
    """A gateway that exposes both spellings has the same tokens twice, which are not added up."""
    text = "sglang:num_running_reqs 3\nsglang_num_running_reqs 3\n"
    host = machine({"http/127.0.0.1:9000/metrics": text})

    assert _collect(host, series, engine.EngineEndpoint(name="e", url="http://127.0.0.1:9000")).values == {
        "up": 1,
        "requests_running": 3,
    }


@contextmanager
def _serve_engine(context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Serves a path for each answer of an engine that lives; with a context over TLS."""

    def describe(code: int, message: str) -> tuple[int, str, dict[str, str]]:
        return code, json.dumps({"error": {"code": code, "message": message}}), {}

    class Engine(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text, headers = self._choose_answer()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def _choose_answer(self) -> tuple[int, str, dict[str, str]]:
            match self.path.split("?")[0]:
                case "/key/metrics" if self.headers["Authorization"] != f"Bearer {KEY}":
                    return describe(401, f"Invalid API Key {self.headers['Authorization']}")
                case "/forbidden/metrics":
                    return describe(403, "Forbidden")
                case "/router/metrics" if "model=" not in self.path:
                    return describe(400, "model name is missing from the request")
                case "/loading/metrics":
                    return describe(503, "Loading model")
                case "/off/metrics":
                    return describe(501, "This server does not support metrics endpoint. Start it with `--metrics`")
                case "/elsewhere/metrics":
                    return 307, "", {"Location": "http://192.0.2.1/metrics"}
                case "/slash/metrics":
                    return 307, "", {"Location": "/slash/metrics/"}
                case "/slash/metrics/":
                    return 200, VLLM, {}
                case "/empty/metrics":
                    return 200, "", {}
                case "/comments/metrics":
                    return 200, "# HELP vllm:num_requests_running Requests.\n", {}
                case "/tgi/metrics":
                    return 200, "tgi_queue_size 0\n", {}
                case "/broken/metrics":
                    return describe(500, "Internal Server Error")
                case "/gateway/metrics":
                    return 503, "<html>No server is available to handle this request.</html>", {}
                case "/page/metrics":
                    return 200, "<html></html>", {}
                case "/packed/metrics":
                    return 200, "whatever was asked for", {"Content-Encoding": "gzip"}
                case "/key/metrics" | "/router/metrics":
                    return 200, LLAMA, {}
            return 404, "nope", {}

        def log_message(self, format: str, *args: object) -> None:
            pass

    yield from _run_server(ThreadingHTTPServer(("127.0.0.1", 0), Engine), context)


def _run_server(server: ThreadingHTTPServer, context: ssl.SSLContext | None) -> Iterator[str]:
    if context is not None:
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # the client refuses the certificate
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with run_server(server):
        yield f"http{'s' if context else ''}://127.0.0.1:{server.server_port}"


@pytest.fixture(name="engine_url")
def _engine_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of such an engine; a busy machine makes none of its answers late."""
    monkeypatch.setattr(engine, "_TOTAL_TIMEOUT", 30.0)
    monkeypatch.setattr(engine, "_READ_TIMEOUT", 30.0)
    with _serve_engine() as url:
        yield url


def _write_key(tmp_path: Path, text: str = KEY, mode: int = 0o600) -> str:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("path", "answer", "up"),
    [
        ("key", "key_required", 1),
        ("forbidden", "key_required", 1),
        ("router", "bad_request", 1),
        ("router/metrics?model=a&autoload=false", "metrics", 1),
        ("loading", "loading", 1),
        ("off", "not_served", 1),
        ("nowhere", "not_served", 1),
        ("elsewhere", "redirected", 1),
        ("slash", "metrics", 1),
        ("empty", "empty", 1),
        ("comments", "empty", 1),
        ("tgi", "foreign", 1),
        ("packed", "compressed", 1),
        ("broken", "error", 1),
        ("gateway", "unreachable", 0),
        ("page", "not_metrics", 0),
    ],
)
def test_a_living_engine_is_not_down(engine_url: str, series: Series, path: str, answer: str, up: float) -> None:
    """
    llama.cpp PR 28915 (401), #22879, #20227 (a router wants a model), 501 without --metrics, 503 while it loads.

    Whoever answers lives, even without metrics. A gateway that has nobody behind it answers for a dead engine.
    """
    target = engine.EngineEndpoint(name="e", url=f"{engine_url}/{path}", kind="auto")
    done = _collect(Host("/"), series, target)

    assert (done.answer, done.values["up"]) == (answer, up)
    assert bool(done.notes) == (answer != "metrics")


def test_an_engine_behind_a_certificate_of_strangers_lives(series: Series, tmp_path: Path) -> None:
    """vLLM under --ssl-certfile with a certificate of its own: it is not down, and gets neither request nor key."""
    create_authority(tmp_path)
    certificate, key = create_certificate(tmp_path, "engine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with _serve_engine(context) as url:
        target = engine.EngineEndpoint(name="e", url=f"{url}/key", kind="vllm", api_key_file=_write_key(tmp_path))
        done = _collect(Host("/"), series, target)

    assert (done.answer, done.values) == ("untrusted", {"up": 1})
    assert done.notes == ["its certificate is untrusted"]


def test_every_answer_of_a_living_engine_is_told() -> None:
    """A rule fires for each answer of an engine that lives without metrics, and its page says what to do."""
    silent = {answer for answer, meaning in ANSWERS.items() if meaning.alive and meaning.advice}
    rules = (HOUSE / "rules/builtin/engine.yml").read_text()
    page = (HOUSE / "docs/runbooks/EngineMetricsUnavailable.md").read_text()

    assert set("|".join(re.findall(r'answer_info\{answer=~"([a-z_|]+)"', rules)).split("|")) == silent
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == silent


def test_nobody_there_is_down(engine_url: str, series: Series) -> None:
    """The port that the ended engine had refuses the connection."""
    port = int(engine_url.rpartition(":")[2])
    target = engine.EngineEndpoint(name="e", url=f"http://127.0.0.2:{port}", kind="vllm")
    done = _collect(Host("/"), series, target)

    assert (done.answer, done.values) == ("none", {"up": 0})


def test_a_key_is_sent_as_a_bearer_token(engine_url: str, series: Series, tmp_path: Path) -> None:
    """llama.cpp PR 28915: with the key of --api-key the metrics are there."""
    target = engine.EngineEndpoint(name="e", url=f"{engine_url}/key", api_key_file=_write_key(tmp_path, f"{KEY}\n"))
    done = _collect(Host("/"), series, target)

    assert done.answer == "metrics"
    assert done.values["generated_tokens_total"] == 100
    assert done.notes == []


@pytest.mark.parametrize(
    ("text", "mode"),
    [(KEY, 0o644), (f"{KEY} {KEY}", 0o600), (f"{KEY}\nX-More: 1", 0o600), (f"{KEY}é", 0o600), ("", 0o600)],
)
def test_a_key_that_cannot_be_used_is_not_sent_nor_told(
    engine_url: str, series: Series, tmp_path: Path, text: str, mode: int
) -> None:
    """A file that anybody may read, or that holds more than a key: the reason names the file and never its content."""
    target = engine.EngineEndpoint(name="e", url=f"{engine_url}/key", api_key_file=_write_key(tmp_path, text, mode))
    done = _collect(Host("/"), series, target)

    assert done.answer == "key_required"
    assert len(done.notes) == 2
    assert not any(KEY in note for note in done.notes)


def test_check_says_what_to_do_about_each_engine(engine_url: str, tmp_path: Path) -> None:
    """The doctor names --metrics, ?model= and api_key_file; a relative key file counts from the configuration."""
    _write_key(tmp_path)
    config = tmp_path / "steadytok.yml"
    targets = [{"name": path, "kind": "llama.cpp", "url": f"{engine_url}/{path}"} for path in ("off", "router", "key")]
    targets.append({"name": "right", "url": f"{engine_url}/key", "api_key_file": "key"})
    config.write_text(json.dumps({"engines": targets, "engine": {"enabled": False}}))
    lines = CliRunner().invoke(check.command, ["--config", str(config)]).stdout.splitlines()
    advice = {line.split()[0]: line for line in lines if line.split()[0] in {target["name"] for target in targets}}

    assert "--metrics" in advice["off"]
    assert "?model=" in advice["router"]
    assert "api_key_file" in advice["key"]
    assert "right" not in advice
    assert not any(KEY in line for line in lines)
