"""The agent's actions with the real client and the real hand process, over a folder of kernel files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.actions import (
    ChangedError,
    FailedError,
    Plan,
    Task,
    UnknownError,
    command,
    compact_memory,
    drop_caches,
    freeze,
    governor,
)
from agent.actions import reclaim as reclaim_action
from agent.remediation import hand as hand_client
from collectors import Host
from tests.hand.conftest import POLICY, UNIT, RunningHand, wait_until

GOVERNOR = f"{POLICY}/scaling_governor"
TASK = Task("fast", {}, governor.Config(governor="performance"), {"alertname": "A"}, {})


class HandActionContext:
    """The parts of an ActionContext that actions use: files, the hand, and a few query results."""

    def __init__(self, hand: RunningHand) -> None:
        self.host = Host(hand.root)
        self.values: dict[str, float] = {}
        self._socket = str(hand.socket_path)

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Returns the values that a test has set."""
        return [({}, value) for name, value in self.values.items() if name in expr]

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Sends a request over the socket."""
        return hand_client.send_request(self._socket, verb, arguments)


@pytest.fixture(name="context")
def _context(hand: RunningHand) -> Iterator[Any]:
    yield HandActionContext(hand)


def test_the_hand_is_found(hand: RunningHand) -> None:
    """The client lists the usable verbs, and none without a hand."""
    for verb in ("drop_caches", "governor"):
        assert hand_client.explain_missing_verbs(str(hand.socket_path), [verb]) == ""
    assert "there is no hand at" in hand_client.explain_missing_verbs(str(hand.folder / "nobody"), ["governor"])
    assert hand_client.explain_missing_verbs(str(hand.socket_path), ["governor", "migrate"]) == ""
    explanation = hand_client.explain_missing_verbs(str(hand.socket_path), ["migrate"])
    assert explanation == "the hand cannot do migrate here: this host has one node"
    assert hand_client.explain_missing_verbs(str(hand.folder / "nobody"), ["migrate"]).startswith(
        "there is no hand at "
    )


def test_a_governor_is_set_renewed_and_put_back(hand: RunningHand, context: Any) -> None:
    """plan reads the value, do acquires the lease, a second do renews it, and undo releases it."""
    plan = governor.plan(TASK, context)
    assert plan.prior == {"0": "powersave"}

    assert governor.do(TASK, plan, context) == {"0": "performance"}
    assert hand.read(GOVERNOR) == "performance"
    governor.do(TASK, plan._replace(ours=(plan.wanted,)), context)
    assert [lease["prior"] for lease in hand.request_result("hello")["leases"]] == ["powersave"]

    governor.undo(TASK, plan, context)
    assert hand.read(GOVERNOR) == "powersave"
    governor.undo(TASK, plan, context)


def test_what_changed_between_plan_and_do_is_left(hand: RunningHand, context: Any) -> None:
    """The hand writes only while the value is the journalled prior value."""
    plan = governor.plan(TASK, context)
    hand.write(GOVERNOR, "schedutil")
    with pytest.raises(ChangedError, match="is 'schedutil' now, and not 'powersave'"):
        governor.do(TASK, plan, context)

    assert hand.read(GOVERNOR) == "schedutil"


def test_a_renewal_looks_at_the_value(hand: RunningHand, context: Any) -> None:
    """A renewal sets the value again after a processor was offline, and leaves any other value alone."""
    plan = governor.plan(TASK, context)
    renewal_plan = plan._replace(ours=(plan.wanted,))
    governor.do(TASK, plan, context)
    hand.write(GOVERNOR, "powersave")
    governor.do(TASK, renewal_plan, context)
    assert hand.read(GOVERNOR) == "performance"

    hand.write(GOVERNOR, "schedutil")
    with pytest.raises(ChangedError, match="is 'schedutil' now"):
        governor.do(TASK, renewal_plan, context)
    assert hand.read(GOVERNOR) == "schedutil"


def test_an_agent_that_dies_leaves_no_governor(hand: RunningHand, context: Any) -> None:
    """Without renewals the hand restores the governor by itself."""
    plan = governor.plan(TASK, context)
    governor.do(TASK, plan, context)
    hand.request_result("renew", leases=[lease["lease"] for lease in hand.request_result("hello")["leases"]], ttl=0.2)

    wait_until(lambda: hand.read(GOVERNOR) == "powersave")


def test_caches_are_dropped(hand: RunningHand, context: Any) -> None:
    """The action reports the hand's result."""
    task = Task("drop", {}, None, {"alertname": "A"}, {})
    assert drop_caches.do(task, drop_caches.Plan(None, "dropped", ""), context).startswith("freed 0 B in ")
    assert hand.read("proc/sys/vm/drop_caches").startswith("1")


def test_a_hand_that_is_away_is_a_sentence(tmp_path: Path) -> None:
    """Without a hand the client raises a sentence."""
    with pytest.raises(FailedError, match="there is no hand at"):
        hand_client.send_request(str(tmp_path / "sock"), "hello", {})


