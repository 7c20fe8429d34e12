"""Points in time as text."""

from __future__ import annotations

import time

import pytest

from agent.text.times import format_local, format_local_iso, format_utc


def test_times_in_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """People and programs read the host's zone; a recording is in UTC."""
    monkeypatch.setenv("TZ", "Etc/GMT-1")
    time.tzset()
    try:
        assert format_local(1_764_000_727_250) == "2025-11-24 17:12:07"
        assert format_local_iso(1_764_000_727_250) == "2025-11-24T17:12:07.250+01:00"
        assert format_utc(1_764_000_727_250) == "2025-11-24 16:12:07.250"
        assert format_utc(1_764_000_727_000) == "2025-11-24 16:12:07.000"
    finally:
        monkeypatch.undo()
        time.tzset()
