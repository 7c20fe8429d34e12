"""What our OpenAPI description allows, and what it does not, is answered without a fault."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

SECONDS = float(os.environ.get("STEADYTOK_SCHEMATHESIS_SECONDS", "60"))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,ignored_auth"
# A query that takes too long is a 503, as in Prometheus; any other answer of 5xx is a fault of ours.
CONFIG = '[checks]\nnot_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 503]\n'


@pytest.mark.deep
@pytest.mark.timeout(SECONDS + 120)
def test_no_request_is_a_fault(tmp_path: Path) -> None:
    """A minute of generated requests (five by hand), valid and invalid, with the token: no 500, no surprise."""
    port = processes.find_free_port()
    document = {
        "engine": {"enabled": False},
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(tmp_path / "state")},
        "remediation": {"pause_file": str(tmp_path / "pause")},
        "remedies": [
            {
                "name": "tell",
                "match": ['alertname=~".+"'],
                "sources": ["webhook"],
                "instance": ".*",
                "action": "webhook",
                "target": {"url": "http://127.0.0.1:9/"},
            }
        ],
    }
    (tmp_path / "steadytok.yml").write_text(json.dumps(document))
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    agent = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(tmp_path / "steadytok.yml")]
    url = f"http://127.0.0.1:{port}"
    with processes.run_process(agent, tmp_path / "log"):
        processes.wait_until(lambda: processes.fetch(f"{url}/-/ready") is not None, 30, "ready")
        token = (tmp_path / "state" / "token").read_text().strip()
        program = str(Path(sys.executable).with_name("schemathesis"))
        command = [program, "--config-file", str(tmp_path / "schemathesis.toml")]
        arguments = ["run", f"{url}/openapi.yml", "--url", url, "--checks", CHECKS, "--warnings", "off", "--no-color"]
        bounds = ["--max-time", f"{SECONDS:.0f}", "--request-timeout", "30", "--suppress-health-check", "all"]
        header = ["--header", f"Authorization: Bearer {token}"]
        result = subprocess.run(
            [*command, *arguments, *bounds, *header], capture_output=True, text=True, cwd=tmp_path, timeout=SECONDS + 90
        )
        assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
        assert processes.fetch(f"{url}/-/healthy") is not None
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log
    assert token not in log
