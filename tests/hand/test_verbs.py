"""What each verb does to a machine that is a folder; the lab does the same to a real kernel."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hand.config import HandConfig
from hand.files import KernelFiles
from hand.leases import LeaseStore
from hand.service import Service
from hand.verb import VerbContext
from hand.verbs import VERBS
from tests.hand.conftest import BOOT_ID, POLICY, UNIT, Running, eventually

FREEZE = {"unit": "llama.service", "duty": 0.5, "period": 0.1, "lease": "f", "ttl": 60}


def test_hello_tells_what_there_is(hand: Running) -> None:
    """The verbs of use here, and of the others why not."""
    hello = hand.result("hello")

    assert hello["verbs"] == ["command", "compact", "drop_caches", "epp", "freeze", "governor", "reclaim"]
    assert hello["missing"] == {"migrate": "this host has one node"}


def test_drop_caches_is_level_one(hand: Running) -> None:
    """The file gets a 1, whatever anybody would like; it has no argument."""
    assert hand.result("drop_caches")["freed_bytes"] == 0
    assert hand.read("proc/sys/vm/drop_caches").startswith("1")
    assert hand.ask("drop_caches", level=3)["error"] == "unknown argument 'level'"


def test_drop_caches_has_a_limit(hand: Running) -> None:
    """Six an hour: the agent's own bounds are not the only ones."""
    codes = [hand.ask("drop_caches").get("code") for _ in range(7)]

    assert codes == [None] * 6 + ["limited"]


def test_reclaim_and_compact_reach_the_node(hand: Running) -> None:
    """The number of bytes, or a 1, is written to the node's file; a node that is not there is refused."""
    hand.result("reclaim", node=0, bytes=1 << 30)
    hand.result("compact", node=0)

    assert hand.read("sys/devices/system/node/node0/reclaim") == str(1 << 30)
    assert hand.read("sys/devices/system/node/node0/compact") == "1"
    assert hand.ask("compact", node=7)["error"] == "there is no node 7 on this host"


def test_reclaim_reaches_a_named_unit(hand: Running) -> None:
    """A unit that hand.toml names for it, and no other."""
    hand.result("reclaim", unit="llama.service", bytes=1 << 20)

    assert hand.read(f"{UNIT}/memory.reclaim") == str(1 << 20)
    assert "is not to be touched" in hand.ask("reclaim", unit="sshd.service", bytes=1 << 20)["error"]


def test_epp_is_a_word_of_the_kernels(hand: Running) -> None:
    """Only what the kernel offers is written."""
    answer = hand.ask("epp", policy=0, preference="turbo", lease="e", ttl=60)
    assert answer["code"] == "refused"
    assert "the kernel offers default, performance, balance_power, power" in answer["error"]

    hand.result("epp", policy=0, preference="performance", lease="e", ttl=60)
    assert hand.read(f"{POLICY}/energy_performance_preference") == "performance"


def test_freeze_lets_a_unit_run_for_its_share(hand: Running) -> None:
    """The file goes to and fro while the lease holds, and stands at 0 after it."""
    file = f"{UNIT}/cgroup.freeze"
    answer = hand.result("freeze", unit="llama.service", duty=0.5, period=0.1, lease="f", ttl=60)
    assert answer == {"prior": 1.0, "now": 0.5}
    seen = set()
    until = time.monotonic() + 20
    while not seen >= {"0", "1"} and time.monotonic() < until:
        seen.add(hand.read(file)[:1])
    assert seen >= {"0", "1"}

    assert hand.result("freeze", unit="llama.service", duty=0.8, period=0.1, lease="f", ttl=60)["prior"] == 0.5
    hand.result("release", lease="f")
    assert hand.read(file)[:1] == "0"
    time.sleep(0.2)
    assert hand.read(file)[:1] == "0"


def test_a_killed_hand_leaves_nothing_frozen_for_long(hand: Running) -> None:
    """The next hand goes on with the cycle, and thaws for good when the lease ends."""
    hand.result("freeze", unit="llama.service", duty=0.5, period=0.1, lease="f", ttl=1)
    hand.kill()
    hand.write(f"{UNIT}/cgroup.freeze", "1")
    hand.start()

    eventually(lambda: hand.result("hello")["leases"] == [])
    assert hand.read(f"{UNIT}/cgroup.freeze")[:1] == "0"


