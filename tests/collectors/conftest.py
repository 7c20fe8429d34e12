"""What the tests of all collectors share."""

from __future__ import annotations

import pytest

from collectors import hwmon
from tests.collectors._ipmi.scripted_session import Begin, IpmiSession


@pytest.fixture(autouse=True)
def _ample_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is about time: a busy machine must not make a chip late whose read returns."""
    monkeypatch.setattr(hwmon, "_CHIP_BUDGET", 30.0)
    monkeypatch.setattr(hwmon, "_PASS_BUDGET", 60.0)


@pytest.fixture(name="begin")
def _begin(monkeypatch: pytest.MonkeyPatch) -> Begin:
    return lambda bmc, shelf=None: IpmiSession(monkeypatch, bmc, shelf)
