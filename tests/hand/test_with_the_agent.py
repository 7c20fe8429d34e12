"""The agent's actions and the hand together: the real client, the real process, over a machine that is a folder."""

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
from agent.actions import reclaim as reclaiming
from agent.remediation import hand as hand_client
from collectors import Host
from tests.hand.conftest import POLICY, UNIT, Running, eventually

GOVERNOR = f"{POLICY}/scaling_governor"
TASK = Task("fast", {}, governor.Config(governor="performance"), {"alertname": "A"}, {})


class Reach:
    """What actions use of the agent's reach: files, the hand, and a History of a few values."""

    def __init__(self, hand: Running) -> None:
        self.host = Host(hand.root)
        self.values: dict[str, float] = {}
        self._socket = str(hand.socket)

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """What a test has said; no processor is hot."""
        return [({}, value) for name, value in self.values.items() if name in expr]

    def hand(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Over the socket."""
        return hand_client.send_request(self._socket, verb, arguments)


@pytest.fixture(name="reach")
def _reach(hand: Running) -> Iterator[Any]:
    yield Reach(hand)


def test_the_hand_is_found(hand: Running) -> None:
    """The client tells which verbs are usable, and none where no hand is."""
    assert {"drop_caches", "governor"} <= set(hand_client.list_usable_verbs(str(hand.socket)))
    assert hand_client.list_usable_verbs(str(hand.folder / "nobody")) == []
    assert hand_client.explain_missing_verbs(str(hand.socket), ["governor", "migrate"]) == ""
    why = hand_client.explain_missing_verbs(str(hand.socket), ["migrate"])
    assert why == "the hand cannot do migrate here: this host has one node"
    assert hand_client.explain_missing_verbs(str(hand.folder / "nobody"), ["migrate"]).startswith(
        "there is no hand at "
    )


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


def test_a_renewal_looks_at_the_value(hand: Running, reach: Any) -> None:
    """The prior one is set again, as after a processor was offline; anything else is somebody's, and left."""
    plan = governor.plan(TASK, reach)
    held = plan._replace(ours=(plan.wanted,))
    governor.do(TASK, plan, reach)
    hand.write(GOVERNOR, "powersave")
    governor.do(TASK, held, reach)
    assert hand.read(GOVERNOR) == "performance"

    hand.write(GOVERNOR, "schedutil")
    with pytest.raises(ChangedError, match="is 'schedutil' now"):
        governor.do(TASK, held, reach)
    assert hand.read(GOVERNOR) == "schedutil"


def test_an_agent_that_dies_leaves_no_governor(hand: Running, reach: Any) -> None:
    """Nobody renews: the hand puts it back by itself."""
    plan = governor.plan(TASK, reach)
    governor.do(TASK, plan, reach)
    hand.result("renew", leases=[lease["lease"] for lease in hand.result("hello")["leases"]], ttl=0.2)

    eventually(lambda: hand.read(GOVERNOR) == "powersave")


def test_caches_are_dropped(hand: Running, reach: Any) -> None:
    """The action's words are made of the hand's answer."""
    task = Task("drop", {}, None, {"alertname": "A"}, {})
    assert drop_caches.do(task, drop_caches.Plan(None, "dropped", ""), reach).startswith("freed 0 B in ")
    assert hand.read("proc/sys/vm/drop_caches").startswith("1")


def test_a_hand_that_is_away_is_a_sentence(tmp_path: Path) -> None:
    """And tells how to have one."""
    with pytest.raises(FailedError, match="there is no hand at"):
        hand_client.send_request(str(tmp_path / "sock"), "hello", {})


def test_a_stricter_governor_takes_the_place_of_one_that_is_held(hand: Running, reach: Any) -> None:
    """The value is really written, and what comes back is what was there at first."""
    plan = governor.plan(TASK, reach)
    governor.do(TASK, plan, reach)
    strict = Task("slow", {}, governor.Config(governor="schedutil"), {"alertname": "A"}, {})
    tightened = plan._replace(wanted={"0": "schedutil"}, ours=(plan.wanted, {"0": "schedutil"}))
    governor.do(strict, tightened, reach)
    assert hand.read(GOVERNOR) == "schedutil"

    governor.undo(strict, tightened, reach)
    assert hand.read(GOVERNOR) == "powersave"


def test_a_host_of_many_policies_is_let_go(hand: Running, reach: Any) -> None:
    """The hand's account of a hundred leases is longer than a request may be, and is read all the same."""
    first = hand.root / POLICY
    for number in range(1, 100):
        folder = first.with_name(f"policy{number}")
        folder.mkdir()
        for name in ("scaling_governor", "scaling_available_governors"):
            (folder / name).write_text((first / name).read_text())
    plan = governor.plan(TASK, reach)
    governor.do(TASK, plan, reach)
    governor.do(TASK, plan._replace(ours=(plan.wanted,)), reach)
    assert len(hand.result("hello")["leases"]) == 100

    governor.undo(TASK, plan, reach)
    assert {file.read_text().strip() for file in first.parent.glob("*/scaling_governor")} == {"powersave"}


def test_a_unit_is_frozen_for_its_share_and_thawed(hand: Running, reach: Any) -> None:
    """What hand.toml says of its liveness probes is heard before anything is asked for."""
    task = Task("hold", {"engine": "r1", "unit": "llama.service"}, freeze.Config(duty=0.4, period=0.1), {}, {})
    plan = freeze.plan(task, reach)
    assert freeze.do(task, plan, reach) == 0.4
    eventually(lambda: hand.read(f"{UNIT}/cgroup.freeze") == "1")
    assert freeze.do(task, plan._replace(ours=(0.4,)), reach) == 0.4
    cgroup = hand.root / UNIT
    cgroup.rename(cgroup.with_name("away"))
    eventually(lambda: bool(hand.result("renew", leases=["freeze-llama.service"], ttl=30)["lapsed"]))
    with pytest.raises(FailedError, match="the unit is not running"):
        freeze.do(task, plan._replace(ours=(0.4,)), reach)
    cgroup.with_name("away").rename(cgroup)
    assert freeze.do(task, plan._replace(wanted=0.5, ours=(0.4, 0.5)), reach) == 0.5
    assert [lease["ours"] for lease in hand.result("hello")["leases"]] == ["0.5 0.1"]

    freeze.undo(task, plan, reach)
    assert hand.read(f"{UNIT}/cgroup.freeze") == "0"
    freeze.undo(task, plan, reach)


def test_nodes_and_units_are_reclaimed_and_compacted(hand: Running, reach: Any) -> None:
    """What the plan predicts is what reaches the kernel's file."""
    hand.write(
        f"{UNIT}/memory.stat", "anon 100\nfile 9000000\nfile_mapped 0\nfile_dirty 0\nfile_writeback 0\nshmem 0\n"
    )
    reach.values = {"cached_bytes": 0.0, "refault": 0.0, "file_bytes": 4e9, "mapped": 0.0, "dirty": 0.0}
    reach.values |= {"writeback": 0.0, "mem_total": 64e9, "mem_free": 9e9, "requests_running": 0.0}
    for target, file, size in (
        ({"unit": "llama.service"}, f"{UNIT}/memory.reclaim", "9000000"),
        ({"node": "0"}, "sys/devices/system/node/node0/reclaim", str(4 << 30)),
    ):
        task = Task("free", target, reclaiming.Config(), {}, {})
        assert reclaiming.do(task, reclaiming.plan(task, reach), reach).startswith("asked for ")
        assert hand.read(file) == size
    task = Task("pack", {"engine": "r1", "node": "0"}, None, {}, {"r1": "http://x"})
    assert compact_memory.do(task, compact_memory.plan(task, reach), reach).startswith("compacted in ")
    assert hand.read("sys/devices/system/node/node0/compact") == "1"


def test_a_command_is_started_with_the_labels_that_are_listed(hand: Running, reach: Any) -> None:
    """The hand tells which those are, and takes no other."""
    task = Task("loud", {"name": "say"}, None, {"alertname": "Hot", "dimm": "A1;reboot"}, {})
    plan = command.plan(task, reach)
    assert plan.wanted == {"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "A1_reboot"}}
    assert "STEADYTOK_LABEL_DIMM=A1_reboot" in command.do(task, plan, reach)
    with pytest.raises(UnknownError, match=r"did not end within 0\.3 s and was killed"):
        command.do(task, Plan(None, {"name": "sleep", "environment": {}}, ""), reach)

    with pytest.raises(FailedError, match="STEADYTOK_REMEDY' is not among those"):
        command.do(task, Plan(None, {"name": "say", "environment": {"STEADYTOK_REMEDY": "x"}}, ""), reach)
