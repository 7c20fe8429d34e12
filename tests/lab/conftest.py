"""Boots the virtual machine once for all tests of the lab, and gives them what its stages saw."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.bmc import SimulatedBmc, dimms, others
from tests.lab import machine

Saw = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="session", name="machine_ran")
def _machine_ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the machine has written to; without its programs tests are skipped, or fail if told so."""
    if (sentence := machine.missing()) is not None:
        if os.environ.get("STEADYTOK_REQUIRE_PEERS"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    out = tmp_path_factory.mktemp("lab")
    with SimulatedBmc(out / "bmc", [*dimms(32), *others()], in_band=True) as bmc:
        machine.run(machine.prepare(), "tests.lab.guest", out, bmc=bmc.serial_port)
    return out


@pytest.fixture(scope="session", name="saw")
def _saw(machine_ran: Path) -> Saw:
    """What a stage saw, by its name; a stage that broke off fails each test that asks for it."""

    def stage(name: str) -> dict[str, Any]:
        seen: dict[str, Any] = json.loads((machine_ran / f"{name}.json").read_text())
        if "error" in seen:
            pytest.fail(f"stage {name} broke off in the virtual machine:\n{seen['error']}")
        return seen

    return stage
