"""The child of a dead agent undoes the acts that hold no lease, and nothing else."""

from __future__ import annotations

import json
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.remediation import crash_rollback
from agent.remediation.action_context import LiveActionContext
from agent.remediation.journal import FILE, Journal, take_timestamp
from agent.remediation.model import Act, Claim, Phase, RemediationState
from rules.history.history import History
from tests import processes
from tests.agent.actions.test_actions import FakeContext

WEIGHT = {"weight": 20, "drain": False}
PRIOR = {"weight": 100, "drain": False}


class Proxy(socketserver.ThreadingUnixStreamServer):
    """A HAProxy of one server with a real runtime socket."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.path, self.server = str(path), FakeContext()
        self.server.weight = WEIGHT["weight"]
        super().__init__(self.path, Answer)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def make_held_act(self) -> Act:
        """Returns the journal's act of a held weight."""
        target = {"socket": self.path, "backend": "llm", "server": "a"}
        means = {"action": "haproxy", "target": target, "parameters": {"weight": 20}, "engines": {}}
        claims = (Claim("less", (("alertname", "Hot"),), 20.0),)
        held_act = Act(1, "less", f"haproxy {self.path} llm/a", claims[0].labels, False, True, Phase.HELD, 0, claims)
        return replace(held_act, prior=json.dumps(PRIOR), ours=(json.dumps(WEIGHT),), undo_recipe=json.dumps(means))


class Answer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Proxy)
        self.wfile.write(self.server.server.line("", self.rfile.readline().decode()).encode())


@pytest.fixture(name="proxy")
def _proxy(tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(tmp_path / "sock") as proxy:
        yield proxy
        proxy.shutdown()


def write_journal(folder: Path, *acts: Act) -> None:
    committed = threading.Event()
    journal = Journal(folder, lambda: take_timestamp(0))
    journal.commit(RemediationState(acts=acts), (), lambda fault: committed.set() if fault is None else None)
    assert committed.wait(10)
    journal.close()


def start_child(folder: Path) -> subprocess.Popen[bytes]:
    arguments = ["-P", "-m", "agent.remediation.crash_rollback", str(folder), "/nobody", str(folder / "token")]
    process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    processes.wait_until(
        lambda: all(ignores_signal(process.pid, number) for number in crash_rollback.IGNORED_SIGNALS),
        20,
        "the child waits",
    )
    return process


def ignores_signal(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigIgn:")[2].split()[0], 16) >> (number - 1) & 1)


def test_a_weight_comes_back_when_the_agent_is_dead(proxy: Proxy, tmp_path: Path) -> None:
    """
    The child waits until standard input closes, whatever signal systemd sends to the unit; leases end by themselves.
    """
    pace = {"action": "pace", "target": {"url": "http://127.0.0.1:1"}, "parameters": {}, "engines": {}}
    paced = replace(
        proxy.make_held_act(), id=2, resource="pace", prior="1.0", ours=("0.5",), undo_recipe=json.dumps(pace)
    )
    observed = replace(proxy.make_held_act(), id=3, observed=True, prior=json.dumps({"weight": 1, "drain": False}))
    write_journal(tmp_path, paced, observed, proxy.make_held_act())
    process = start_child(tmp_path)
    for number in crash_rollback.IGNORED_SIGNALS:
        process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    assert proxy.server.weight == 20

    _, error_output = process.communicate(timeout=20)
    assert (process.returncode, proxy.server.weight) == (0, 100)
    assert error_output.decode() == f"haproxy {proxy.path} llm/a: restored\n"


def test_a_journal_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """The child ends with status 1 and leaves the held acts to the next agent, or to a person."""
    (tmp_path / FILE).write_text("no database, and longer than the header that one has" * 9)
    process = start_child(tmp_path)

    _, error_output = process.communicate(timeout=20)
    assert process.returncode == 1
    assert error_output.decode() == f"{tmp_path / FILE} cannot be read: file is not a database\n"


def make_context(folder: Path) -> LiveActionContext:
    return LiveActionContext(History(60_000).snapshot(), 0, "/", "/nobody", folder / "token")


def test_what_somebody_else_set_stays(proxy: Proxy, tmp_path: Path) -> None:
    """A value that someone else changed is left alone, as at the end of an alert."""
    write_journal(tmp_path, proxy.make_held_act())
    proxy.server.weight = 7

    assert crash_rollback.roll_back(tmp_path, make_context(tmp_path))
    assert proxy.server.weight == 7


def test_a_proxy_that_does_not_answer_is_not_asked_for_ever(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child gives up before systemd kills it; an uninstalled action does not keep it from the others."""
    means = {"action": "gone", "target": {}, "parameters": {}, "engines": {}}
    nowhere = json.loads(proxy.make_held_act().undo_recipe)
    nowhere["target"]["socket"] = "/nobody"
    lost = replace(proxy.make_held_act(), id=2, undo_recipe=json.dumps(nowhere))
    write_journal(
        tmp_path, replace(proxy.make_held_act(), id=3, undo_recipe=json.dumps(means)), lost, proxy.make_held_act()
    )
    monkeypatch.setattr(crash_rollback, "ROLLBACK_TIMEOUT", 0.0)

    assert not crash_rollback.roll_back(tmp_path, make_context(tmp_path))
    assert proxy.server.weight == 100
