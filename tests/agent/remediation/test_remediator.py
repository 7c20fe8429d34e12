"""A real agent paces a real reference engine, is killed at every bad moment, and undoes everything."""

from __future__ import annotations

import contextlib
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.remediation import journal
from agent.remediation.model import AuditEntry, RemediationState
from tests import processes
from tests.secret_files import write_secret

RULES = """
groups:
  - name: test
    rules:
      - alert: Trip
        expr: steadytok_engine_requests_running{engine="switch"} > 5
"""
# Kills the agent at one function of `agent.actions.pace`, which is unchanged otherwise.
KILLED = """
import os, signal, sys
from agent.actions import pace
from agent.__main__ import main
whole = pace.{function}
def cut(*arguments):
    {before}
    given = whole(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
    return given
pace.{function} = cut
main(prog_name="steadytok")
"""
NOW = "os.kill(os.getpid(), signal.SIGKILL)"
TOKEN = "test-token-of-the-agent"


class Switch:
    """Answers as an engine of vLLM's kind, with as many running requests as a test sets."""

    def __init__(self) -> None:
        self.running = 0
        switch = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind = "# TYPE vllm:num_requests_running gauge\n"
                body = f'{kind}vllm:num_requests_running{{model_name="m"}} {switch.running}\n'
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


class Stage:
    """One engine, one switch, and as many agents in turn as a test kills."""

    def __init__(self, folder: Path, engine: str, switch: Switch) -> None:
        self.folder, self.engine, self.switch = folder, engine, switch
        self.port = processes.find_free_port()
        self.state = folder / "state"
        self.state.mkdir()
        for name in ("token", "pace_token"):  # of the API, and of the engines
            write_secret(self.state / name, TOKEN)
        (folder / "rules.yml").write_text(RULES)
        self.write_config(mode="enforce")

    def write_config(self, mode: str) -> None:
        engines = [
            {"name": "r1", "kind": "reference", "url": self.engine},
            {"name": "switch", "kind": "vllm", "url": self.switch.url},
        ]
        remedy = {
            "name": "slow",
            "match": ['alertname="Trip"'],
            "action": "pace",
            "target": {"engine": "r1"},
            "parameters": {"duty": 0.5},
            "verify": {"expr": "vector(1)", "within": "1m"},
        }
        config = {
            "web": {"listen": f"127.0.0.1:{self.port}"},
            "state": {"dir": str(self.state)},
            "engine": {"enabled": False},
            "engines": engines,
            "sample": {"interval": "200ms"},
            "collectors": {"engine": {"interval": "200ms"}},
            "rules": {"builtin": False, "files": [str(self.folder / "rules.yml")], "interval": "200ms"},
            "remediation": {"mode": mode, "pause_file": str(self.folder / "pause"), "builtin": False},
            "remedies": [remedy],
        }
        (self.folder / "config.yml").write_text(json.dumps(config))

    @contextlib.contextmanager
    def run_agent(self, script: str = "") -> Iterator[subprocess.Popen[bytes]]:
        program = ["-c", script] if script else ["-m", "agent"]
        arguments = [sys.executable, *program, "run", "--plain", "--config", str(self.folder / "config.yml")]
        with processes.run_process(arguments, self.folder / "agent.log") as process:
            yield process

    def read_duty(self) -> float:
        text = processes.fetch(f"{self.engine}/metrics") or ""
        return float(re.findall(r"^steadytok_reference_duty (\S+)$", text, re.MULTILINE)[0])

    def is_paced(self) -> bool:
        return self.read_duty() == 0.5

    def is_at_full_speed(self) -> bool:
        return self.read_duty() == 1.0

    def read_entries(self) -> list[AuditEntry]:
        path = self.state / journal.FILE
        return journal.read_audit(path, 1000) if path.exists() else []

    def has_entry(self, event: str) -> bool:
        return any(entry.what == event for entry in self.read_entries())

    def read_state(self) -> RemediationState:
        reopened = journal.Journal(self.state, lambda: journal.take_timestamp(round(time.time() * 1000)))
        reopened.close()
        return reopened.state

    def run_command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "agent", "remedies", *arguments, "--config", str(self.folder / "config.yml")]
        return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.fixture(scope="module", name="engine")
def _engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("engine")
    write_secret(folder / "token", TOKEN)
    port = processes.find_free_port()
    arguments = [sys.executable, "-m", "engine", "--port", str(port), "--size", "1MiB", "--token-file"]
    with processes.run_process([*arguments, str(folder / "token")], folder / "log"):
        url = f"http://127.0.0.1:{port}"
        processes.wait_until(lambda: processes.fetch(f"{url}/healthz") is not None, 30, "the engine answers")
        yield url


