"""Alertmanagers are discovered and posted to as Prometheus' own keys say; one alert never spoils the others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from agent.alerting import notifier as notify
from agent.alerting.alertmanagers import AlertmanagerDiscovery, list_targets, post_alerts
from agent.alerting.notifier import Notifier, NotifierCounters
from agent.config.loader import parse
from agent.config.schema import AlertingConfig, AlertmanagerSettings
from agent.runtime.http_client import HttpClient
from rules.alerts import Alert, AlertState
from tests import certificates
from tests.secret_files import write_secret

FIRING = Alert("Hot", (("alertname", "Hot"),), (), AlertState.FIRING, 1.0, 1_000_000, "up", 1000, 1_060_000)


def parse_alerting(*groups: dict[str, Any]) -> AlertingConfig:
    return parse({"alerting": {"alertmanagers": list(groups)}}, "f", {}).alerting


class Peer:
    """An Alertmanager on loopback that answers as a test sets it, and keeps its requests."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.context = context
        self.headers: list[Any] = []
        self.has_client_certificate: list[bool] = []
        self.batches: list[list[dict[str, Any]]] = []
        self.answer: Callable[[list[dict[str, Any]]], web.Response] = lambda batch: web.Response()
        self.address = ""

    async def handle_post(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers)
        self.has_client_certificate.append(bool(request.get_extra_info("peercert")))
        self.batches.append(await request.json())
        return self.answer(self.batches[-1])

    def run_test(self, test: Callable[[], Awaitable[None]]) -> None:
        async def run() -> None:
            app = web.Application()
            app.router.add_post("/{prefix:.*}api/v2/alerts", self.handle_post)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self.context).start()
            self.address = f"127.0.0.1:{runner.addresses[0][1]}"
            try:
                await test()
            finally:
                await runner.cleanup()

        asyncio.run(run())

    async def send_batch(self, **keys: Any) -> str | None:
        """Posts one batch with these keys, and returns the failure."""
        (target,) = list_targets(parse_alerting({"static_configs": [{"targets": [self.address]}], **keys}))
        async with contextlib.aclosing(HttpClient(limit=1 << 20, timeout=10)) as client:
            fault = await post_alerts(client, target, [{"labels": {}}])
        return None if fault is None else fault.reason


def test_credentials_in_prometheus_own_keys(tmp_path: Path) -> None:
    """basic_auth and authorization, inline or from files; a changed file applies to the next request."""
    secret = tmp_path / "secret"
    write_secret(secret, "first\n")
    peer = Peer()

    async def test() -> None:
        await peer.send_batch(basic_auth={"username": "u", "password": "p:w"})
        await peer.send_batch(basic_auth={"username": "u", "password_file": str(secret)})
        await peer.send_batch(authorization={"credentials": "token"})
        for text in ("first", "second"):
            secret.write_text(text)
            await peer.send_batch(authorization={"type": "Api-Key", "credentials_file": str(secret)})
        await peer.send_batch()

    peer.run_test(test)
    headers = [headers.get("Authorization") for headers in peer.headers]

    assert headers == [
        f"Basic {base64.b64encode(b'u:p:w').decode()}",
        f"Basic {base64.b64encode(b'u:first').decode()}",
        "Bearer token",
        "Api-Key first",
        "Api-Key second",
        None,
    ]


def test_a_secret_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """The batch is not sent without the secret."""
    peer = Peer()
    faults: list[str | None] = []

    async def test() -> None:
        faults.append(await peer.send_batch(authorization={"credentials_file": str(tmp_path / "none")}))

    peer.run_test(test)

    assert faults == [f"[Errno 2] No such file or directory: '{tmp_path}/none'"]
    assert peer.batches == []


