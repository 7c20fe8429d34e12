"""Every client of ours against every peer that misbehaves: it ends, with a sentence of its own, and stays small."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.actions import ActionError
from agent.alerting import silences
from agent.alerting.alertmanagers import AlertmanagerTarget, list_targets, post_alerts
from agent.commands import _running
from agent.config.loader import parse
from agent.config.schema import CanaryConfig
from agent.console import top_client
from agent.enginebench.client import BenchRequest, EngineClient, EngineError
from agent.engines import canary as canary_module
from agent.remediation import action_context
from agent.remediation.action_context import LiveActionContext
from agent.runtime.http_client import HttpClient
from collectors import Host
from engine.serving.router import _call_worker
from engine.serving.workers import Worker
from rules.history.history import History
from tests import hostile_peers, processes
from tests.depths import keep_fast
from tests.secret_files import write_secret

TIMEOUT = 0.3  # seconds: what a client gives a whole answer
GREATEST_GROWTH = 64 << 20  # bytes of resident memory: sixteen times what any client lets an answer have
SECRET = "S3CR3T-0F-THE-T3ST"
Client = Callable[[str, Path], str]


def _make_target(address: str) -> AlertmanagerTarget:
    document = {"timeout": f"{TIMEOUT * 1000:.0f}ms", "static_configs": [{"targets": [address]}]}
    document["authorization"] = {"credentials": SECRET}
    return list_targets(parse({"alerting": {"alertmanagers": [document]}}, "f", {}).alerting)[0]


def post_an_alert(address: str, _: Path) -> str:
    """The notifier, and `steadytok alert test`."""

    async def post() -> str:
        async with contextlib.aclosing(HttpClient(limit=1 << 20, timeout=TIMEOUT)) as client:
            fault = await post_alerts(client, _make_target(address), [{"labels": {}}])
        return fault.reason if fault else "accepted"

    return asyncio.run(post())


def fetch_silences(address: str, _: Path) -> str:
    """The poll of silences."""

    async def fetch() -> str:
        async with contextlib.aclosing(HttpClient(limit=silences.MAX_ANSWER_BYTES, timeout=TIMEOUT)) as client:
            try:
                return f"{await silences._fetch_silences(client, _make_target(address))}"
            except silences._NoAnswerError as error:
                return str(error)

    return asyncio.run(fetch())


def burst_canary(address: str, folder: Path) -> str:
    """The canary's burst, which fails in silence."""

    async def burst() -> str:
        canary = canary_module.Canary(CanaryConfig(), folder / "token", lambda: None)
        await canary._generate(f"http://{address}")
        await canary.close()
        return f"{canary._tokens} tokens"

    return asyncio.run(burst())


def bench_engine(address: str, _: Path) -> str:
    """`steadytok engine bench`."""

    async def measure() -> str:
        engine = EngineClient(f"http://{address}", key=SECRET)
        try:
            await engine.connect(1, TIMEOUT)
            await engine.complete(BenchRequest("a", 1))
        except EngineError as error:
            return str(error)
        finally:
            await engine.close()
        return "measured"

    return asyncio.run(measure())


def _act(address: str, folder: Path, act: Callable[[LiveActionContext, str], object]) -> str:
    write_secret(folder / "pace_token", SECRET)
    context = LiveActionContext(History(60_000).snapshot(), 0, "/", "/nobody", folder / "pace_token")
    try:
        return repr(act(context, address))
    except ActionError as error:
        return str(error)


def post_webhook(address: str, folder: Path) -> str:
    """An action's request."""
    url = f"http://{address}/{SECRET}?key={SECRET}"
    return _act(address, folder, lambda context, _: context.http("POST", url, b"{}", patience=TIMEOUT))


def set_pace(address: str, folder: Path) -> str:
    """An action's request with a proof."""
    url = f"http://{address}/pace"
    return _act(address, folder, lambda context, _: context.http_with_proof("PUT", url, b"{}", TIMEOUT))


def ask_haproxy(address: str, folder: Path) -> str:
    """An action's line to a socket."""
    return _act(address, folder, lambda context, address: context.line(address, "show servers state")[:100])


def collect_engine(address: str, _: Path) -> str:
    """A collector's request."""
    host = Host("/")
    text = host.get(f"http://{address}/metrics?key={SECRET}", timeout=TIMEOUT)
    return repr(text)[:100] if text is not None else str(host.take_notes()[0].reason)


