"""Two real Alertmanagers beside one that fails and one that hangs: nothing lost, nothing stuck, order kept."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.remediation import journal
from tests import processes
from tests.alertmanagers import build_machine, fetch_active_alerts, run_alertmanager
from tests.secret_files import write_secret

pytestmark = [pytest.mark.deep, pytest.mark.timeout(240)]

RULES = """
groups:
  - name: test
    rules:
      - alert: DimmTooHot
        expr: steadytok_dimm_temperature_celsius > 80
"""


class Peer:
    """An Alertmanager that answers with a status or not at all, and keeps what it was told."""

    def __init__(self, status: int = 200, hangs: float = 0.0) -> None:
        self.status = status
        self.received: list[dict[str, Any]] = []
        peer = self

        class Door(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                peer.received += json.loads(body)
                time.sleep(hangs)
                with contextlib.suppress(OSError):  # whoever asked has gone
                    self.send_response(peer.status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Door)
        server.daemon_threads = True
        self.address = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()


class Box:
    """An agent on a machine of one DIMM, which tells several Alertmanagers again and again."""

    def __init__(self, home: Path, addresses: list[str], resend: str = "1s") -> None:
        self.home = home
        self.sensor = build_machine(home / "root", 45)
        self.port = processes.find_free_port()
        groups = [{"timeout": "2s", "static_configs": [{"targets": [address]}]} for address in addresses]
        document = {
            "external_labels": {"instance": "box"},
            "engine": {"enabled": False},
            "rules": {"builtin": False, "files": [str(home / "rules.yml")]},
            "alerting": {"resend_delay": resend, "alertmanagers": groups},
            "web": {"listen": f"127.0.0.1:{self.port}"},
            "state": {"dir": str(home / "state")},
        }
        (home / "rules.yml").write_text(RULES)
        (home / "steadytok.yml").write_text(json.dumps(document))

    @contextlib.contextmanager
    def run_agent(self) -> Iterator[subprocess.Popen[bytes]]:
        arguments = [sys.executable, "-m", "agent", "run", "--plain", "--root", str(self.home / "root")]
        with processes.run_process(
            [*arguments, "--config", str(self.home / "steadytok.yml")], self.home / "log"
        ) as process:
            yield process

    def heat(self, celsius: int) -> None:
        self.sensor.write_text(f"{celsius}000\n")

    def count(self, metric: str, address: str) -> float:
        text = processes.fetch(f"http://127.0.0.1:{self.port}/metrics") or ""
        where = re.escape(f'alertmanager="http://{address}/api/v2/alerts"')
        values = re.findall(rf"^steadytok_notifications_{metric}{{{where}}} (\S+)$", text, re.MULTILINE)
        return float(values[0]) if values else -1.0


def make_folder(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir(exist_ok=True)
    return tmp_path / name


def test_whoever_fails_keeps_nothing_from_the_others(tmp_path: Path) -> None:
    """Beside one that answers 500 and one that hangs, both real ones are told at once, again, and of the end."""
    failing, hanging = Peer(status=500), Peer(hangs=30.0)
    with run_alertmanager(make_folder(tmp_path, "a")) as a, run_alertmanager(make_folder(tmp_path, "b")) as b:
        box = Box(make_folder(tmp_path, "box"), [failing.address, hanging.address, a, b])
        with box.run_agent():
            processes.wait_until(lambda: box.count("sent_total", a) == 0.0, 30, "the agent counts from 0")
            box.heat(88)
            processes.wait_until(
                lambda: bool(fetch_active_alerts(a)) and bool(fetch_active_alerts(b)), 20, "both are told"
            )
            first = {address: fetch_active_alerts(address)["box"] for address in (a, b)}
            processes.wait_until(
                lambda: all(fetch_active_alerts(each)["box"]["endsAt"] > first[each]["endsAt"] for each in (a, b)),
                20,
                "kept alive",
            )
            assert (
                fetch_active_alerts(a)["box"]["startsAt"]
                == fetch_active_alerts(b)["box"]["startsAt"]
                == first[a]["startsAt"]
            )
            box.heat(45)
            processes.wait_until(
                lambda: not fetch_active_alerts(a) and not fetch_active_alerts(b), 20, "both are told of the end"
            )
            processes.wait_until(lambda: box.count("errors_total", failing.address) >= 3, 60, "its errors count")
            assert box.count("errors_total", hanging.address) >= 1
            assert box.count("errors_total", a) == box.count("errors_total", b) == 0.0
            assert box.count("dropped_total", hanging.address) == 0.0
            failing.status = 200
            processes.wait_until(
                lambda: box.count("sent_total", failing.address) > 0, 20, "it is told once it takes them"
            )
    log = (box.home / "log").read_text()
    assert log.count("alerts cannot be sent") == 2  # once for each, not for each batch


def test_order_is_kept(tmp_path: Path) -> None:
    """One that was slow for a while is told of begin, life and end in the order in which they were."""
    slow = Peer(hangs=0.7)
    box = Box(make_folder(tmp_path, "box"), [slow.address])
    with box.run_agent():
        processes.wait_until(lambda: box.count("sent_total", slow.address) == 0.0, 30, "the agent counts from 0")
        for celsius in (88, 45, 91, 45):
            box.heat(celsius)
            time.sleep(4)
        processes.wait_until(lambda: len(_list_ended(slow)) == 2, 20, "both heats and their ends are told")
    for starts in _list_ended(slow):
        ends = [alert["endsAt"] for alert in slow.received if alert["startsAt"] == starts]
        *firing, last = [end for end, _ in itertools.groupby(ends)]  # the end is told again and again
        assert firing == sorted(firing)
        assert last < firing[-1]  # it has resolved: its end is in the past
    begins = [alert["startsAt"] for alert in slow.received]
    assert begins == sorted(begins)


def _list_ended(peer: Peer) -> set[str]:
    """When those alerts began whose end, which is before what was promised, has been told."""
    ends: dict[str, list[str]] = {}
    for alert in list(peer.received):
        ends.setdefault(alert["startsAt"], []).append(alert["endsAt"])
    return {starts for starts, of_one in ends.items() if of_one[-1] < max(of_one)}


def test_one_is_down_for_a_while(tmp_path: Path) -> None:
    """What began and what ended meanwhile is told within one resend of its return; the other never misses any."""
    with run_alertmanager(make_folder(tmp_path, "a")) as a, contextlib.ExitStack() as life:
        b = life.enter_context(run_alertmanager(make_folder(tmp_path, "b")))
        # An alert lives for four resends: longer than a new agent takes to come up.
        box = Box(make_folder(tmp_path, "box"), [a, b], resend="6s")
        with box.run_agent() as agent:
            box.heat(88)
            processes.wait_until(
                lambda: bool(fetch_active_alerts(a)) and bool(fetch_active_alerts(b)), 30, "both are told"
            )
            before = fetch_active_alerts(b)["box"]["startsAt"]
            life.close()
            box.heat(45)
            processes.wait_until(lambda: not fetch_active_alerts(a), 20, "one is told of the end")
            time.sleep(14)  # two resends are lost to the one that is down
            with run_alertmanager(make_folder(tmp_path, "b"), address=b):
                processes.wait_until(
                    lambda: not fetch_active_alerts(b), 20, "the other is told of the end, which it had missed"
                )
                box.heat(90)
                processes.wait_until(
                    lambda: bool(fetch_active_alerts(a)) and bool(fetch_active_alerts(b)),
                    20,
                    "both are told of the next",
                )
                assert fetch_active_alerts(b)["box"]["startsAt"] > before
                since = fetch_active_alerts(b)["box"]["startsAt"]

                agent.send_signal(signal.SIGKILL)
                agent.wait(10)
                with box.run_agent():
                    ends = fetch_active_alerts(b)["box"]["endsAt"]
                    processes.wait_until(
                        lambda: fetch_active_alerts(b)["box"]["endsAt"] > ends, 30, "a new agent keeps it alive"
                    )
                    assert fetch_active_alerts(b)["box"]["startsAt"] == since
                    box.heat(45)
                    processes.wait_until(
                        lambda: not fetch_active_alerts(a) and not fetch_active_alerts(b), 30, "and tells of its end"
                    )


class Losing(http.server.ThreadingHTTPServer):
    """Stands before an agent's webhook: hands the first posts on, and answers 502 whatever the agent said."""

    daemon_threads = True

    def __init__(self, agent: str, losses: int) -> None:
        self.statuses: list[int] = []
        losing = self

        class Door(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name: self.headers[name] for name in ("Authorization", "Content-Type")}
                request = processes.urllib.request.Request(f"http://{agent}{self.path}", body, headers)
                try:
                    with processes.urllib.request.urlopen(request, timeout=10) as answer:
                        status = answer.status
                except processes.urllib.error.HTTPError as error:
                    status = error.code
                losing.statuses.append(status)
                self.send_response(502 if len(losing.statuses) <= losses else status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        super().__init__(("127.0.0.1", 0), Door)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def test_a_real_webhook_triggers_a_remedy_once(tmp_path: Path) -> None:
    """An alert of the fleet, posted by Alertmanager, acts once, however often its post is tried again."""
    acted = Peer()
    port, home = processes.find_free_port(), make_folder(tmp_path, "box")
    losing = Losing(f"127.0.0.1:{port}", losses=2)
    write_secret(home / "webhook.token", "a-token-for-alertmanager")
    remedy = {
        "name": "tell",
        "match": ['alertname="RackHot"'],
        "sources": ["webhook"],
        "labels": {"rack": "r[0-9]+"},
        "action": "webhook",
        "target": {"url": f"http://{acted.address}/"},
        "cooldown": "1m",
    }
    document = {
        "external_labels": {"instance": "box"},
        "engine": {"enabled": False},
        "rules": {"builtin": False},
        "web": {"listen": f"127.0.0.1:{port}", "tokens": {"alertmanager": str(home / "webhook.token")}},
        "state": {"dir": str(home / "state")},
        "remediation": {"mode": "enforce", "builtin": False, "pause_file": str(home / "pause")},
        "remedies": [remedy],
    }
    (home / "steadytok.yml").write_text(json.dumps(document))
    receiver = f"""
route: {{receiver: box, group_wait: 100ms, group_interval: 1s, repeat_interval: 2s, group_by: ["..."]}}
receivers:
- name: box
  webhook_configs:
  - url: http://127.0.0.1:{losing.server_port}/api/v1/webhook/alertmanager
    http_config: {{authorization: {{credentials: a-token-for-alertmanager}}}}
"""
    # Each without a body of its own: a JSON body of ours is no list of alerts, so only the posts are counted.
    acted.received = []
    arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(home / "steadytok.yml")]
    with run_alertmanager(make_folder(tmp_path, "am"), receiver) as am, processes.run_process(arguments, home / "log"):
        processes.wait_until(lambda: processes.fetch(f"http://127.0.0.1:{port}/-/ready") is not None, 60, "ready")
        _tell(am, {"alertname": "RackHot", "instance": "box", "rack": "r7; reboot"})
        _tell(am, {"alertname": "RackHot", "instance": "other", "rack": "r8"})
        _tell(am, {"alertname": "RackHot", "instance": "box", "rack": "r7"})
        processes.wait_until(lambda: len(_list_actions(home)) == 1, 30, "the remedy has acted")
        processes.wait_until(lambda: len(losing.statuses) >= 8, 30, "it was posted again and again")
        for outcome in ("taken", "repeated", "unwanted"):
            processes.wait_until(functools.partial(_has_counted, port, outcome), 30, f"one that was {outcome} counts")
    (did,) = _list_actions(home)
    assert dict(did.labels)["rack"] == "r7"
    assert set(losing.statuses) == {200}


