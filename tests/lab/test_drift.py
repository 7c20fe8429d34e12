"""Alerts about an engine whose memory moves away and back, and whose threads leave its memory."""

from __future__ import annotations

from typing import Any

import pytest

from tests.lab.conftest import StageReader
from tests.lab.guest_drift import DRIFT, LOCAL
from tests.lab.test_agent import between, get_mark, list_received

pytestmark = [pytest.mark.lab, pytest.mark.timeout(3300)]


@pytest.fixture(name="life")
def _life(read_stage: StageReader) -> dict[str, Any]:
    return read_stage("drift")


def test_everything_was_seen(life: dict[str, Any]) -> None:
    """The agent exposes each move in time, and ends with status 0 after SIGTERM."""
    assert [name for _, name in life["marks"] if name.startswith("NOT")] == []
    assert life["status"] == 0


def test_migrated_pages_are_drift(life: dict[str, Any]) -> None:
    """After migratepages to the other node, the drift is about 1 and the local share about 0."""
    scrapes = between(life, "drift exposed", "moved back")

    assert min(series[DRIFT] for series in scrapes if DRIFT in series) > 0.95
    assert max(series[LOCAL] for series in scrapes if LOCAL in series) < 0.05


def test_drift_alerts_and_recovers(life: dict[str, Any]) -> None:
    """The alert is sent with its figure after the move, and its end after the pages are back."""
    alerts = list(list_received(life, "LabDrift"))
    first = next(alert for alert in alerts if not alert.ended)
    last = [alert for alert in alerts if alert.ended][-1]

    assert get_mark(life, "moved") < first.at < get_mark(life, "LabDrift was received") + 1
    assert first.annotations["summary"] == "ref has 1.00 of its memory where it was not before"
    assert last.at > get_mark(life, "moved back")


def test_threads_apart_from_their_memory_are_reported(life: dict[str, Any]) -> None:
    """With memory bound to node 0 and threads on node 1 nothing is local, although nothing has drifted."""
    last = [series for at, series in life["scrapes"] if at > get_mark(life, "apart exposed")]
    alerts = [
        alert for alert in list_received(life, "LabRemote") if alert.at > get_mark(life, "apart") and not alert.ended
    ]

    assert max(series[LOCAL] for series in last if LOCAL in series) < 0.05
    assert max(series[DRIFT] for series in last if DRIFT in series) < 0.05
    assert alerts[0].annotations["summary"] == "ref has 0.00 of its memory where its threads run"


def test_the_built_in_rules_say_it(life: dict[str, Any]) -> None:
    """PlacementDrift is sent for the moved pages, BindingIneffective for the threads that left their memory."""
    drifted = next(list_received(life, "PlacementDrift"))
    bound = [
        alert for alert in list_received(life, "BindingIneffective") if alert.labels["evidence"] == "bound_threads"
    ]

    assert drifted.at < get_mark(life, "moved back")
    assert "% of the memory of engine ref" in drifted.annotations["summary"]
    assert [alert.at > get_mark(life, "apart") for alert in bound] == [True] * len(bound) != []
    assert "engine ref" in bound[0].annotations["summary"]