def test_freeze_goes_on_when_the_unit_is_restarted(hand: Running) -> None:
    """Its cgroup goes and comes back: told meanwhile, then frozen and thawed again under the same lease."""
    cgroup = hand.root / UNIT
    hand.result("freeze", unit="llama.service", duty=0.5, period=0.1, lease="f", ttl=60)
    cgroup.rename(cgroup.with_name("away"))
    eventually(lambda: "f" in hand.result("renew", leases=["f"], ttl=60)["lapsed"])
    assert "the unit is not running" in hand.ask("freeze", **FREEZE)["error"]

    (cgroup.with_name("away") / "cgroup.freeze").write_text("0\n")
    cgroup.with_name("away").rename(cgroup)
    eventually(lambda: hand.read(f"{UNIT}/cgroup.freeze")[:1] == "1")
    eventually(lambda: hand.result("renew", leases=["f"], ttl=60)["renewed"] == ["f"])
    assert hand.result("freeze", **FREEZE)["now"] == 0.5
    hand.result("release", lease="f")
    assert hand.read(f"{UNIT}/cgroup.freeze")[:1] == "0"


def test_what_cannot_be_thawed_is_tried_again(hand: Running) -> None:
    """A lease is not let go while its unit may stand still."""
    file = hand.root / UNIT / "cgroup.freeze"
    hand.result("freeze", **FREEZE)
    file.rename(file.with_name("kept"))
    file.mkdir()
    answer = hand.ask("release", lease="f")
    assert (answer["code"], "Is a directory" in answer["error"]) == ("failed", True)
    assert len(hand.result("hello")["leases"]) == 1

    file.rmdir()
    file.with_name("kept").rename(file)
    assert hand.result("release", lease="f") == {"restored": True}


def test_freeze_minds_the_liveness_probe(hand: Running) -> None:
    """A unit is never stood still for longer than root said it may be."""
    answer = hand.ask("freeze", unit="llama.service", duty=0.5, period=2, lease="f", ttl=60)

    assert answer["code"] == "refused"
    assert "would stand still for 1.00 s at a time" in answer["error"]


def test_a_command_gets_listed_variables_and_nothing_else(hand: Running) -> None:
    """Fixed arguments, a clean environment, and what the alert says only in variables that root listed."""
    result = hand.result("command", name="say", environment={"STEADYTOK_LABEL_DIMM": "A1:left"})

    assert result["status"] == 0
    assert sorted(line.partition("=")[0] for line in result["output"].split()) == [
        "LANG",
        "PATH",
        "STEADYTOK_LABEL_DIMM",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "say", "environment": {"LD_PRELOAD": "/tmp/x"}}, "is not among those"),
        ({"name": "say", "environment": {"STEADYTOK_OTHER": "x"}}, "is not among those"),
        ({"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "$(reboot)"}}, "no label of ours needs"),
        ({"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "a\nb"}}, "no label of ours needs"),
        ({"name": "say", "argv": ["/bin/sh"]}, "unknown argument 'argv'"),
        ({"name": "../say"}, "expected a name of hand.toml's commands"),
        ({"name": "reboot"}, "hand.toml has no [commands.reboot]"),
    ],
)
def test_a_command_takes_nothing_else(hand: Running, arguments: dict[str, Any], sentence: str) -> None:
    """Neither other programs, nor arguments, nor variables, nor characters."""
    assert sentence in hand.ask("command", **arguments)["error"]


def test_a_command_that_does_not_end_is_killed(hand: Running) -> None:
    """Its whole session, after the time that root gave it; what it had done by then nobody knows."""
    answer = hand.ask("command", name="sleep")

    assert answer == {"ok": False, "code": "ambiguous", "error": "it did not end within 0.3 s and was killed"}


def test_a_fault_of_the_hand_is_an_answer(folder: Path) -> None:
    """Whatever a verb raises, the caller hears that nobody knows, the journal hears why, and the next is answered."""
    (folder / "state").mkdir()
    said: list[str] = []
    broken = replace(VERBS["drop_caches"], prepare=lambda *_: lambda: {}["no"])
    bench = VerbContext(KernelFiles(folder / "root"), HandConfig(), LeaseStore(folder / "state", BOOT_ID))
    service = Service(bench, said.append, {"drop_caches": broken})
    answer = service.answer(b'{"verb": "drop_caches"}', "a test")

    assert answer == {"ok": False, "code": "ambiguous", "error": "a fault of the hand: KeyError: 'no'"}
    assert said == ["refused to a test: a fault of the hand: KeyError: 'no'"]
    assert service.answer(b'{"verb": "hello"}', "a test")["ok"]
