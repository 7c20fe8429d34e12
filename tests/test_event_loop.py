"""
Nothing waits for a disk on the event loop: a probe watches a real agent that ticks, serves every address and reloads.

A disk that hangs stops a tick that reads it, and with it every alert and every lease. A file or table without a bound
does so on a sound disk: 100,000 lines of the audit made ticks 4 to 60 s late. What may be read is in ALLOWED.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import bcrypt
import yaml

from agent.engines import baseline_handover
from agent.engines.baseline_handover import MeasuredBaseline
from tests import processes
from tests.agent.loop_probe import HOUSE
from tests.answering import serve_answer
from tests.secret_files import write_secret

ALLOWED: Mapping[str, str] = {
    "agent/selfmetrics/process.py:_read_usage": "/proc of three processes of ours: the kernel answers from memory",
    "agent/web/credentials.py:TokenFile._reload": "at most 4 KiB, and only after the file changed",
}
"""Functions that may read on the event loop, with the reason; they are looked for among the callers of each access."""

USER, PASSWORD = "ada", "correct horse"
RULES = 'groups: [{{name: g, rules: [{{alert: Always, expr: "vector({})"}}]}}]'
ALERT = {
    "status": "firing",
    "labels": {"alertname": "Posted"},
    "startsAt": "2026-01-01T00:00:00Z",
    "fingerprint": "0a1b",
}


class ProbedAgent:
    """An agent under the probe: its files, its address, its report."""

    def __init__(self, home: Path, alertmanager: str) -> None:
        self.home = home
        self.log, self.report = home / "log", home / "report"
        self.port = processes.find_free_port()
        self.process: subprocess.Popen[bytes]
        (home / "state").mkdir(mode=0o700)
        (home / "machine/proc").mkdir(parents=True)
        (home / "machine/proc/meminfo").write_text("MemTotal: 1000 kB\nMemFree: 400 kB\n")
        (home / "rules.yml").write_text(RULES.format(1))
        write_secret(home / "token", "a-token-of-a-machine")
        write_secret(home / "secret", "credential of the Alertmanager")
        (home / "peers.yml").write_text(json.dumps([{"targets": [alertmanager]}]))
        self.write_web_config(header="first")
        document = {
            "web": {
                "listen": f"127.0.0.1:{self.port}",
                "config": str(home / "web.yml"),
                "tokens": {"machine": str(home / "token")},
            },
            "engine": {"enabled": False},
            "state": {"dir": str(home / "state")},
            "rules": {"files": [str(home / "rules.yml")]},
            "remediation": {"silences": True},
            "alerting": {
                "resend_delay": "1s",
                "alertmanagers": [
                    {
                        "file_sd_configs": [{"files": [str(home / "peers.yml")]}],
                        "authorization": {"credentials_file": str(home / "secret")},
                    }
                ],
            },
        }
        (home / "steadytok.yml").write_text(json.dumps(document))

    def write_web_config(self, header: str) -> None:
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        settings = {"basic_auth_users": {USER: hashed}, "http_server_config": {"headers": {"X-Frame-Options": header}}}
        (self.home / "web.yml").write_text(json.dumps(settings))

    def ask(self, method: str, path: str, body: bytes | None = None, token: str = "") -> tuple[int, str]:
        """Returns the status, and the header that the web configuration sets."""
        token = token or (self.home / "state/token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept-Encoding": "gzip"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["X-Frame-Options"]
        except urllib.error.HTTPError as error:
            return error.code, ""
        except OSError:
            return 0, ""

    def read_accesses(self) -> list[str]:
        return self.report.read_text().splitlines()[1:] if self.report.exists() else []

    def count_logged(self, words: str) -> int:
        return self.log.read_text().count(words)


@contextlib.contextmanager
def run_probed_agent(home: Path) -> Iterator[ProbedAgent]:
    """Runs an agent with an Alertmanager, and arms the probe once the start is over."""
    with serve_answer(200, b"[]") as alertmanager:
        agent = ProbedAgent(home, alertmanager)
        arguments = ["run", "--plain", "--config", str(home / "steadytok.yml"), "--root", str(home / "machine")]
        command = [sys.executable, "-m", "tests.agent.loop_probe", str(agent.report), *arguments]
        with processes.run_process(command, agent.log, {"PYTHONPATH": str(HOUSE)}) as process:
            agent.process = process
            processes.wait_until(lambda: (home / "state/token").exists(), 60, "the token")
            processes.wait_until(lambda: agent.ask("GET", "/-/ready")[0] == 200, 60, "ready")
            process.send_signal(signal.SIGUSR2)
            processes.wait_until(agent.report.read_text, 60, "the probe is armed")
            yield agent
            assert process.poll() is None, agent.log.read_text()[-2000:]


def ask_everything(agent: ProbedAgent) -> None:
    """Sends a request to every address of the description, with parameters for those that need some."""
    description = yaml.safe_load((HOUSE / "agent/web/openapi.yml").read_text())
    parameters = "query=count(up)&match[]=up&start=0&end=10&step=5"
    for path, methods in description["paths"].items():
        address = f"{path.replace('{name}', 'job')}?{parameters if path.startswith('/api/') else ''}"
        for method in set(methods) & {"get", "post"}:
            body = b'{"name": "x"}' if method == "post" else None
            assert agent.ask(method.upper(), address, body)[0] not in (0, 500), (method, path)
    payload = json.dumps({"version": "4", "alerts": [ALERT]}).encode()
    assert agent.ask("POST", "/api/v1/webhook/alertmanager", payload)[0] == 200


def change_every_file(agent: ProbedAgent) -> None:
    """Rewrites each file that a running agent reads again, and waits until the agent has."""
    home = agent.home
    handed_over = baseline_handover.hand_over(home / "state", MeasuredBaseline("r1", "", "1", 50.0))
    (home / "peers.yml").write_text("[]")
    write_secret(home / "token", "another-token-of-a-machine")
    agent.write_web_config(header="second")
    for number in (2, 3):
        before = agent.count_logged("configuration reloaded")
        (home / "rules.yml").write_text(RULES.format(number))
        agent.process.send_signal(signal.SIGHUP)
        processes.wait_until(lambda: agent.count_logged("configuration reloaded") > before, 60, "reloaded")  # noqa: B023
    processes.wait_until(lambda: agent.ask("GET", "/-/healthy")[1] == "second", 60, "the web configuration is reloaded")
    processes.wait_until(lambda: not handed_over.exists(), 60, "the baseline is adopted")
    assert agent.ask("GET", "/metrics", token="another-token-of-a-machine")[0] == 200


def is_allowed(access: str) -> bool:
    return any(function in access for function in ALLOWED)


def test_nothing_reads_files_on_the_event_loop(tmp_path: Path) -> None:
    """While the agent ticks, sends alerts, answers every address and reloads, only ALLOWED reads on its loop."""
    with run_probed_agent(tmp_path) as agent:
        ask_everything(agent)
        change_every_file(agent)
        ask_everything(agent)
        recordings = tmp_path / "state"
        processes.wait_until(lambda: any(recordings.rglob("recorder/*")), 60, "the recorder has written")
        processes.wait_until(lambda: any(map(is_allowed, agent.read_accesses())), 60, "the probe reports /proc")

        assert [access for access in agent.read_accesses() if not is_allowed(access)] == []
    assert "Traceback" not in agent.log.read_text()


def test_every_exception_still_exists() -> None:
    """Each function of ALLOWED is in the code: an exception whose function has gone is removed."""
    for function in ALLOWED:
        path, _, name = function.partition(":")
        assert f"def {name.rpartition('.')[2]}(" in (HOUSE / path).read_text(), function
