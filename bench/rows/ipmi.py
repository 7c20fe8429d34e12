"""The cost of 32 DIMM temperatures of one BMC, against single round trips and ipmitool on the same BMC."""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from bench import processes
from bench.bmc import PASSWORD, PROGRAM, USER, SimulatedBmc, make_dimm_sensors
from bench.report import BenchmarkResult, Figure
from collectors import Host, ipmi
from collectors._ipmi.client import Bmc, IpmiRequest
from collectors._ipmi.session import open_bmc

ABOUT = "32 DIMM temperatures of a BMC that takes 5 ms for each command, steady state"
PEER = "ipmitool"
DIMM_COUNT, COMMAND_MS = 32, 5
PASSES, COMMANDS = 20, 200


class SweepCost(NamedTuple):
    """Medians of one sweep, in seconds."""

    wall: float
    cpu: float


def measure(_seconds: float) -> BenchmarkResult:
    """Measures our sweeps, single commands and ipmitool's sweeps in turns, so that other load affects all alike."""
    for program in (PROGRAM, PEER):
        if shutil.which(program) is None:
            return BenchmarkResult(
                "ipmi", ABOUT, skipped=f"{program} is not installed (apt install openipmi ipmitool)."
            )
    with ExitStack() as stack:
        folder = stack.enter_context(processes.make_temporary_folder())
        simulator = stack.enter_context(SimulatedBmc(folder / "bmc", make_dimm_sensors(DIMM_COUNT)))
        port = processes.find_free_port()
        stack.enter_context(processes.run_python("-m", "bench.relay", str(port), str(simulator.port), str(COMMAND_MS)))
        config = ipmi.Config(address=f"127.0.0.1:{port}", credentials_file=str(_write_credentials(folder)))
        host = Host("/", folder / "shelf")
        _sweep(host, config)  # the log-in, and the list of sensors
        # pyghmi has one session per user and address, so this is the session of the sweep.
        bmc = open_bmc(host, config.address, config.credentials_file)
        assert bmc is not None
        sweep_peer = _prepare_peer_sweep(folder, port)
        our_costs, peer_costs, command_seconds = [], [], []
        for _ in range(PASSES):
            our_costs.append(_measure_cost(resource.RUSAGE_SELF, lambda: _sweep(host, config)))
            command_seconds += [_time_command(bmc) for _ in range(COMMANDS // PASSES)]
            peer_costs.append(_measure_cost(resource.RUSAGE_CHILDREN, sweep_peer))
    return _build_result(_compute_median(our_costs), _compute_median(peer_costs), statistics.median(command_seconds))


def _write_credentials(folder: Path) -> Path:
    path = folder / "credentials"
    path.write_text(f"username={USER}\npassword={PASSWORD}\n")
    path.chmod(0o600)
    return path


def _sweep(host: Host, config: ipmi.Config) -> None:
    readings = [reading for reading in ipmi.collect(host, config) if reading is not None]
    temperatures = sum(reading.metric is ipmi.TEMPERATURE for reading in readings)
    if temperatures != DIMM_COUNT:
        raise RuntimeError(f"expected {DIMM_COUNT} temperatures, found {temperatures}: {host.take_notes()}")


def _time_command(bmc: Bmc) -> float:
    started = time.perf_counter()
    bmc.ask(IpmiRequest.GET_DEVICE_ID)
    return time.perf_counter() - started


def _prepare_peer_sweep(folder: Path, port: int) -> Callable[[], object]:
    """Creates ipmitool's cache of sensor records; returns its sweep."""
    login = [PEER, "-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", str(port), "-U", USER, "-P", PASSWORD]
    login += ["-L", "USER"]
    cache_path = str(folder / "sdr.cache")
    subprocess.run([*login, "sdr", "dump", cache_path], check=True, capture_output=True)
    names = [sensor.name for sensor in make_dimm_sensors(DIMM_COUNT)]

    def sweep() -> None:
        completed = subprocess.run(
            [*login, "-S", cache_path, "sensor", "reading", *names], check=True, capture_output=True
        )
        if completed.stdout.count(b"\n") != DIMM_COUNT:
            raise RuntimeError(
                f"{PEER} read {completed.stdout.count(b'|')} sensors: {completed.stderr.decode()[-300:]}"
            )

    return sweep


def _measure_cost(who: int, action: Callable[[], object]) -> SweepCost:
    started, before = time.perf_counter(), resource.getrusage(who)
    action()
    after, finished = resource.getrusage(who), time.perf_counter()
    return SweepCost(finished - started, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def _compute_median(costs: list[SweepCost]) -> SweepCost:
    walls, cpus = zip(*costs, strict=True)
    return SweepCost(statistics.median(walls), statistics.median(cpus))


def _build_result(our_cost: SweepCost, peer_cost: SweepCost, command_seconds: float) -> BenchmarkResult:
    command_total = DIMM_COUNT * command_seconds
    figures = (
        Figure(f"a sweep / {DIMM_COUNT} single commands", our_cost.wall / command_total, "ratio", budget=1.3),
        Figure(f"a sweep / {PEER} -S CACHE sensor reading", our_cost.wall / peer_cost.wall, "ratio", budget=0.5),
        Figure("its CPU / that of ipmitool", our_cost.cpu / peer_cost.cpu, "ratio", budget=0.5),
        Figure(
            f"{DIMM_COUNT} single commands / {PEER}: lower bound with one request at a time",
            command_total / peer_cost.wall,
            "ratio",
        ),
        Figure("a sweep", our_cost.wall * 1000, "ms"),
        Figure(f"{DIMM_COUNT} x the median command", command_total * 1000, "ms"),
        Figure(f"{PEER}", peer_cost.wall * 1000, "ms"),
        Figure("a sweep: CPU", our_cost.cpu * 1000, "ms"),
        Figure(f"{PEER}: CPU", peer_cost.cpu * 1000, "ms"),
    )
    note = (
        f"Medians of {PASSES}. A sweep is {DIMM_COUNT + 2} commands: it checks each time for changes of the sensor "
        "list and of the event log. ipmitool must log in for each sweep."
    )
    return BenchmarkResult("ipmi", ABOUT, figures, (note,))
