"""
Runs the reference engine under --numa; reads its own output, and its pages and threads from the kernel.

https://docs.kernel.org/filesystems/proc.html (numa_maps, status)
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab import observe

SMALL = ("--size", "8MiB", "--context", "64", "--slots", "1", "--nice", "0")
PATIENCE = 60  # seconds for one answer; software emulation is slow


@contextlib.contextmanager
def run_engine(*arguments: str) -> Iterator[tuple[dict[str, Any], Path]]:
    """Runs an engine; yields its line of JSON, and the file with its log."""
    log = Path("/run/engine.log")
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine", *SMALL, *arguments],
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=observe.ENVIRONMENT,
        )
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline() or "{}"), log
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)


def run_one(*arguments: str) -> dict[str, Any]:
    """Returns the state of one engine after its first answer."""
    with run_engine(*arguments) as (ready, log):
        _complete(ready["url"])
        return {
            "ready": ready,
            "log": log.read_text(),
            "metrics": _get(f"{ready['url']}/metrics"),
            "kernel": _of_kernel(ready["pid"]),
        }


def place_engine() -> dict[str, Any]:
    """Runs an interleaved engine and one on node 1; also collects the refusals."""
    refused = {
        name: observe.run(sys.executable, "-m", "engine", *SMALL, *arguments, status=2).stderr
        for name, arguments in {
            "no node": ("--numa", "bind:7"),
            "no room": ("--numa", "bind:1", "--size", "900MiB"),
            "no room twice": ("--numa", "replicate", "--size", "700MiB"),
        }.items()
    }
    return {
        "interleave": run_one("--numa", "interleave", "--threads", "2"),
        "bind": run_one("--numa", "bind:1", "--threads", "2"),
        "refused": refused,
    }


def replicate_engine() -> dict[str, Any]:
    """Runs a worker on each node; sends requests and a pace, and kills one worker."""
    token = Path("/run/engine-token")
    token.touch(mode=0o600)
    token.write_text("lab")
    with run_engine("--numa", "replicate", "--token-file", str(token)) as (ready, log):
        url = ready["url"]
        for _ in range(4):
            _complete(url)
        results = {"ready": ready, "metrics": _get(f"{url}/metrics")}
        results["kernel"] = {str(worker["node"]): _of_kernel(worker["pid"]) for worker in ready["workers"]}
        _ask(f"{url}/pace", {"duty": 0.5, "ttl": "60s"}, "PUT", Authorization="Bearer lab")
        observe.run("kill", "-KILL", str(ready["workers"][1]["pid"]))
        results["answered"] = [_complete(url) for _ in range(2)]
        results["back"] = _until_back(url)
        results["after"] = _get(f"{url}/metrics")
        results["log"] = log.read_text()
        return results


def _until_back(url: str) -> bool:
    for _ in range(PATIENCE):
        if json.loads(_get(f"{url}/healthz"))["workers"]["1"] == "up":
            return True
        time.sleep(1)
    return False


def _complete(url: str) -> int:
    answer = _ask(f"{url}/v1/completions", {"prompt": "a", "max_tokens": 2})
    return int(json.loads(answer)["usage"]["completion_tokens"])


def _ask(url: str, body: dict[str, Any], method: str = "POST", **headers: str) -> str:
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def _of_kernel(pid: int) -> dict[str, Any]:
    """Returns the pages of large anonymous mappings by node, and the allowed CPUs of each thread."""
    pages: Counter[str] = Counter()
    for line in observe.read_text(f"/proc/{pid}/numa_maps").splitlines():
        pages_by_node = dict(re.findall(r" N(\d+)=(\d+)", line))
        if "anon=" in line and sum(map(int, pages_by_node.values())) >= 64:
            pages.update({node: int(count) for node, count in pages_by_node.items()})
    threads = {
        task.name: re.search(r"^Cpus_allowed_list:\s*(\S+)$", (task / "status").read_text(), re.MULTILINE)[1]  # type: ignore[index]  # the kernel always has the line
        for task in Path(f"/proc/{pid}/task").iterdir()
    }
    return {"pages": dict(pages), "threads": threads}
