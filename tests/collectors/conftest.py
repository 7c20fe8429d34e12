"""What the tests of all collectors share."""

from __future__ import annotations

import pytest

from collectors import hwmon


@pytest.fixture(autouse=True)
def _ample_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is about time: a busy machine must not make a chip late whose read returns."""
    monkeypatch.setattr(hwmon, "_CHIP_BUDGET", 30.0)
    monkeypatch.setattr(hwmon, "_PASS_BUDGET", 60.0)