def _has_counted(port: int, outcome: str) -> bool:
    metrics = processes.fetch(f"http://127.0.0.1:{port}/metrics") or ""
    return re.search(rf'steadytok_webhook_alerts_total{{outcome="{outcome}"}} [1-9]', metrics) is not None


def _tell(address: str, labels: dict[str, str]) -> None:
    body = json.dumps([{"labels": labels}]).encode()
    headers = {"Content-Type": "application/json"}
    request = processes.urllib.request.Request(f"http://{address}/api/v2/alerts", body, headers)
    with processes.urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def _list_actions(home: Path) -> list[Any]:
    path = home / "state" / journal.FILE
    return [entry for entry in journal.read_audit(path, 1000) if entry.what == "did"] if path.exists() else []


def test_what_alertmanager_has_silenced_is_left(tmp_path: Path) -> None:
    """A remedy that honours silences begins nothing for a silenced alert, and acts when the silence has ended."""
    home = make_folder(tmp_path, "box")
    (home / "rules.yml").write_text("groups: [{name: t, rules: [{alert: Always, expr: vector(1)}]}]\n")
    remedy = {"name": "tell", "match": ['alertname="Always"'], "action": "webhook", "cooldown": "1m"}
    with run_alertmanager(make_folder(tmp_path, "am")) as am:
        silence = _silence(am, {"alertname": "Always", "instance": "box"})
        document = {
            "external_labels": {"instance": "box"},
            "engine": {"enabled": False},
            "rules": {"builtin": False, "files": [str(home / "rules.yml")]},
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [am]}]}]},
            "web": {"listen": f"127.0.0.1:{processes.find_free_port()}"},
            "state": {"dir": str(home / "state")},
            "remediation": {"silences": True, "builtin": False},
            "remedies": [{**remedy, "target": {"url": "http://127.0.0.1:9/"}}],
        }
        (home / "steadytok.yml").write_text(json.dumps(document))
        arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(home / "steadytok.yml")]
        with processes.run_process(arguments, home / "log"):
            processes.wait_until(lambda: "silenced in Alertmanager" in _read_log(home), 40, "it is seen to be silenced")
            assert "begin" not in _read_log(home).split()
            url = f"http://{am}/api/v2/silence/{silence}"
            with processes.urllib.request.urlopen(processes.urllib.request.Request(url, method="DELETE"), timeout=10):
                pass
            processes.wait_until(lambda: "begin" in _read_log(home).split(), 40, "it is acted upon once it speaks")


def _silence(address: str, labels: dict[str, str]) -> str:
    matchers = [{"name": name, "value": value, "isRegex": False, "isEqual": True} for name, value in labels.items()]
    times = {"startsAt": "2020-01-01T00:00:00Z", "endsAt": "2099-01-01T00:00:00Z"}
    body = json.dumps({"matchers": matchers, **times, "createdBy": "test", "comment": "test"}).encode()
    headers = {"Content-Type": "application/json"}
    request = processes.urllib.request.Request(f"http://{address}/api/v2/silences", body, headers)
    with processes.urllib.request.urlopen(request, timeout=10) as answer:
        return str(json.load(answer)["silenceID"])


def _read_log(home: Path) -> str:
    path = home / "state" / journal.FILE
    entries = journal.read_audit(path, 1000) if path.exists() else []
    return " ".join(f"{entry.what} {entry.says}" for entry in entries)
