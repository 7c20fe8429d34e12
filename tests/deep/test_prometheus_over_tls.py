"""A real Prometheus scrapes the agent over TLS with a password, with the two files that we ship as examples."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from tests import certificates, processes

pytestmark = [pytest.mark.deep, pytest.mark.timeout(180)]

DOCS = Path(__file__).parents[2] / "docs"
PASSWORD = "change me"


def example(name: str, changes: dict[str, str]) -> str:
    """A file that we ship, with what is of one's own host put in."""
    text = (DOCS / name).read_text()
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def test_the_shipped_files_work_together(tmp_path: Path) -> None:
    """The target is up and its series are there; without the password, and in plain HTTP, there is nothing."""
    authority = certificates.create_authority(tmp_path)
    certificate, key = certificates.create_certificate(tmp_path, "steadytok")
    (tmp_path / "password").write_text(PASSWORD)
    port, own_port = processes.find_free_port(), processes.find_free_port()
    (tmp_path / "web.yml").write_text(example("web.yml", {}))
    assert (certificate.name, key.name) == ("steadytok.crt", "steadytok.key")
    document = {
        "engine": {"enabled": False},
        "web": {"listen": f"127.0.0.1:{port}", "config": str(tmp_path / "web.yml")},
        "state": {"dir": str(tmp_path / "state")},
    }
    (tmp_path / "steadytok.yml").write_text(json.dumps(document))
    changes = {
        "/etc/prometheus/steadytok.password": str(tmp_path / "password"),
        "/etc/prometheus/steadytok-ca.crt": str(authority),
        "box1.example:9817": f"127.0.0.1:{port}",
        "scrape_interval: 15s": "scrape_interval: 1s",
    }
    (tmp_path / "prometheus.yml").write_text(example("prometheus-tls.yml", changes))
    agent = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(tmp_path / "steadytok.yml")]
    prometheus = [
        processes.require_program("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{own_port}",
    ]
    with processes.run_process(agent, tmp_path / "log"), processes.run_process(prometheus, tmp_path / "prometheus.log"):
        up = 'up{job="steadytok",instance="box1"} == 1'
        processes.wait_until(lambda: bool(_result(own_port, up)), 60, "Prometheus has scraped the agent")
        processes.wait_until(
            lambda: bool(_result(own_port, 'steadytok_meminfo_mem_total_bytes{instance="box1"}')), 30, "the series"
        )
        assert processes.fetch(f"http://127.0.0.1:{port}/metrics") is None
        response = _curl(authority, port)
        assert response == "401"
        assert _curl(authority, port, "--user", f"prometheus:{PASSWORD}") == "200"
        assert _curl(authority, port, "--user", "prometheus:changed me") == "401"

        config = ("--config", str(tmp_path / "steadytok.yml"))
        command = [sys.executable, "-m", "agent", "remedies", "pause", "night", *config]
        paused = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (paused.returncode, paused.stderr) == (0, "")
    # bcrypt at 50 ms for each scrape would show; a secret in a log or on a command line would be one no more.
    log = (tmp_path / "log").read_text()
    token = (tmp_path / "state" / "token").read_text().strip()
    assert PASSWORD not in log
    assert token not in log


def _result(port: int, query: str) -> list[object]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    body = processes.fetch(url)
    return list(json.loads(body)["data"]["result"]) if body else []


def _curl(authority: Path, port: int, *more: str) -> str:
    arguments = [
        processes.require_program("curl"),
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--cacert",
        str(authority),
    ]
    url = f"https://127.0.0.1:{port}/metrics"
    return subprocess.run([*arguments, *more, url], capture_output=True, text=True, timeout=30).stdout
