"""Fixtures for the tests of all collectors."""

from __future__ import annotations

import pytest

from collectors import hwmon
from tests.collectors._ipmi.scripted_session import Begin, IpmiSession


@pytest.fixture(autouse=True)
def _ample_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises hwmon's time budgets, so that a busy machine makes no chip late."""
    monkeypatch.setattr(hwmon, "_CHIP_BUDGET", 30.0)
    monkeypatch.setattr(hwmon, "_PASS_BUDGET", 60.0)


@pytest.fixture(name="begin")
def _begin(monkeypatch: pytest.MonkeyPatch) -> Begin:
    return lambda bmc, cache=None: IpmiSession(monkeypatch, bmc, cache)
