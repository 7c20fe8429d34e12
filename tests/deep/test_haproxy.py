"""The action `haproxy` against the real program: traffic really moves, and comes back."""

from __future__ import annotations

import collections
import contextlib
import http.server
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.actions import ChangedError, FailedError, RefusedError, Task, haproxy
from agent.remediation.action_context import LiveActionContext
from rules.history.history import History
from tests import processes

pytestmark = pytest.mark.deep

RULES = """
groups:
  - name: test
    rules:
      - alert: Always
        expr: steadytok_meminfo_mem_total_bytes > 0
"""

CONFIG = """
global
    stats socket {socket} mode 600 level {level}
    stats timeout 5s
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend door
    bind 127.0.0.1:{port}
    default_backend llm
backend llm
    balance {balance}
    server a 127.0.0.1:{a} weight 100
    server b 127.0.0.1:{b} weight 100
"""


class Named(http.server.BaseHTTPRequestHandler):
    """Answers with the port that it listens on."""

    def do_GET(self) -> None:
        body = str(self.server.server_address[1]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@dataclass
class Proxy:
    """A HAProxy before two engines."""

    url: str
    socket: str
    a: int
    reach: LiveActionContext
    master: subprocess.Popen[bytes]

    def task(self, weight: int | None = None, *, drain: bool = False, server: str = "a") -> Task:
        """What a remedy asks."""
        target = {"socket": self.socket, "backend": "llm", "server": server}
        return Task("less", target, haproxy.Config(weight=weight, drain=drain), {}, {})

    def weight(self) -> int:
        """What server a has now."""
        return int(self.reach.line(self.socket, "get weight llm/a").split()[0])

    @contextlib.contextmanager
    def agent(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        """One whose only alert always fires, and whose only remedy takes weight from server a."""
        (folder / "rules.yml").write_text(RULES)
        target = {"socket": self.socket, "backend": "llm", "server": "a"}
        remedy = {"name": "less", "match": ['alertname="Always"'], "action": "haproxy", "target": target}
        config = {
            "web": {"listen": f"127.0.0.1:{processes.find_free_port()}"},
            "state": {"dir": str(folder / "state")},
            "engine": {"enabled": False},
            "sample": {"interval": "200ms"},
            "rules": {"builtin": False, "files": [str(folder / "rules.yml")], "interval": "200ms"},
            "remediation": {"mode": "enforce", "pause_file": str(folder / "pause"), "builtin": False},
            "remedies": [{**remedy, "parameters": {"weight": 20}, "verify": {"expr": "vector(1)"}}],
        }
        (folder / "config.yml").write_text(json.dumps(config))
        arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(folder / "config.yml")]
        with processes.run_process(arguments, folder / "agent.log") as process:
            yield process

    def share(self) -> float:
        """Of fifty new connections, how many server a gets."""
        answers = collections.Counter(self._one() for _ in range(50))
        return answers[str(self.a)] / 50

    def _one(self) -> str:
        with urllib.request.urlopen(self.url, timeout=5) as answer:
            return str(answer.read().decode())


@pytest.fixture(name="servers")
def _servers() -> Iterator[list[int]]:
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Named) for _ in "ab"]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [server.server_port for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(name="proxy")
def _proxy(request: pytest.FixtureRequest, tmp_path: Path, servers: list[int]) -> Iterator[Proxy]:
    options = {"balance": "roundrobin", "level": "admin", **getattr(request, "param", {})}
    port, (a, b) = processes.find_free_port(), servers
    (tmp_path / "cfg").write_text(CONFIG.format(socket=tmp_path / "sock", port=port, a=a, b=b, **options))
    arguments = [processes.require_program("haproxy"), "-W", "-f", str(tmp_path / "cfg")]
    with processes.run_process(arguments, tmp_path / "log") as master:
        url = f"http://127.0.0.1:{port}/"
        processes.wait_until(lambda: processes.fetch(url) is not None, 20, "haproxy serves")
        reach = LiveActionContext(History(60_000).snapshot(), 0, "/", "/nobody", tmp_path / "token")
        yield Proxy(url, str(tmp_path / "sock"), a, reach, master)


def test_a_server_gets_less_and_then_its_share_again(proxy: Proxy) -> None:
    """A fifth of its weight is a sixth of the traffic; the prior weight comes back."""
    task = proxy.task(20)
    plan = haproxy.plan(task, proxy.reach)
    assert plan.prior == {"weight": 100, "drain": False}
    assert proxy.share() == pytest.approx(0.5, abs=0.05)

    assert haproxy.do(task, plan, proxy.reach) == {"weight": 20, "drain": False}
    assert proxy.share() == pytest.approx(1 / 6, abs=0.06)

    haproxy.undo(task, plan._replace(ours=(plan.wanted,)), proxy.reach)
    assert proxy.share() == pytest.approx(0.5, abs=0.05)


def test_a_server_is_drained_and_made_ready(proxy: Proxy) -> None:
    """No new connection reaches it until it is put back; twice is once."""
    task = proxy.task(drain=True)
    plan = haproxy.plan(task, proxy.reach)
    haproxy.do(task, plan, proxy.reach)
    assert proxy.share() == 0
    with pytest.raises(RefusedError, match="is being drained already, by another program"):
        haproxy.plan(task, proxy.reach)

    for _ in range(2):
        haproxy.undo(task, plan._replace(ours=(plan.wanted,)), proxy.reach)
        assert proxy.share() == pytest.approx(0.5, abs=0.05)


def test_what_the_operator_sets_meanwhile_stays(proxy: Proxy) -> None:
    """Neither overwritten nor put back; and a server in maintenance is not touched."""
    task = proxy.task(20)
    plan = haproxy.plan(task, proxy.reach)
    haproxy.do(task, plan, proxy.reach)
    proxy.reach.line(proxy.socket, "set server llm/a weight 50")
    with pytest.raises(ChangedError, match="was set to weight 50 by someone else"):
        haproxy.undo(task, plan._replace(ours=(plan.wanted,)), proxy.reach)

    proxy.reach.line(proxy.socket, "set server llm/a state maint")
    with pytest.raises(RefusedError, match="llm/a is in maintenance"):
        haproxy.plan(task, proxy.reach)


def test_names_that_are_not_there_are_told(proxy: Proxy) -> None:
    """With those that are."""
    with pytest.raises(RefusedError, match="backend llm has no server c; there are: a, b"):
        haproxy.plan(proxy.task(20, server="c"), proxy.reach)
    nowhere = Task("less", {"socket": proxy.socket, "backend": "x", "server": "a"}, haproxy.Config(weight=1), {}, {})
    with pytest.raises(FailedError, match="haproxy: "):
        haproxy.plan(nowhere, proxy.reach)
    gone = Task("less", {"socket": "/nobody", "backend": "x", "server": "a"}, haproxy.Config(weight=1), {}, {})
    with pytest.raises(FailedError, match="/nobody: No such file or directory"):
        haproxy.plan(gone, proxy.reach)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [({"balance": "static-rr"}, "static LB algorithm"), ({"level": "operator"}, "[Pp]ermission denied")],
    indirect=["proxy"],
)
def test_what_haproxy_refuses_is_told_in_its_own_words(proxy: Proxy, words: str) -> None:
    """A backend whose weights are fixed, and a socket that may only look."""
    task = proxy.task(20)
    plan = haproxy.plan(task, proxy.reach)

    with pytest.raises(FailedError, match=words):
        haproxy.do(task, plan, proxy.reach)
    assert proxy.share() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_agent_takes_no_weight(proxy: Proxy, tmp_path: Path, number: signal.Signals) -> None:
    """However it ends and with nobody to start it again, the server has its share back."""
    with proxy.agent(tmp_path) as agent:
        processes.wait_until(lambda: proxy.weight() == 20, 30, "the weight is taken")
        agent.send_signal(number)
        agent.wait(10)
        processes.wait_until(lambda: proxy.weight() == 100, 10, "the weight is back")
    assert proxy.share() == pytest.approx(0.5, abs=0.05)


def test_a_reload_does_not_undo_what_is_held(proxy: Proxy, tmp_path: Path) -> None:
    """The new worker begins with the weight of its configuration; the next renewal sets it again."""
    with proxy.agent(tmp_path):
        processes.wait_until(lambda: proxy.weight() == 20, 30, "the weight is taken")
        proxy.master.send_signal(signal.SIGUSR2)
        processes.wait_until(lambda: proxy.weight() == 100, 10, "HAProxy has its own weight again")
        processes.wait_until(lambda: proxy.weight() == 20, 20, "the weight is taken again")