def command_agent(address: str, folder: Path) -> str:
    """`steadytok remedies`."""
    (folder / "state").mkdir()
    write_secret(folder / "state/token", SECRET)
    (folder / "c.yml").write_text(f"web: {{listen: '{address}'}}\nstate: {{dir: {folder / 'state'}}}\n")
    try:
        return repr(_running.call_agent(folder / "c.yml", "GET", "/api/v1/remedies"))
    except SystemExit as end:
        return f"exit status {end.code}"


def show_top(address: str, _: Path) -> str:
    """`steadytok top`."""
    try:
        headers = {"Authorization": f"Bearer {SECRET}"}
        return repr(top_client.AgentClient(f"http://{address}", headers=headers).fetch_overview([]))
    except top_client.NoAnswerError as error:
        return str(error)


def ask_worker(address: str, _: Path) -> str:
    """The router of the reference engine."""
    worker = Worker("0", ())
    worker.port = int(address.partition(":")[2])
    return repr(_call_worker(worker, "GET", "/metrics", b"", {}, timeout=TIMEOUT))[:100]


CLIENTS: dict[str, Client] = {
    client.__name__: client
    for client in (
        *(post_an_alert, fetch_silences, burst_canary, bench_engine, post_webhook, set_pace, ask_haproxy),
        *(collect_engine, command_agent, show_top, ask_worker),
    )
}


def read_peak() -> int:
    """Returns the greatest resident bytes of this process since the last call, and begins anew."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    Path("/proc/self/clear_refs").write_text("5")
    return int(match[1]) << 10


FAST_PEERS = ("endless_error", "gzip_bomb", "drip", "redirect", "reset", "deep_nesting")


@pytest.mark.parametrize("peer", keep_fast(hostile_peers.PEERS, *FAST_PEERS))
@pytest.mark.parametrize("client", CLIENTS)
def test_a_peer_that_misbehaves_costs_little_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], client: str, peer: str
) -> None:
    """The client returns by itself, small, with a sentence that has no secret, and its request goes nowhere else."""
    for module, name in (
        (action_context, "PATIENCE"),
        (canary_module, "BURST_TIMEOUT"),
        (top_client, "REQUEST_TIMEOUT"),
        (_running, "REQUEST_TIMEOUT"),
    ):
        monkeypatch.setattr(module, name, TIMEOUT)
    with hostile_peers.serve(hostile_peers.PEERS[peer]) as (address, requests):
        hostile_peers.compress_zeros()
        read_peak()
        before = read_peak()
        sentence = CLIENTS[client](address, tmp_path)
        growth = read_peak() - before
        processes.wait_until(lambda: bool(requests), 30, "the request has come")

    output = "".join(capsys.readouterr())

    assert growth < GREATEST_GROWTH
    assert sentence
    assert "Traceback" not in sentence + output
    assert SECRET not in sentence + output


@pytest.mark.parametrize("client", ["post_an_alert", "fetch_silences", "post_webhook", "set_pace", "show_top"])
def test_a_redirect_elsewhere_gets_no_request(tmp_path: Path, client: str) -> None:
    """A redirect to another port is another origin: nothing is sent there, no credential above all."""

    def point_elsewhere(connection: object, _: object) -> None:
        head = f"HTTP/1.1 307 T\r\nLocation: http://{other}/steal\r\nContent-Length: 0\r\n\r\n"
        connection.sendall(head.encode())  # type: ignore[attr-defined]  # a socket

    with (
        hostile_peers.serve(hostile_peers.endless_error) as (other, stolen),
        hostile_peers.serve(point_elsewhere) as (address, _),
    ):
        assert CLIENTS[client](address, tmp_path)

    assert stolen == []


def test_an_engines_redirect_within_its_origin_is_followed() -> None:
    """Engines that mount their metrics as an application of its own redirect /metrics to /metrics/ (vllm#2850)."""

    def serve_with_slash(connection: object, _: object) -> None:
        is_final = requests[-1].startswith(b"GET /metrics/ ")
        head = "200 OK\r\nContent-Length: 4" if is_final else "307 T\r\nLocation: /metrics/\r\nContent-Length: 0"
        connection.sendall(f"HTTP/1.1 {head}\r\n\r\n{'up 1' if is_final else ''}".encode())  # type: ignore[attr-defined]  # a socket

    with hostile_peers.serve(serve_with_slash) as (address, requests):
        assert Host("/").get(f"http://{address}/metrics", timeout=10) == "up 1"
