"""The canary with its real engine: it runs bursts, its speed is measured, and its death is noticed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.schema import CANARY, CanaryConfig
from agent.engines.canary import Canary
from collectors import counter, gauge
from rules.history.history import History
from tests import processes

pytestmark = pytest.mark.timeout(150)
RUNNING = gauge("steadytok_engine_requests_running", "Running.")
PRESSURE = counter("steadytok_pressure_waiting_seconds_total", "Waiting.")
UP = gauge("steadytok_engine_up", "Up.")
RESIDENT = gauge("steadytok_engine_resident_bytes", "Resident.")
SECONDS = counter("steadytok_stat_cpu_seconds_total", "Seconds.")
CPUS = gauge("steadytok_stat_cpus_online", "CPUs.")
AVAILABLE = gauge("steadytok_node_meminfo_available_bytes", "Available.")


@pytest.mark.parametrize(
    ("up", "other", "waiting", "busy", "resident", "reason"),
    [
        (1.0, 0.0, 0.01, 0.1, 1.0, None),
        (1.0, 1.0, 0.01, 0.1, 1.0, "another engine is working"),
        (0.0, None, 0.01, 0.1, 1.0, "another engine does not answer, and may be working"),
        (1.0, None, 0.01, 0.1, 1.0, "another engine does not report its requests"),
        (1.0, 0.0, 0.2, 0.1, 1.0, "processors are short"),
        (1.0, 0.0, None, 0.1, 1.0, None),
        (1.0, 0.0, None, 0.8, 1.0, "processors are busy"),
        (1.0, 0.0, 0.01, 0.8, 1.0, None),
        (1.0, 0.0, 0.01, 0.1, 6.0, "memory is short"),
    ],
)
def test_it_gives_way(
    up: float, other: float | None, waiting: float | None, busy: float, resident: float, reason: str | None
) -> None:
    """A burst is skipped while another engine works or tasks wait for processors; its own requests do not count."""
    history = History(3_600_000)
    for second in range(30):
        engines = [
            RUNNING.sample(1.0, engine=CANARY),
            RUNNING.sample(other, engine="r1"),
            UP.sample(up, engine="r1", kind="vllm"),
            RESIDENT.sample(resident, engine=CANARY),
        ]
        pressure = [PRESSURE.sample(None if waiting is None else second * waiting, resource="cpu")]
        stat = [SECONDS.sample(second * 2 * busy, mode="user", node="0"), CPUS.sample(2.0, node="0")]
        memory = [AVAILABLE.sample(100.0, node="0"), AVAILABLE.sample(50.0, node="1")]
        groups = {"engine": engines, "pressure": pressure, "stat": stat, "node_meminfo": memory}
        for group, readings in groups.items():
            history.record(group, second * 1000, [reading for reading in readings if reading is not None])

    async def find_skip_reason() -> str | None:
        return Canary(CanaryConfig(), Path("token"), lambda: None).skip_reason(history, 29_000)

    assert asyncio.run(find_skip_reason()) == reason


@pytest.fixture(name="agent")
def _agent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    address = f"127.0.0.1:{processes.find_free_port()}"
    config = tmp_path / "steadytok.yml"
    config.write_text(
        f'web: {{listen: "{address}"}}\nstate: {{dir: "{tmp_path}/state"}}\n'
        "engine: {enabled: true, size: 4MiB, every: 1s}\n"
        # Without these readings the canary runs on a busy machine too.
        "collectors: {pressure: {enabled: false}, stat: {enabled: false}}\n"
    )
    arguments = [sys.executable, "-m", "agent", "run", "--plain", "--config", str(config)]
    with processes.run_process(arguments, tmp_path / "log") as process:
        yield process, address


def read_value(address: str, series: str) -> float | None:
    """Returns the value of one series on /metrics, or None."""
    match = re.search(rf"^{re.escape(series)} (\S+)$", processes.fetch(f"http://{address}/metrics") or "", re.MULTILINE)
    return float(match[1]) if match else None


def wait_for_passes(address: str, collector: str) -> None:
    """Returns when the age of a collector's readings has fallen, which a new pass of it does."""
    ages: list[float] = []

    def has_fallen() -> bool:
        ages.append(read_value(address, f'steadytok_collector_age_seconds{{collector="{collector}"}}') or 0.0)
        return ages[-1] < max(ages)

    processes.wait_until(has_fallen, 60, f"{collector} is read")


def find_engine_pid(agent: subprocess.Popen[bytes]) -> int:
    """Returns the process id of the agent's engine."""
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    (pid,) = [pid for pid in children if b"\0engine\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return int(pid)


@pytest.mark.deep
def test_a_stopped_engine_is_down_and_nothing_else(agent: tuple[subprocess.Popen[bytes], str]) -> None:
    """The canary has a speed; its engine is down while stopped, without other effects, and up again when continued."""
    process, address = agent
    up = f'steadytok_engine_up{{engine="{CANARY}",kind="reference"}}'
    speed = f'steadytok_engine_tokens_per_second{{engine="{CANARY}"}}'
    processes.wait_until(lambda: (read_value(address, speed) or 0) > 0, 60, "the canary has a speed")
    assert read_value(address, up) == 1.0
    engine = find_engine_pid(process)

    os.kill(engine, signal.SIGSTOP)
    try:
        processes.wait_until(lambda: read_value(address, up) == 0.0, 60, "the engine is down")
        assert read_value(address, 'steadytok_collector_success{collector="meminfo"}') == 1.0
        wait_for_passes(address, "meminfo")
        assert read_value(address, up) == 0.0
    finally:
        os.kill(engine, signal.SIGCONT)
    processes.wait_until(lambda: read_value(address, up) == 1.0, 60, "the engine is up again")


@pytest.mark.deep
def test_a_dead_engine_is_replaced(agent: tuple[subprocess.Popen[bytes], str]) -> None:
    """A killed engine is restarted, and queried at its new address."""
    process, address = agent
    up = f'steadytok_engine_up{{engine="{CANARY}",kind="reference"}}'
    processes.wait_until(lambda: read_value(address, up) == 1.0, 60, "the engine is up")
    first = find_engine_pid(process)
    os.kill(first, signal.SIGKILL)
    processes.wait_until(lambda: read_value(address, up) == 0.0, 60, "the engine is down")
    processes.wait_until(lambda: read_value(address, up) == 1.0, 60, "a new one is up")

    assert find_engine_pid(process) != first


def test_no_child_outlives_the_agent(agent: tuple[subprocess.Popen[bytes], str]) -> None:
    """Even after kill -9 of the agent, its engine and its eye end."""
    process, address = agent
    processes.wait_until(
        lambda: read_value(address, f'steadytok_engine_canary{{engine="{CANARY}"}}') == 1.0, 60, "started"
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.kill()
    process.wait(10)

    processes.wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in children), 60, "they have ended")
