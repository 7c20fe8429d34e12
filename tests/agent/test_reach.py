"""How far an action reaches, and what is told where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.actions import FailedError
from agent.reach import Access
from rules.history import History
from tests import processes

SECRET = "T0K3N-0F-THE-CHAT"


def test_a_failure_does_not_tell_a_webhooks_secret(tmp_path: Path) -> None:
    """The reason goes into the audit, which anybody may read: it has the host and the port, and no path."""
    snapshot = History(1000).snapshot({})
    origin = f"http://127.0.0.1:{processes.free_port()}"
    access = Access(snapshot, 0, "/", "", tmp_path / "token")

    with pytest.raises(FailedError) as told:
        access.http("POST", f"{origin}/services/{SECRET}?key={SECRET}", b"{}")

    assert str(told.value) == f"{origin}: Connection refused"