@pytest.fixture(name="stage")
def _stage(tmp_path: Path, engine: str) -> Iterator[Stage]:
    switch = Switch()
    yield Stage(tmp_path, engine, switch)
    switch.server.shutdown()
    switch.server.server_close()
    request = _Put(f"{engine}/pace", b'{"duty": 1.0, "ttl": "1s"}', {"Authorization": f"Bearer {TOKEN}"})
    processes.urllib.request.urlopen(request, timeout=5).close()


class _Put(processes.urllib.request.Request):
    def get_method(self) -> str:
        return "PUT"


def test_a_firing_alert_paces_and_its_end_puts_back(stage: Stage) -> None:
    """The engine is at the remedy's duty while the alert fires, and at full speed when it has resolved."""
    with stage.run_agent() as agent:
        stage.switch.running = 9
        processes.wait_until(stage.is_paced, 20, "the engine is paced")
        processes.wait_until(lambda: stage.has_entry("helped"), 10, "it has helped")
        listing = stage.run_command("list")
        stage.switch.running = 0
        processes.wait_until(stage.is_at_full_speed, 10, "the engine is at full speed")
        processes.wait_until(lambda: stage.has_entry("restored"), 10, "the audit says so")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(10) == 0

    assert [entry.what for entry in stage.read_entries()] == [
        "begin",
        "intended",
        "did",
        "helped",
        "release",
        "restored",
    ]
    assert "slow: held, 2 acts left this hour" in listing.stdout
    effect = "engine r1 from full speed to a duty of 0.5; its expression 1 -> 1; helped"
    assert f"  last effect: {effect}\n" in listing.stdout
    assert stage.read_state().acts == ()


def test_observing_touches_nothing(stage: Stage) -> None:
    """In observe mode the audit has the acts that would have been done, and the engine gets no request."""
    stage.write_config(mode="observe")
    stage.switch.running = 9
    with stage.run_agent():
        processes.wait_until(lambda: stage.has_entry("did"), 20, "an act is observed")
        assert stage.is_at_full_speed()
        diary = stage.run_command("audit")

    assert "slow (Trip): observe only: done" in diary.stdout
    assert all(entry.observed for entry in stage.read_entries())


BEFORE_THE_WRITE = KILLED.format(function="do", before=NOW)
BEFORE_THE_READ_BACK = KILLED.format(function="put_pace", before="pass")


@pytest.mark.deep
@pytest.mark.parametrize("script", [BEFORE_THE_WRITE, BEFORE_THE_READ_BACK], ids=["before write", "before read-back"])
def test_killed_in_the_middle_of_a_write(stage: Stage, script: str) -> None:
    """After the restart the write is undone if it may have happened, and is not tried again within the cooldown."""
    stage.switch.running = 9
    with stage.run_agent(script) as agent:
        assert agent.wait(30) == -signal.SIGKILL
    assert [act.phase.value for act in stage.read_state().acts] == ["writing"]
    assert stage.is_paced() == (script is BEFORE_THE_READ_BACK)

    with stage.run_agent():
        processes.wait_until(lambda: stage.has_entry("restored"), 20, "it is put back")
        processes.wait_until(stage.is_at_full_speed, 10, "the engine is at full speed")
        processes.wait_until(lambda: stage.has_entry("suppressed"), 10, "the next act waits")

    assert stage.read_state().acts == ()
    assert [entry.what for entry in stage.read_entries()].count("begin") == 1


@pytest.mark.deep
@pytest.mark.parametrize(
    "running", [pytest.param(9, marks=pytest.mark.deep, id="still firing"), pytest.param(0, id="ended")]
)
def test_killed_between_act_and_resolve(stage: Stage, running: int) -> None:
    """An act stays held while its alert fires, and is undone if the alert has ended meanwhile."""
    stage.switch.running = 9
    with stage.run_agent() as agent:
        processes.wait_until(lambda: stage.has_entry("helped"), 20, "the engine is paced and verified")
        agent.kill()
    assert stage.is_paced()

    stage.switch.running = running
    with stage.run_agent():
        is_as_expected: Callable[[], bool] = stage.is_paced if running else stage.is_at_full_speed
        processes.wait_until(
            lambda: stage.has_entry("interrupted") and is_as_expected(), 20, "the machine is as the journal says"
        )
        time.sleep(1)
        assert is_as_expected()

    assert [entry.what for entry in stage.read_entries()].count("begin") == 1


def test_the_kill_switch_puts_everything_back(stage: Stage) -> None:
    """With the file every held act is released, and nothing begins."""
    stage.switch.running = 9
    with stage.run_agent():
        processes.wait_until(lambda: stage.has_entry("did"), 120, "the act is in the audit")
        processes.wait_until(stage.is_paced, 120, "the engine is paced")
        (stage.folder / "pause").touch()
        processes.wait_until(lambda: stage.has_entry("restored"), 120, "the act is put back")
        processes.wait_until(stage.is_at_full_speed, 120, "the engine is at full speed")


