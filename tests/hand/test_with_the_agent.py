"""The agent's actions and the hand together: the real client, the real process, over a machine that is a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import hand_client
from agent.actions import ChangedError, FailedError, Task, drop_caches, governor
from collectors import Host
from tests.hand.conftest import POLICY, Running, eventually

GOVERNOR = f"{POLICY}/scaling_governor"
TASK = Task("fast", {}, governor.Config(governor="performance"), {"alertname": "A"}, {})


class Reach:
    """What the two actions use of the agent's reach: files, the hand, and a History without alerts."""

    def __init__(self, hand: Running) -> None:
        self.host = Host(hand.root)
        self._socket = str(hand.socket)

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """No processor is hot."""
        return []

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Over the socket."""
        return hand_client.ask(self._socket, verb, arguments)


@pytest.fixture(name="reach")
def _reach(hand: Running) -> Iterator[Any]:
    yield Reach(hand)


def test_the_hand_is_found(hand: Running) -> None:
    """The client tells which verbs are usable, and none where no hand is."""
    assert {"drop_caches", "governor"} <= set(hand_client.usable(str(hand.socket)))
    assert hand_client.usable(str(hand.folder / "nobody")) == []


def test_a_governor_is_set_renewed_and_put_back(hand: Running, reach: Any) -> None:
    """plan sees what is there, do takes the lease, do again renews it, undo lets it go."""
    plan = governor.plan(TASK, reach)
    assert plan.prior == {"0": "powersave"}

    assert governor.do(TASK, plan, reach) == {"0": "performance"}
    assert hand.read(GOVERNOR) == "performance"
    governor.do(TASK, plan._replace(ours=(plan.wanted,)), reach)
    assert [lease["prior"] for lease in hand.result("hello")["leases"]] == ["powersave"]

    governor.undo(TASK, plan, reach)
    assert hand.read(GOVERNOR) == "powersave"
    governor.undo(TASK, plan, reach)


def test_what_changed_between_plan_and_do_is_left(hand: Running, reach: Any) -> None:
    """The journalled prior value is the condition of the write."""
    plan = governor.plan(TASK, reach)
    hand.write(GOVERNOR, "schedutil")
    with pytest.raises(ChangedError, match="is 'schedutil' now, and not 'powersave'"):
        governor.do(TASK, plan, reach)

    assert hand.read(GOVERNOR) == "schedutil"


def test_an_agent_that_dies_leaves_no_governor(hand: Running, reach: Any) -> None:
    """Nobody renews: the hand puts it back by itself."""
    plan = governor.plan(TASK, reach)
    governor.do(TASK, plan, reach)
    hand.result("renew", leases=[lease["lease"] for lease in hand.result("hello")["leases"]], ttl=0.2)

    eventually(lambda: hand.read(GOVERNOR) == "powersave")


def test_caches_are_dropped(hand: Running, reach: Any) -> None:
    """The action's words are made of the hand's answer."""
    task = Task("drop", {}, drop_caches.Config(), {"alertname": "A"}, {})
    assert drop_caches.do(task, drop_caches.Plan(None, "dropped", ""), reach).startswith("freed 0 B in ")
    assert hand.read("proc/sys/vm/drop_caches").startswith("1")


def test_a_hand_that_is_away_is_a_sentence(tmp_path: Path) -> None:
    """And tells how to have one."""
    with pytest.raises(FailedError, match="there is no hand at"):
        hand_client.ask(str(tmp_path / "sock"), "hello", {})
