"""One agent under every attack that its memory has met: it stays below a quarter of a gigabyte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.remediation.journal import MAX_ENTRIES, Journal, take_timestamp
from agent.remediation.model import AuditEntry, RemediationState
from tests import processes
from tests.deep.hostile_peers import HostileServer, serve_hostile_peers

pytestmark = [pytest.mark.deep, pytest.mark.timeout(600)]

MAX_MIB = 256
"""A bound, not a time: systemd's unit and the host's owner may count on it. An idle agent has 80 MiB."""

EVERYTHING = '{__name__=~".+"}'


class Target(NamedTuple):
    """The agent under attack, and its hostile Alertmanagers."""

    process: subprocess.Popen[bytes]
    port: int
    gate: threading.Event
    peers: list[HostileServer]

    def ask(self, path: str, form: Mapping[str, str] | None = None) -> int:
        """Returns the status of an answer, which is read to its end; 0 where the agent hung up."""
        body = None if form is None else urllib.parse.urlencode(form).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", body, timeout=120) as answer:
                while answer.read(1 << 16):
                    pass
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def reset_peak(self) -> None:
        """Makes the kernel measure the peak anew. https://docs.kernel.org/filesystems/proc.html, clear_refs."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def read_peak(self) -> int:
        """Returns the most memory that the process has had in RAM since then, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (kibibytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kibibytes) >> 10


def fill_journal(folder: Path) -> None:
    """Writes an audit of the greatest length."""
    committed = threading.Event()
    journal = Journal(folder, lambda: take_timestamp(1_700_000_000_000))
    labels = (("alertname", "DimmHot"), ("dimm", "P0 CHANNEL A DIMM 0"), ("engine", "vllm"))
    entries = [AuditEntry(n, "pace", labels, "pace vllm", "did", f"paced to {n % 100} %") for n in range(MAX_ENTRIES)]
    journal.commit(RemediationState(), entries, lambda fault: committed.set())
    assert committed.wait(120)
    journal.close(60)


@pytest.fixture(name="target", scope="module")
def _target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """An agent on this host with a long audit, an alert that fires, and the peers as its Alertmanagers."""
    home, port, gate = tmp_path_factory.mktemp("target"), processes.find_free_port(), threading.Event()
    (home / "state").mkdir(mode=0o700)
    fill_journal(home / "state")
    (home / "rules.yml").write_text('groups: [{name: g, rules: [{alert: Always, expr: "vector(1)"}]}]')
    with serve_hostile_peers(gate) as peers:
        addresses = [f"127.0.0.1:{peer.server_port}" for peer in peers]
        document = {
            "engine": {"enabled": False},
            "web": {"listen": f"127.0.0.1:{port}"},
            "state": {"dir": str(home / "state")},
            "rules": {"files": [str(home / "rules.yml")]},
            "remediation": {"silences": True},
            "alerting": {"resend_delay": "1s", "alertmanagers": [{"static_configs": [{"targets": addresses}]}]},
        }
        (home / "steadytok.yml").write_text(json.dumps(document))
        command = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(home / "steadytok.yml")]
        with processes.run_process(command, home / "log") as process:
            target = Target(process, port, gate, peers)
            processes.wait_until(lambda: target.ask("/-/ready") == 200, 60, "ready")
            yield target


def attack_with_clients(target: Target) -> None:
    """250 clients at a time want everything that is rendered."""
    paths = ("/metrics", "/api/v1/rules", "/api/v1/alerts", "/api/v1/remedies", "/")

    async def want_everything(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
        with contextlib.closing(writer):
            for path in paths * 2:
                encoding = "Accept-Encoding: gzip\r\n" if number % 2 else ""
                writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{encoding}\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = re.findall(rb"Content-Length: (\d+)", head)
                await reader.readexactly(int(length))

    async def want_all() -> None:
        results = await asyncio.gather(*map(want_everything, range(250)), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, OSError | EOFError):
                raise result  # those may be: a client that found no place

    asyncio.run(want_all())


def attack_with_slow_readers(target: Target) -> None:
    """100 clients ask for every series and read nothing, while others ask for the same and read all of it."""
    query = urllib.parse.urlencode({"query": EVERYTHING, "start": 0, "end": 10_000, "step": 1})
    spans = urllib.parse.urlencode({"query": f"{EVERYTHING}[1h]"})
    paths = [f"/api/v1/query_range?{query}", f"/api/v1/query?{spans}"]
    with contextlib.ExitStack() as stack:
        for number in range(100):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", target.port))
            client.sendall(f"GET {paths[number % 2]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() * 50)
        for number in range(6):
            target.ask(paths[number % 2])


def attack_with_the_audit(target: Target) -> None:
    """Readers of the whole audit: at once, which is refused, and page by page."""

    def read_pages(_: int) -> None:
        target.ask(f"/api/v1/remedies/audit?limit={MAX_ENTRIES}")
        for before in range(MAX_ENTRIES + 1, 1, -5000):
            target.ask(f"/api/v1/remedies/audit?limit=1000&before={before}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_pages, range(4)))


def attack_with_growing_queries(target: Target) -> None:
    """Expressions of a few hundred bytes whose values grow by powers."""

    def grow(seed: str, function: Callable[[str], str], depth: int) -> str:
        for _ in range(depth):
            seed = function(seed)
        return seed

    vector = 'label_replace(vector(1), "a", "xxxxxxxx", "", "")'
    labels = ", ".join(['"a"'] * 8)
    queries = [
        grow(vector, lambda inner: f'label_replace({inner}, "a", "{"$1" * 8}", "a", "(.*)")', 8),
        grow(vector, lambda inner: f'label_join({inner}, "a", "", {labels})', 8),
        grow(vector, lambda inner: f'label_replace({inner}, "a", "$1{"y" * 9000}$1", "a", "(.*)")', 6),
        f'count_values("a", {EVERYTHING})',
        " or ".join([f'label_replace({EVERYTHING}, "n{n}", "{"z" * 900}", "", "")' for n in range(40)]),
    ]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda query: target.ask("/api/v1/query", {"query": query}), queries * 2))


def attack_with_regexes(target: Target) -> None:
    """Large regular expressions, of which no two are the same."""
    for number in range(20):
        parts = "|".join(f"{number}_{part}.*y[a-z]*[0-9]+" for part in range(2500))
        target.ask("/api/v1/query", {"query": f'count({{__name__=~"({parts})"}})'})


def attack_as_alertmanagers(target: Target) -> None:
    """Every Alertmanager turns hostile, until each has had its answer taken or cut off three times."""
    before = [peer.hits for peer in target.peers]
    target.gate.set()
    answered = lambda: all(peer.hits >= first + 3 for peer, first in zip(target.peers, before, strict=True))  # noqa: E731
    over = threading.Event()
    threading.Thread(target=lambda: (over.wait(120), target.gate.clear()), daemon=True).start()
    processes.wait_until(lambda: answered() or target.read_peak() > MAX_MIB, 120, "each peer has attacked three times")
    over.set()


ATTACKS = (
    attack_with_clients,
    attack_with_the_audit,
    attack_with_slow_readers,
    attack_with_growing_queries,
    attack_with_regexes,
    attack_as_alertmanagers,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__.removeprefix("attack_"))
def test_no_attack_fills_the_memory(target: Target, attack: Callable[[Target], None]) -> None:
    """Under each attack the agent's memory in RAM stays below MAX_MIB, and it answers afterwards."""
    target.reset_peak()
    attack(target)

    assert target.ask("/-/healthy") == 200
    assert target.read_peak() < MAX_MIB


def test_all_attacks_together(target: Target) -> None:
    """The same for all of them at the same time."""
    target.reset_peak()
    with ThreadPoolExecutor(len(ATTACKS)) as pool:
        for running in [pool.submit(attack, target) for attack in ATTACKS]:
            with contextlib.suppress(OSError):  # a client that found no place
                running.result()

    assert target.ask("/-/healthy") == 200
    assert target.read_peak() < MAX_MIB
