"""A real agent holds a DIMM at its set point by pacing a real engine, whose making of tokens is what heats it."""

from __future__ import annotations

import http.client
import json
import re
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent.pacing.thermal_model import Plant
from agent.remediation import journal
from tests import processes
from tests.secret_files import write_secret

pytestmark = [pytest.mark.deep, pytest.mark.timeout(240)]

TOKEN = "test-token-of-the-agent"
# A third party's collector: what the sensor's file says is a DIMM's headroom. Below a picture of a machine remedies
# only observe, so the sensor comes to the agent of this machine instead.
COLLECTOR = '''
"""One DIMM, from a file."""
from collectors import gauge
INTERVAL = 0.5
HEADROOM = gauge("steadytok_dimm_headroom_celsius", "Degrees left until the limit; below 0 it is exceeded.")
METRICS = (HEADROOM,)
def collect(host):
    value = host.read_int("{path}")
    yield HEADROOM.sample(None if value is None else 85.0 - value / 1000, dimm="A", source="warm_dimm")
'''
RULES = """
groups:
  - name: test
    rules:
      - {alert: Warm, expr: steadytok_dimm_headroom_celsius < 5, keep_firing_for: 15s}
"""


class Engine:
    """The reference engine with one client that never stops asking."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.done = threading.Event()
        threading.Thread(target=self._ask_on, daemon=True).start()

    def _ask_on(self) -> None:
        while not self.done.is_set():
            connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
            body = {"prompt": "a", "max_tokens": 400, "temperature": 0}
            connection.request("POST", "/v1/completions", json.dumps(body))
            connection.getresponse().read()
            connection.close()

    def values(self) -> dict[str, float]:
        lines = (processes.fetch(f"{self.url}/metrics") or "").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.removeprefix("steadytok_reference_"): float(value) for name, value in pairs}

    def tokens(self) -> float:
        return self.values()["generated_tokens_total"]

    def get_busy_share(self) -> float:
        """Seconds in passes and sampling: what a quiet machine makes tokens in, in proportion."""
        values = self.values()
        return sum(values[f'phase_seconds_total{{phase="{phase}"}}'] for phase in ("prefill", "decode", "sampling"))

    def duty(self) -> float:
        return self.values()["duty"]


class Module:
    """
    A memory module whose sensor is a file, heated by an engine's tokens per second over those at full speed.

    By the time that it works, since on a machine that others use full speed is not one number.
    """

    def __init__(self, file: Path, engine: Engine) -> None:
        self.file, self.engine = file, engine
        self.plant = Plant(gain=30.0, time_constant=60.0, idle=21.0)  # held 3 °C below its limit at 0.6 of the speed
        self.headroom = 5.0
        self.broken = False
        self.heats: list[float] = []
        self.rooms: list[float] = []
        self._write()
        threading.Thread(target=self._live, daemon=True).start()

    def _live(self) -> None:
        at, worked = time.monotonic(), self.engine.get_busy_share()
        while not self.engine.done.wait(0.5):
            now, counted = time.monotonic(), self.engine.get_busy_share()
            heat = (counted - worked) / (now - at)
            ends = self.plant.headroom(heat)
            self.headroom = ends + (self.headroom - ends) * 2.718281828 ** (-(now - at) / self.plant.time_constant)
            self.heats.append(heat)
            self.rooms.append(self.headroom)
            at, worked = now, counted
            self._write()

    def _write(self) -> None:
        if self.broken:
            self.file.unlink(missing_ok=True)
            return
        celsius = round((85.0 - self.headroom) * 4) / 4  # °C, in quarters as an spd5118 has it
        new = self.file.with_suffix(".new")
        new.write_text(f"{round(celsius * 1000)}\n")
        new.replace(self.file)


@pytest.fixture(name="engine")
def _engine(tmp_path: Path) -> Iterator[Engine]:
    write_secret(tmp_path / "token", TOKEN)
    port = processes.find_free_port()
    arguments = [sys.executable, "-m", "engine", "--port", str(port), "--size", "4MiB", "--nice", "0"]
    with processes.run_process([*arguments, "--token-file", str(tmp_path / "token")], tmp_path / "engine.log"):
        url = f"http://127.0.0.1:{port}"
        processes.wait_until(lambda: processes.fetch(f"{url}/healthz") is not None, 30, "the engine answers")
        engine = Engine(url)
        yield engine
        engine.done.set()


def write_configuration(folder: Path, engine: Engine, port: int) -> Path:
    """The agent's file, and the third party's collector beside it."""
    site = folder / "site"
    (site / "warm-1.dist-info").mkdir(parents=True)
    (site / "warm-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: warm\nVersion: 1\n")
    (site / "warm-1.dist-info/entry_points.txt").write_text("[steadytok.collectors]\nwarm_dimm = warm_dimm\n")
    (site / "warm_dimm.py").write_text(COLLECTOR.format(path=str(folder / "temp1_input").lstrip("/")))
    (folder / "rules.yml").write_text(RULES)
    state = folder / "state"
    state.mkdir()
    write_secret(state / "pace_token", TOKEN)
    control = {"margin": 3, "safe": 0.3, "patience": 5, "always": True}
    remedy = {
        "name": "cool",
        "match": ['alertname="Warm"'],
        "action": "pace",
        "target": {"engine": "r1"},
        "parameters": {"duty": 0.7, "control": control},
        "verify": {"expr": "vector(1)", "within": "1m"},
    }
    config = {
        "web": {"listen": f"127.0.0.1:{port}"},
        "state": {"dir": str(state)},
        "engine": {"enabled": False},
        "engines": [{"name": "r1", "kind": "reference", "url": engine.url}],
        "sample": {"interval": "500ms"},
        "collectors": {"warm_dimm": {"enabled": True}},
        "rules": {"builtin": False, "files": [str(folder / "rules.yml")], "interval": "500ms"},
        "remediation": {"mode": "enforce", "pause_file": str(folder / "pause"), "builtin": False},
        "remedies": [remedy],
    }
    (folder / "config.yml").write_text(json.dumps(config))
    return site


def test_a_dimm_is_held_a_dead_sensor_fails_safe_and_mended_air_frees_the_engine(
    tmp_path: Path, engine: Engine
) -> None:
    """
    The engine is paced to what holds the DIMM, falls to the safe duty when the sensor dies, and ends at full speed.

    Held: within 2 °C of the set point in the mean of the last half minute, and not at its limit. Two minutes in all.
    """
    processes.wait_until(lambda: engine.tokens() > 100, 30, "tokens flow")
    module = Module(tmp_path / "temp1_input", engine)
    port = processes.find_free_port()
    site = write_configuration(tmp_path, engine, port)
    arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(tmp_path / "config.yml")]
    with processes.run_process(arguments, tmp_path / "agent.log", {"PYTHONPATH": str(site)}):
        processes.wait_until(lambda: engine.duty() < 1, 20, "the engine is paced")
        time.sleep(60)
        duty, values = engine.duty(), read_metrics(port)
        last = slice(-60, None)
        assert min(module.rooms[last]) > 0, module.rooms
        assert statistics.mean(module.rooms[last]) == pytest.approx(3.0, abs=2.0), module.rooms
        assert 0.3 < duty < 0.95
        assert statistics.mean(module.heats[last]) == pytest.approx(duty, abs=0.12)  # it really is paced
        assert values["steadytok_pace_set_point_headroom_celsius"] == 3.0
        assert values["steadytok_pace_duty"] == pytest.approx(duty, abs=0.1)
        assert values["steadytok_pace_error_celsius"] == pytest.approx(module.headroom - 3.0, abs=1.5)

        module.broken = True
        processes.wait_until(lambda: engine.duty() == 0.3, 60, "it has fallen to the safe duty")

        module.broken, module.plant, module.headroom = False, Plant(30.0, 60.0, idle=60.0), 20.0
        processes.wait_until(lambda: engine.duty() == 1.0, 60, "the engine is at full speed")
        processes.wait_until(lambda: has_logged(tmp_path, "restored"), 10, "the audit says so")

    diary = [entry for entry in journal.read_audit(tmp_path / "state" / journal.FILE, 1000) if entry.what == "steers"]
    assert re.fullmatch(r"engine r1 at a duty of 0\.\d\d: A is .* wanted 3 below; .*", diary[0].says)
    assert [entry.what for entry in diary] == ["steers"] * len(diary)
    assert any("evidence is lost" in entry.says or "no reading of A" in entry.says for entry in diary)


def read_metrics(port: int) -> dict[str, float]:
    """The agent's metrics of the engine, by name."""
    text = processes.fetch(f"http://127.0.0.1:{port}/metrics") or ""
    pairs = re.findall(r'^(steadytok_pace_\w+)\{engine="r1"\} (\S+)', text, re.MULTILINE)
    return {name: float(value) for name, value in pairs}


def has_logged(folder: Path, text: str) -> bool:
    return any(entry.what == text for entry in journal.read_audit(folder / "state" / journal.FILE, 1000))