@pytest.mark.deep
def test_somebody_else_who_paces_is_left_alone(stage: Stage) -> None:
    """Someone else's duty is neither overwritten nor ended, and the remedy gives up."""
    stage.switch.running = 9
    with stage.run_agent():
        processes.wait_until(lambda: stage.has_entry("helped"), 20, "the engine is paced")
        request = _Put(f"{stage.engine}/pace", b'{"duty": 0.9, "ttl": "60s"}', {"Authorization": f"Bearer {TOKEN}"})
        processes.urllib.request.urlopen(request, timeout=5).close()
        processes.wait_until(lambda: stage.has_entry("changed"), 25, "it is seen at the next renewal")
        assert stage.read_duty() == 0.9
        assert "changed by someone else" in stage.run_command("list").stdout


@pytest.mark.deep
def test_full_speed_without_the_agent(stage: Stage) -> None:
    """After kill -9 and no restart the lease ends by itself."""
    stage.switch.running = 9
    with stage.run_agent() as agent:
        processes.wait_until(stage.is_paced, 20, "the engine is paced")
        agent.kill()
        processes.wait_until(stage.is_at_full_speed, 120, "the engine is at full speed")


@pytest.mark.deep
def test_the_commands_say_what_is_wrong(stage: Stage) -> None:
    """Wrong names, no agent and a wrong token each get one sentence and a status; a pause pauses."""
    lonely = stage.run_command("list")
    assert (lonely.returncode, lonely.stderr.count("\n")) == (1, 1)
    assert "is it running?" in lonely.stderr

    with stage.run_agent():
        url = f"http://127.0.0.1:{stage.port}"
        processes.wait_until(lambda: processes.fetch(f"{url}/-/ready") is not None, 20, "the agent is ready")
        unknown, tried = stage.run_command("try", "slo"), stage.run_command("try", "slow")
        nothing, paused = stage.run_command("resume"), stage.run_command("pause", "night")
        stage.switch.running = 9
        processes.wait_until(lambda: stage.has_entry("suppressed"), 10, "the pause is in the audit")
        resumed, read, wrong = (
            stage.run_command("resume", "night"),
            _fetch_status(f"{url}/api/v1/remedies"),
            _post_with_wrong_token(f"{url}/api/v1/remedies/pause"),
        )
        lines = [json.loads(line) for line in stage.run_command("audit", "--json").stdout.splitlines()]

    assert (unknown.returncode, unknown.stderr) == (1, "steadytok: no remedy is named 'slo'; there are: slow\n")
    assert tried.stdout == "slow would act: engine r1 from full speed to a duty of 0.5 (before: 1.0, then: 0.5)\n"
    assert nothing.stderr == "steadytok: nothing is paused or given up; there is: nothing\n"
    assert (paused.returncode, resumed.returncode, read, wrong) == (0, 0, 200, 401)
    assert [line["what"] for line in lines][:2] == ["paused", "suppressed"]
    assert lines[1]["labels"]["alertname"] == "Trip"


def _post_with_wrong_token(url: str) -> int:
    return _fetch_status(processes.urllib.request.Request(url, b"{}", {"Authorization": "Bearer guessed"}))


def _fetch_status(request: str | processes.urllib.request.Request) -> int:
    try:
        with processes.urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except processes.urllib.error.HTTPError as error:
        return error.code


@pytest.mark.deep
def test_a_hanging_action_delays_no_tick(stage: Stage) -> None:
    """An action that never returns costs its thread; the agent goes on ticking."""
    script = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "pass").format(
        function="do", before="import time; time.sleep(3600)"
    )
    stage.switch.running = 9
    with stage.run_agent(script):
        processes.wait_until(lambda: stage.has_entry("intended"), 20, "it is about to act")
        time.sleep(1.5)
        late = re.findall(
            r"^steadytok_tick_late_seconds (\S+)", processes.fetch(f"http://127.0.0.1:{stage.port}/metrics") or "", re.M
        )
        assert processes.fetch(f"http://127.0.0.1:{stage.port}/-/healthy") == "steadytok is healthy.\n"

    assert float(late[0]) < 1.5


def test_a_journal_that_cannot_be_read_stops_all_acting(stage: Stage) -> None:
    """The file is left unchanged, the log says what to do, and the engine is not touched."""
    stage.switch.running = 9
    (stage.state / journal.FILE).write_bytes(b"this is no database, whatever its name says" * 100)
    with stage.run_agent():
        url = f"http://127.0.0.1:{stage.port}"
        halted, firing = "steadytok_remedies_halted 1", '"state":"firing"'
        processes.wait_until(lambda: halted in (processes.fetch(f"{url}/metrics") or ""), 20, "it is halted")
        processes.wait_until(lambda: firing in (processes.fetch(f"{url}/api/v1/alerts") or ""), 10, "the alert fires")
        time.sleep(1)
        assert stage.is_at_full_speed()

    assert "so no remedy acts" in (stage.folder / "agent.log").read_text()
