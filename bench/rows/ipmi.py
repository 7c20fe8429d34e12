"""What 32 DIMM temperatures of one BMC cost, against its own round trips and against ipmitool on the same BMC."""

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
from bench.bmc import PASSWORD, PROGRAM, USER, SimulatedBmc, dimms
from bench.report import Figure, Row
from collectors import Host, ipmi
from collectors._ipmi.client import Bmc, Request
from collectors._ipmi.session import open_bmc

ABOUT = "32 DIMM temperatures of a BMC that takes 5 ms for each command, steady state"
PEER = "ipmitool"
COUNT, MILLISECONDS = 32, 5
PASSES, COMMANDS = 20, 200


class Cost(NamedTuple):
    """Medians of one sweep, in seconds."""

    wall: float
    cpu: float


def measure(_seconds: float) -> Row:
    """Our sweeps, single commands and ipmitool's sweeps in turn, so that what else the machine does meets all alike."""
    for program in (PROGRAM, PEER):
        if shutil.which(program) is None:
            return Row("ipmi", ABOUT, skipped=f"{program} is not installed (apt install openipmi ipmitool).")
    with ExitStack() as stack:
        place = stack.enter_context(processes.folder())
        simulator = stack.enter_context(SimulatedBmc(place / "bmc", dimms(COUNT)))
        port = processes.free_port()
        stack.enter_context(processes.python("-m", "bench.relay", str(port), str(simulator.port), str(MILLISECONDS)))
        config = ipmi.Config(address=f"127.0.0.1:{port}", credentials_file=str(_credentials(place)))
        host = Host("/", place / "shelf")
        _sweep(host, config)  # the log-in, and the list of sensors
        # A session of its own: pyghmi hands out one for each user and address, so it is the same.
        bmc = open_bmc(host, config.address, config.credentials_file)
        assert bmc is not None
        cached = _cache(place, port)
        ours, theirs, commands = [], [], []
        for _ in range(PASSES):
            ours.append(_cost(resource.RUSAGE_SELF, lambda: _sweep(host, config)))
            commands += [_command(bmc) for _ in range(COMMANDS // PASSES)]
            theirs.append(_cost(resource.RUSAGE_CHILDREN, cached))
    return _row(_median(ours), _median(theirs), statistics.median(commands))


def _credentials(place: Path) -> Path:
    path = place / "credentials"
    path.write_text(f"username={USER}\npassword={PASSWORD}\n")
    path.chmod(0o600)
    return path


def _sweep(host: Host, config: ipmi.Config) -> None:
    found = [reading for reading in ipmi.collect(host, config) if reading is not None]
    temperatures = sum(reading.metric is ipmi.TEMPERATURE for reading in found)
    if temperatures != COUNT:
        raise RuntimeError(f"expected {COUNT} temperatures, found {temperatures}: {host.take_notes()}")


def _command(bmc: Bmc) -> float:
    began = time.perf_counter()
    bmc.ask(Request.GET_DEVICE_ID)
    return time.perf_counter() - began


def _cache(place: Path, port: int) -> Callable[[], object]:
    """ipmitool's sweep with its cache of the sensors' records, which is made here."""
    login = [PEER, "-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", str(port), "-U", USER, "-P", PASSWORD]
    login += ["-L", "USER"]
    file = str(place / "sdr.cache")
    subprocess.run([*login, "sdr", "dump", file], check=True, capture_output=True)
    names = [sensor.name for sensor in dimms(COUNT)]

    def sweep() -> None:
        answer = subprocess.run([*login, "-S", file, "sensor", "reading", *names], check=True, capture_output=True)
        if answer.stdout.count(b"\n") != COUNT:
            raise RuntimeError(f"{PEER} read {answer.stdout.count(b'|')} sensors: {answer.stderr.decode()[-300:]}")

    return sweep


def _cost(whose: int, act: Callable[[], object]) -> Cost:
    began, before = time.perf_counter(), resource.getrusage(whose)
    act()
    after, ended = resource.getrusage(whose), time.perf_counter()
    return Cost(ended - began, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def _median(costs: list[Cost]) -> Cost:
    walls, cpus = zip(*costs, strict=True)
    return Cost(statistics.median(walls), statistics.median(cpus))


def _row(ours: Cost, theirs: Cost, command: float) -> Row:
    floor = COUNT * command
    figures = (
        Figure(f"a sweep / {COUNT} single commands", ours.wall / floor, "ratio", budget=1.3),
        Figure(f"a sweep / {PEER} -S CACHE sensor reading", ours.wall / theirs.wall, "ratio", budget=0.5),
        Figure("its CPU / that of ipmitool", ours.cpu / theirs.cpu, "ratio", budget=0.5),
        Figure(
            f"{COUNT} single commands / {PEER}: no reader with one request at a time is below",
            floor / theirs.wall,
            "ratio",
        ),
        Figure("a sweep", ours.wall * 1000, "ms"),
        Figure(f"{COUNT} x the median command", floor * 1000, "ms"),
        Figure(f"{PEER}", theirs.wall * 1000, "ms"),
        Figure("a sweep: CPU", ours.cpu * 1000, "ms"),
        Figure(f"{PEER}: CPU", theirs.cpu * 1000, "ms"),
    )
    note = (
        f"Medians of {PASSES}. A sweep is {COUNT + 2} commands: whether the list of sensors and the event log have "
        "changed is asked each time. ipmitool logs in for each sweep, as it must."
    )
    return Row("ipmi", ABOUT, figures, (note,))
