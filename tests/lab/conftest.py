"""Boots each virtual machine once for all tests of the lab, and reads the results of its stages for them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from bench.bmc import SimulatedBmc, make_dimm_sensors, make_other_sensors
from tests.lab import machine, service_machine

StageReader = Callable[[str], dict[str, Any]]
SERVICE_TESTS = ("tests/lab/test_service.py", "tests/lab/test_upgrade.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """
    Keeps the tests of one machine in one process, so that two processes boot one machine each.

    pytest-xdist 3.8 cannot do that by xdist_group under pytest 9.2, which has no `Item._nodeid`.
    """
    return MachineScheduling(config, log)


class MachineScheduling(LoadScopeScheduling):  # type: ignore[misc]  # pytest-xdist has no types for it
    """Distributes the tests by their machine."""

    def _split_scope(self, nodeid: str) -> str:
        return "service" if nodeid.startswith(SERVICE_TESTS) else "nodes"


def require(missing: str | None) -> None:
    """Skips the test with this sentence, if any, or fails it if the environment requires all programs."""
    if missing is None:
        return
    if os.environ.get("STEADYTOK_REQUIRE_PEERS"):
        pytest.fail(missing)
    pytest.skip(missing)


def run_machine(folders: pytest.TempPathFactory, shape: machine.Shape, *stages: str) -> Path:
    """Runs stages in a machine of this shape; returns the folder with their results."""
    require(machine.find_missing())
    out = folders.mktemp("lab")
    with SimulatedBmc(out / "bmc", [*make_dimm_sensors(32), *make_other_sensors()], in_band=True) as bmc:
        machine.run(machine.prepare(), "tests.lab.guest", out, *stages, shape=shape, bmc=bmc.serial_port)
    return out


def read_result(out: Path, name: str) -> dict[str, Any]:
    """Returns the results of a stage; a stage that failed fails each test that needs it."""
    result: dict[str, Any] = json.loads((out / f"{name}.json").read_text())
    if "error" in result:
        pytest.fail(f"stage {name} failed in the virtual machine:\n{result['error']}")
    return result


@pytest.fixture(scope="session", name="machine_ran")
def _machine_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the machine of two nodes, in which all stages are done."""
    return run_machine(tmp_path_factory, machine.TWO_NODES)


@pytest.fixture(scope="session", name="read_stage")
def _read_stage(machine_ran: Path) -> StageReader:
    """Reads the results of a stage in the machine of two nodes."""
    return lambda name: read_result(machine_ran, name)


@pytest.fixture(scope="session", name="service_ran")
def _service_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the machine with its own systemd, in which all stages are done."""
    require(service_machine.find_missing())
    out = tmp_path_factory.mktemp("service")
    out.chmod(0o755)  # a user without privileges reads the program there too
    image = service_machine.prepare()
    service_machine.furnish(out)
    service_machine.run(image, out)
    return out


@pytest.fixture(scope="session", name="read_service_stage")
def _read_service_stage(service_ran: Path) -> StageReader:
    """Reads the results of a stage in the machine with its own systemd."""
    return lambda name: read_result(service_ran, name)