def test_a_stricter_governor_takes_the_place_of_one_that_is_held(hand: RunningHand, context: Any) -> None:
    """The stricter value is written, and undo restores the first prior value."""
    plan = governor.plan(TASK, context)
    governor.do(TASK, plan, context)
    strict = Task("slow", {}, governor.Config(governor="schedutil"), {"alertname": "A"}, {})
    tightened = plan._replace(wanted={"0": "schedutil"}, ours=(plan.wanted, {"0": "schedutil"}))
    governor.do(strict, tightened, context)
    assert hand.read(GOVERNOR) == "schedutil"

    governor.undo(strict, tightened, context)
    assert hand.read(GOVERNOR) == "powersave"


def test_a_host_of_many_policies_is_let_go(hand: RunningHand, context: Any) -> None:
    """The response with a hundred leases is longer than a request may be, and the client still reads it."""
    first = hand.root / POLICY
    for number in range(1, 100):
        folder = first.with_name(f"policy{number}")
        folder.mkdir()
        for name in ("scaling_governor", "scaling_available_governors"):
            (folder / name).write_text((first / name).read_text())
    plan = governor.plan(TASK, context)
    governor.do(TASK, plan, context)
    governor.do(TASK, plan._replace(ours=(plan.wanted,)), context)
    assert len(hand.request_result("hello")["leases"]) == 100

    governor.undo(TASK, plan, context)
    assert {file.read_text().strip() for file in first.parent.glob("*/scaling_governor")} == {"powersave"}


def test_a_unit_is_frozen_for_its_share_and_thawed(hand: RunningHand, context: Any) -> None:
    """The action freezes the unit under a lease, renews, tightens and thaws it."""
    task = Task("hold", {"engine": "r1", "unit": "llama.service"}, freeze.Config(duty=0.4, period=0.1), {}, {})
    plan = freeze.plan(task, context)
    assert freeze.do(task, plan, context) == 0.4
    wait_until(lambda: hand.read(f"{UNIT}/cgroup.freeze") == "1")
    assert freeze.do(task, plan._replace(ours=(0.4,)), context) == 0.4
    cgroup = hand.root / UNIT
    cgroup.rename(cgroup.with_name("away"))
    wait_until(lambda: bool(hand.request_result("renew", leases=["freeze-llama.service"], ttl=30)["lapsed"]))
    with pytest.raises(FailedError, match="the unit is not running"):
        freeze.do(task, plan._replace(ours=(0.4,)), context)
    cgroup.with_name("away").rename(cgroup)
    assert freeze.do(task, plan._replace(wanted=0.5, ours=(0.4, 0.5)), context) == 0.5
    assert [lease["ours"] for lease in hand.request_result("hello")["leases"]] == ["0.5 0.1"]

    freeze.undo(task, plan, context)
    assert hand.read(f"{UNIT}/cgroup.freeze") == "0"
    freeze.undo(task, plan, context)


def test_nodes_and_units_are_reclaimed_and_compacted(hand: RunningHand, context: Any) -> None:
    """The plan's number of bytes reaches the kernel's file."""
    hand.write(
        f"{UNIT}/memory.stat", "anon 100\nfile 9000000\nfile_mapped 0\nfile_dirty 0\nfile_writeback 0\nshmem 0\n"
    )
    context.values = {"cached_bytes": 0.0, "refault": 0.0, "file_bytes": 4e9, "mapped": 0.0, "dirty": 0.0}
    context.values |= {"writeback": 0.0, "mem_total": 64e9, "mem_free": 9e9, "requests_running": 0.0}
    for target, file, size in (
        ({"unit": "llama.service"}, f"{UNIT}/memory.reclaim", "9000000"),
        ({"node": "0"}, "sys/devices/system/node/node0/reclaim", str(4 << 30)),
    ):
        task = Task("free", target, reclaim_action.Config(), {}, {})
        assert reclaim_action.do(task, reclaim_action.plan(task, context), context).startswith("asked for ")
        assert hand.read(file) == size
    task = Task("pack", {"engine": "r1", "node": "0"}, None, {}, {"r1": "http://x"})
    assert compact_memory.do(task, compact_memory.plan(task, context), context).startswith("compacted in ")
    assert hand.read("sys/devices/system/node/node0/compact") == "1"


def test_a_command_is_started_with_the_labels_that_are_listed(hand: RunningHand, context: Any) -> None:
    """The hand lists the permitted variables and refuses any other."""
    task = Task("loud", {"name": "say"}, None, {"alertname": "Hot", "dimm": "A1;reboot"}, {})
    plan = command.plan(task, context)
    assert plan.wanted == {"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "A1_reboot"}}
    assert "STEADYTOK_LABEL_DIMM=A1_reboot" in command.do(task, plan, context)
    with pytest.raises(UnknownError, match=r"did not end within 0\.3 s and was killed"):
        command.do(task, Plan(None, {"name": "sleep", "environment": {}}, ""), context)

    with pytest.raises(FailedError, match="STEADYTOK_REMEDY' is not among the variables"):
        command.do(task, Plan(None, {"name": "say", "environment": {"STEADYTOK_REMEDY": "x"}}, ""), context)