def test_tls_in_prometheus_own_keys(tmp_path: Path) -> None:
    """ca_file, cert_file, the same inline, server_name, insecure_skip_verify, min_version."""
    authority = certificates.create_authority(tmp_path)
    server = certificates.create_certificate(tmp_path, "am", "DNS:am.example")
    certificate, key = map(str, certificates.create_certificate(tmp_path, "agent"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
    context.load_cert_chain(*server)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    inline = {"ca": authority.read_text(), "server_name": "am.example"}
    texts = {"cert": Path(certificate).read_text(), "key": Path(key).read_text()}
    peer = Peer(context)
    ours = {"ca_file": str(authority), "server_name": "am.example"}
    faults: list[str | None] = []

    async def test() -> None:
        for tls in (
            ours,
            {**ours, "cert_file": certificate, "key_file": key},
            {**inline, **texts},
            {**inline, "cert_file": certificate, "key": texts["key"]},
            {"insecure_skip_verify": True},
            {},
            {"ca_file": str(authority)},
            {**ours, "min_version": "TLS13"},
        ):
            faults.append(await peer.send_batch(scheme="https", tls_config=tls))

    peer.run_test(test)

    assert faults[:5] == [None] * 5
    assert all(faults[5:])
    assert peer.has_client_certificate == [False, True, True, True, False]


def test_no_redirect_is_followed() -> None:
    """A credential is not sent to another host."""
    peer = Peer()
    peer.answer = lambda batch: web.Response(status=307, headers={"Location": f"http://{peer.address}/api/v2/alerts"})
    faults: list[str | None] = []

    async def test() -> None:
        faults.append(await peer.send_batch(authorization={"credentials": "token"}))

    peer.run_test(test)

    assert (faults[0] or "").startswith("HTTP 307")
    assert len(peer.batches) == 1


def test_files_name_alertmanagers(tmp_path: Path) -> None:
    """JSON and YAML, by pattern, with scheme and path; a bad file keeps its last entries, a deleted one has none."""
    json_file, yaml_file = tmp_path / "one.json", tmp_path / "two.yml"
    json_file.write_text(json.dumps([{"targets": ["am1:9093", "am2:9093"], "labels": {"team": "x"}}]))
    yaml_file.write_text("- targets: [am3:9093]\n  labels: {__scheme__: https, __alerts_path__: /am/api/v2/alerts}\n")
    patterns = [f"{tmp_path}/*.json", f"{tmp_path}/*.yml"]
    group = {"file_sd_configs": [{"files": patterns, "refresh_interval": "1m"}]}
    discovery = AlertmanagerDiscovery(
        parse_alerting({"static_configs": [{"targets": ["am1:9093"]}], **group}).alertmanagers
    )

    def list_urls() -> list[str]:
        return [target.url for target in discovery.list_targets()]

    all_urls = [f"http://am{number}:9093/api/v2/alerts" for number in (1, 2)] + ["https://am3:9093/am/api/v2/alerts"]
    assert list_urls() == all_urls
    for bad in ("[", "a: b", '[{"targets": ["http://am1"]}]', '[{"targets": "am1"}]', '[{"target": []}]'):
        json_file.write_text(bad)
        assert list_urls() == all_urls
    json_file.write_text("[]")
    assert list_urls() == [all_urls[0], all_urls[2]]
    yaml_file.unlink()
    assert list_urls() == [all_urls[0]]


def test_a_file_that_is_not_there_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing file is logged if its name is no pattern; once it exists it is used."""
    file = tmp_path / "am.json"
    patterns = [str(file), f"{tmp_path}/*.yml"]
    discovery = AlertmanagerDiscovery(parse_alerting({"file_sd_configs": [{"files": patterns}]}).alertmanagers)

    assert discovery.list_targets() == discovery.list_targets() == []
    file.write_text('[{"targets": ["am1:9093"]}]')
    assert len(discovery.list_targets()) == 1
    file.unlink()
    assert discovery.list_targets() == []
    output = capsys.readouterr()
    warnings = [
        line for line in (output.out + output.err).splitlines() if "there is no such file of Alertmanagers" in line
    ]
    assert len(warnings) == 2
    assert all("am.json" in line for line in warnings)


def test_an_address_in_a_file_has_no_password(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The address is not used, and the log line does not show the password."""
    file = tmp_path / "am.json"
    file.write_text('[{"targets": ["user:pass-phrase@am1:9093"]}]')

    assert list_targets(parse_alerting({"file_sd_configs": [{"files": [str(file)]}]})) == []
    output = capsys.readouterr()
    assert "found a user in it" in output.out + output.err
    assert "pass-phrase" not in output.out + output.err


def test_one_bad_alert_spoils_no_batch() -> None:
    """A rejected batch is halved until the bad alert is found; all others arrive, and only that one is counted."""
    for status in (400, 422):
        peer = Peer()

        def refuse(batch: list[dict[str, Any]], status: int = status) -> web.Response:
            spoilt = any(alert["labels"]["n"] == "137" for alert in batch)
            return web.Response(status=status if spoilt else 200)

        peer.answer = refuse
        counts: list[float | None] = []

        async def test(peer: Peer = peer, counted: list[float | None] = counts) -> None:
            registry = CollectorRegistry()
            notifier = Notifier(_build_config(peer.address), {}, "http://h", NotifierCounters(registry))
            await notifier.start()
            labels = [(*FIRING.labels, ("n", str(number))) for number in range(256)]
            notifier.enqueue_due([replace(FIRING, labels=each) for each in labels], 2_000_000)
            await notifier.close()
            for name in ("sent", "errors"):
                alertmanager = {"alertmanager": f"http://{peer.address}/api/v2/alerts"}
                counted.append(registry.get_sample_value(f"steadytok_notifications_{name}_total", alertmanager))

        peer.run_test(test)
        delivered = {alert["labels"]["n"] for batch in peer.batches for alert in batch if len(batch) < 256}

        assert len(delivered) == 256
        assert counts == [255.0, 1.0]
        assert len(peer.batches) < 20


def _build_config(address: str) -> AlertingConfig:
    return AlertingConfig(alertmanagers=(AlertmanagerSettings(static_configs=(_build_group(address),)),))


def _build_group(address: str) -> Any:
    return parse_alerting({"static_configs": [{"targets": [address]}]}).alertmanagers[0].static_configs[0]


def test_what_could_not_be_taken_is_not_sent() -> None:
    """An alert with a label that would be rejected is only counted; undecodable bytes and empty labels are repaired."""
    peer = Peer()
    counted: list[float | None] = []

    async def test() -> None:
        registry = CollectorRegistry()
        notifier = Notifier(_build_config(peer.address), {}, "http://h", NotifierCounters(registry))
        await notifier.start()
        good = replace(FIRING, labels=(*FIRING.labels, ("dimm", "A\udcff"), ("empty", "")))
        bad = replace(FIRING, labels=(*FIRING.labels, ("\udcff", "x")))
        notifier.enqueue_due([good, bad], 2_000_000)
        await notifier.close()
        counted.append(registry.get_sample_value("steadytok_notifications_invalid_total"))

    peer.run_test(test)

    assert [[alert["labels"] for alert in batch] for batch in peer.batches] == [[{"alertname": "Hot", "dimm": "A?"}]]
    assert counted == [1.0]


def test_twenty_thousand_alerts_fit() -> None:
    """A working Alertmanager receives every alert; the queue of a stuck one is bounded, and its losses are counted."""

    async def test() -> None:
        released = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await released.wait()
            writer.close()

        server = await asyncio.start_server(hang, "127.0.0.1", 0)
        stuck = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        registry = CollectorRegistry()
        groups = [{"static_configs": [{"targets": [address]}]} for address in (peer.address, stuck)]
        notifier = Notifier(parse_alerting(*groups), {}, "http://h", NotifierCounters(registry))
        await notifier.start()
        alerts = [replace(FIRING, labels=(*FIRING.labels, ("n", str(number)))) for number in range(20_000)]
        for tick in range(4):
            notifier.enqueue_due(alerts, 2_000_000 + tick * 1000)
            while _read_metric(registry, "queue_length", peer.address):
                await asyncio.sleep(0.01)
        waiting, dropped = (_read_metric(registry, name, stuck) for name in ("queue_length", "dropped_total"))
        assert waiting is not None and waiting <= notify.QUEUE
        assert dropped is not None and dropped >= 20_000 - notify.QUEUE - notify.BATCH
        assert _read_metric(registry, "dropped_total", peer.address) == 0.0
        released.set()
        await notifier.close()
        server.close()

    peer = Peer()
    peer.run_test(test)

    assert len({alert["labels"]["n"] for batch in peer.batches for alert in batch}) == 20_000


def _read_metric(registry: CollectorRegistry, name: str, address: str) -> float | None:
    labels = {"alertmanager": f"http://{address}/api/v2/alerts"}
    return registry.get_sample_value(f"steadytok_notifications_{name}", labels)


def test_one_that_has_gone_is_counted_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metrics of a removed Alertmanager end; without Alertmanagers there are none; requests are timed."""
    monkeypatch.setattr(notify, "DISCOVERY_INTERVAL", 0.01)
    peer, file, registry = Peer(), tmp_path / "am.json", CollectorRegistry()
    names = ("sent_total", "errors_total", "dropped_total", "queue_length", "latency_seconds_count")

    async def test() -> None:
        file.write_text(json.dumps([{"targets": [peer.address, "127.0.0.1:9"]}]))
        counters = NotifierCounters(registry)
        notifier = Notifier(parse_alerting({"file_sd_configs": [{"files": [str(file)]}]}), {}, "http://h", counters)
        await notifier.start()
        assert registry.get_sample_value("steadytok_notifications_alertmanagers_discovered") == 2.0
        assert [_read_metric(registry, name, "127.0.0.1:9") for name in names] == [0.0] * 5
        notifier.enqueue_due([FIRING], 2_000_000)
        async with asyncio.timeout(10):
            while not all(
                _read_metric(registry, "latency_seconds_count", each) for each in (peer.address, "127.0.0.1:9")
            ):
                await asyncio.sleep(0.01)
            file.write_text(json.dumps([{"targets": [peer.address]}]))
            while _read_metric(registry, "errors_total", "127.0.0.1:9") is not None:
                await asyncio.sleep(0.01)
        assert [_read_metric(registry, name, "127.0.0.1:9") for name in names] == [None] * 5
        assert _read_metric(registry, "sent_total", peer.address) == 1.0
        await notifier.close()
        await Notifier(AlertingConfig(), {}, "http://h", counters).start()

    peer.run_test(test)

    assert registry.get_sample_value("steadytok_notifications_alertmanagers_discovered") == 0.0
    assert [_read_metric(registry, name, peer.address) for name in names] == [None] * 5
