"""An engine whose memory moves away and comes back, and one whose threads are elsewhere: seen, told, and ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.guest_drift import DRIFT, LOCAL
from tests.lab.test_agent import between, get_mark, list_received

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

Saw = Callable[[str], dict[str, Any]]


@pytest.fixture(name="life")
def _life(read_stage: Saw) -> dict[str, Any]:
    return read_stage("drift")


def test_everything_was_seen(life: dict[str, Any]) -> None:
    """The agent saw each move in its time, and SIGTERM ended it well."""
    assert [name for _, name in life["marks"] if name.startswith("NOT")] == []
    assert life["status"] == 0


def test_migrated_pages_are_drift(life: dict[str, Any]) -> None:
    """Moved with migratepages to the other node, all pages are where they were not, and none where the threads run."""
    scrapes = between(life, "drift seen", "moved back")

    assert min(series[DRIFT] for series in scrapes if DRIFT in series) > 0.95
    assert max(series[LOCAL] for series in scrapes if LOCAL in series) < 0.05


def test_drift_alerts_and_recovers(life: dict[str, Any]) -> None:
    """The alert is told after the move with its figure, and its end after the pages came back."""
    alerts = list(list_received(life, "LabDrift"))
    first = next(alert for alert in alerts if not alert.ended)
    last = [alert for alert in alerts if alert.ended][-1]

    assert get_mark(life, "moved") < first.at < get_mark(life, "LabDrift was told") + 1
    assert first.annotations["summary"] == "ref has 1.00 of its memory where it was not before"
    assert last.at > get_mark(life, "moved back")


def test_threads_apart_from_their_memory_are_told(life: dict[str, Any]) -> None:
    """With memory bound to node 0 and threads on node 1 nothing is local, although nothing has drifted."""
    last = [series for at, series in life["scrapes"] if at > get_mark(life, "apart seen")]
    alerts = [
        alert for alert in list_received(life, "LabRemote") if alert.at > get_mark(life, "apart") and not alert.ended
    ]

    assert max(series[LOCAL] for series in last if LOCAL in series) < 0.05
    assert max(series[DRIFT] for series in last if DRIFT in series) < 0.05
    assert alerts[0].annotations["summary"] == "ref has 0.00 of its memory where its threads run"


def test_the_built_in_rules_say_it(life: dict[str, Any]) -> None:
    """PlacementDrift is told of the pages that moved, BindingIneffective of the threads that left their memory."""
    drifted = next(list_received(life, "PlacementDrift"))
    bound = [
        alert for alert in list_received(life, "BindingIneffective") if alert.labels["evidence"] == "bound_threads"
    ]

    assert drifted.at < get_mark(life, "moved back")
    assert "% of the memory of engine ref" in drifted.annotations["summary"]
    assert [alert.at > get_mark(life, "apart") for alert in bound] == [True] * len(bound) != []
    assert "engine ref" in bound[0].annotations["summary"]
