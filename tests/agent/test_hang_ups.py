"""Clients that hang up on the agent leave no line of a warning or an error: they can come in floods."""

from __future__ import annotations

import json
import ssl
import sys
from pathlib import Path

import pytest

from tests import certificates, processes
from tests.hang_ups import build_request, flood, hang_up_at_every_stage

EVERY_SERIES = "/api/v1/query_range?query={__name__=~%22.%2B%22}&start=0&end=10&step=1"
REQUESTS = [
    *(build_request("GET", path) for path in ("/", "/metrics", "/api/v1/rules", "/api/v1/remedies", "/nothing")),
    *(build_request("GET", path) for path in ("/api/v1/remedies/audit", "/-/healthy", EVERY_SERIES)),
    build_request("POST", "/api/v1/query", b"query=up&" * 1000),
    build_request("POST", "/api/v1/webhook/alertmanager", b"{}" * 1000),
    build_request("POST", "/api/v1/remedies/pause", b'{"name": "x"}'),
]


@pytest.mark.parametrize("scheme", ["http", pytest.param("https", marks=pytest.mark.deep)])
def test_clients_that_hang_up_leave_no_line(tmp_path: Path, scheme: str) -> None:
    """At every stage of every request, with FIN and with RST, over TLS too: 409 tracebacks in 4 s were written once."""
    log, port = tmp_path / "log", processes.find_free_port()
    web = {"listen": f"127.0.0.1:{port}"}
    context = None
    if scheme == "https":
        certificates.create_authority(tmp_path)
        certificates.create_certificate(tmp_path, "agent")
        (tmp_path / "web.yml").write_text("tls_server_config: {cert_file: agent.crt, key_file: agent.key}")
        web["config"] = str(tmp_path / "web.yml")
        context = ssl.create_default_context(cafile=tmp_path / "ca.crt")
    (tmp_path / "machine").mkdir()
    document = {"engine": {"enabled": False}, "web": web, "state": {"dir": str(tmp_path / "state")}}
    (tmp_path / "steadytok.yml").write_text(json.dumps(document))
    command = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(tmp_path / "steadytok.yml")]
    with processes.run_process([*command, "--root", str(tmp_path / "machine")], log) as process:
        processes.wait_until(lambda: '"history memory estimate"' in log.read_text(), 60, "readings")
        before = len(log.read_text())
        hang_up_at_every_stage(port, REQUESTS, context)
        hang_up_at_every_stage(port, REQUESTS[:2])  # no TLS where TLS is expected
        flood(port, REQUESTS[0], 400)
        assert process.poll() is None

    lines = log.read_text()[before:].splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{")]
    assert [record for record in records if record["level"] not in ("info", "debug")] == []
    assert [line for line in lines if "Traceback" in line or "exception" in line] == []
