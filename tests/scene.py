"""An agent on the recorded files of a machine with two nodes, an engine r1 and DIMMs, which a test changes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.engines.baseline_handover import MeasuredBaseline, hand_over
from tests import processes

RUNNING = 4  # requests at once
ENGINE = "127.0.0.1:8000"  # nobody listens there: below a root, the answer of an engine is a file
SECRET = "T0K3N-0F-THE-CHAT"
RULES = {
    "groups": [
        {
            "name": "test",
            "rules": [
                {
                    "alert": "ModuleHot",
                    "expr": "max by (dimm) (steadytok_dimm_temperature_celsius) > 90",
                    "labels": {"severity": "critical"},
                    "annotations": {
                        "summary": "DIMM {{ $labels.dimm }} is at {{ $value }} °C <img src=x onerror=alert(1)>.",
                        "description": "Look at the fans.",
                        "runbook_url": "javascript:alert(1)",
                    },
                }
            ],
        }
    ]
}


class Scene:
    """The machine, its engine and the agent's configuration."""

    def __init__(self, folder: Path, root: Path, **web: Any) -> None:
        self.folder, self.root = folder, root
        self.log = folder / "log"
        self.config = folder / "steadytok.yml"
        self.url = f"http://127.0.0.1:{processes.find_free_port()}"
        self._tokens, self._stop, self._mute = 0.0, threading.Event(), threading.Event()
        (folder / "rules.yml").write_text(json.dumps(RULES))
        remedy = {
            "name": "tell",
            "match": ['alertname="ModuleHot"'],
            "action": "webhook",
            "target": {"url": f"http://127.0.0.1:1/services/{SECRET}?key={SECRET}"},
        }
        config = {
            "web": {"listen": self.url.removeprefix("http://"), **web},
            "state": {"dir": str(folder / "state")},
            "external_labels": {"instance": "box<1>"},
            "engine": {"enabled": False},
            "engines": [{"name": "r1", "kind": "vllm", "url": f"http://{ENGINE}"}],
            "rules": {"builtin": False, "files": [str(folder / "rules.yml")]},
            "remedies": [remedy],
        }
        self.config.write_text(json.dumps(config))

    @property
    def token(self) -> str:
        return (self.folder / "state/token").read_text().strip()

    def set_temperature(self, celsius: float) -> None:
        """Sets the temperature of the DIMM 4-0052."""
        self._write("sys/class/hwmon/hwmon8/temp1_input", f"{celsius * 1000:.0f}\n")

    def generate(self, tokens: float) -> None:
        """Makes the engine generate that many more tokens, at 40 a second."""
        self._tokens += tokens
        lines = {
            "generation_tokens_total": ("counter", self._tokens),
            "num_requests_running": ("gauge", float(RUNNING)),
            "kv_cache_usage_perc": ("gauge", 0.5),
        }
        text = [
            f'# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name="m"}} {value}\n'
            for name, (kind, value) in lines.items()
        ]
        decode = f'vllm:inter_token_latency_seconds_sum{{model_name="m"}} {self._tokens / 40}\n'
        count = f'vllm:inter_token_latency_seconds_count{{model_name="m"}} {self._tokens}\n'
        self._write(
            f"http/{ENGINE}/metrics",
            "".join([*text, "# TYPE vllm:inter_token_latency_seconds histogram\n", decode, count]),
        )

    def _answers(self, is_open_to_all: bool) -> bool:
        if is_open_to_all:
            return processes.fetch(f"{self.url}/-/ready") is not None
        return '"event":"history memory estimate"' in self.log.read_text()

    def _write(self, path: str, text: str) -> None:
        """Replaces the file in one step: the agent never reads a part of it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "next").write_text(text)
        os.replace(file.parent / "next", file)

    def hand_over_baseline(self, tokens_per_second: float) -> None:
        """Gives the agent a baseline for the engine, as `steadytok engine bench --save` does."""
        hand_over(self.folder / "state", MeasuredBaseline("r1", "", str(RUNNING), tokens_per_second))

    @contextlib.contextmanager
    def silence_engine(self) -> Iterator[None]:
        """Makes the engine not answer until the block ends."""
        self._mute.set()
        time.sleep(0.5)  # a write in progress ends
        (self.root / f"http/{ENGINE}/metrics").unlink()
        yield
        self._mute.clear()

    def _work(self) -> None:
        before = time.monotonic()
        while not self._stop.wait(0.2):
            now = time.monotonic()
            if not self._mute.is_set():
                self.generate(40 * (now - before))
            before = now

    @contextlib.contextmanager
    def run_agent(self, *, open_to_all: bool = True) -> Iterator[None]:
        """Runs the agent until the block ends, and yields once it is ready; the engine works meanwhile."""
        self.generate(1000)
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        arguments = [
            sys.executable,
            "-m",
            "agent",
            "run",
            "--plain",
            "--config",
            str(self.config),
            "--root",
            str(self.root),
        ]
        try:
            with processes.run_process(arguments, self.log):
                processes.wait_until(lambda: self._answers(open_to_all), 30, "the agent is ready")
                yield
        finally:
            self._stop.set()
            worker.join()
            self._stop.clear()
