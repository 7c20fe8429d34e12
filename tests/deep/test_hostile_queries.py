"""A real agent answers or refuses every query of a stranger, and stays small while it does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import processes

pytestmark = [pytest.mark.deep, pytest.mark.timeout(240)]

MAX_RSS_MB = 256
EVERYTHING = '{__name__=~".+"}'
LONG = f'label_replace(vector(1), "a", "{"x" * 16_384}", "", "")'


class Agent(NamedTuple):
    """An agent's address and its process."""

    address: str
    pid: int

    def send_query(self, path: str, **fields: str) -> tuple[int, dict[str, str]]:
        """Sends a form; returns the status and the answer."""
        body = urllib.parse.urlencode(fields).encode()
        try:
            with urllib.request.urlopen(f"{self.address}/api/v1/{path}", body, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def read_memory(self, field: str) -> int:
        """Returns a field of /proc/PID/status in MB, such as VmHWM, the most that was ever resident."""
        match = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert match is not None
        return int(match[1]) // 1024


@pytest.fixture(name="agent")
def _agent(tmp_path: Path) -> Iterator[Agent]:
    port = processes.find_free_port()
    document = {
        "engine": {"enabled": False},
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(tmp_path / "state")},
    }
    (tmp_path / "steadytok.yml").write_text(json.dumps(document))
    command = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(tmp_path / "steadytok.yml")]
    with processes.run_process(command, tmp_path / "log") as process:
        assert isinstance(process, subprocess.Popen)
        address = f"http://127.0.0.1:{port}"
        processes.wait_until(lambda: processes.fetch(f"{address}/-/ready") is not None, 30, "ready")
        yield Agent(address, process.pid)


def nest(count: int, inner: str, arguments: str) -> str:
    """Nests label_replace: the arguments may contain {n}, the number of the level."""
    return "label_replace(" * count + inner + "".join(f", {arguments.format(n=n)})" for n in range(count))


QUERIES = {
    "values that double": nest(60, "vector(1)", '"a", "$1$1x", "a", "(.*)"'),
    "values that grow": nest(
        3, 'label_replace(vector(1), "a", "xxxxxxxx", "", "")', f'"a", "{"$1" * 400}", "a", "(.*)"'
    ),
    "long replacement": f'label_replace({EVERYTHING}, "a", "{"x" * 60_000}", "", "")',
    "longest values": f'label_replace({EVERYTHING}, "a", "{"x" * 16_384}", "", "")',
    "many long labels": nest(190, EVERYTHING, '"l{n}", "$1$1$1$1", "__name__", "(.*)"'),
    "long separators": f'label_join({EVERYTHING}, "a", "{"x" * 16_000}"' + ', "job"' * 5_000 + ")",
    "a long label for all": f"{EVERYTHING} * on () group_left (a) {LONG}",
    "many values": f'count_values("v", {EVERYTHING} * time())',
    "every join": " * on (__name__, job) group_left ".join([EVERYTHING] * 100),
    "every union": " or ".join(f'label_replace({EVERYTHING}, "n", "{n}", "", "")' for n in range(190)),
    "a copy at each level": " or ".join(["up{" + ",".join(f"l{n}=~'b'" for n in range(28)) + "}"] * 190),
    "unicode": "up{" + ",".join(rf'a!~"\\pN{{150}}{n}"' for n in range(1_500)) + "}",
}


def test_no_query_makes_the_agent_large(agent: Agent) -> None:
    """500 bytes took 2.4 GB, and 280 regular expressions stayed with 570 MB; each is answered or refused."""
    for name, query in QUERIES.items():
        for path, fields in (("query", {}), ("query_range", {"start": "0", "end": "10000", "step": "1"})):
            status, answer = agent.send_query(path, query=query, **fields)

            assert status in (200, 400, 422, 503), (name, path, answer)
            assert agent.read_memory("VmHWM") < MAX_RSS_MB, (name, path, answer.get("error"))
    for number in range(120):
        words = "|".join(f"{number}_{word}.*y[a-z]*[0-9]+" for word in range(700))
        status, _ = agent.send_query("query", query=f'count({{__name__=~"({words})"}})')

        assert status == 200
    assert agent.read_memory("VmHWM") < MAX_RSS_MB
    assert processes.fetch(f"{agent.address}/-/healthy") is not None
