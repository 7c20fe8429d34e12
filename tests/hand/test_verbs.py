"""The effect of each verb on a folder of kernel files; the lab tests the same on a real kernel."""

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
from tests.hand.conftest import BOOT_ID, POLICY, UNIT, RunningHand, wait_until

FREEZE = {"unit": "llama.service", "duty": 0.5, "period": 0.1, "lease": "f", "ttl": 60}


def test_hello_tells_what_there_is(hand: RunningHand) -> None:
    """hello lists the available verbs, and for the others the reason."""
    hello = hand.request_result("hello")

    assert hello["verbs"] == ["command", "compact", "drop_caches", "epp", "freeze", "governor", "reclaim"]
    assert hello["missing"] == {"migrate": "this host has one node"}


def test_drop_caches_is_level_one(hand: RunningHand) -> None:
    """The verb writes 1 and has no argument for another level."""
    assert hand.request_result("drop_caches")["freed_bytes"] == 0
    assert hand.read("proc/sys/vm/drop_caches").startswith("1")
    assert hand.request("drop_caches", level=3)["error"] == "unknown argument 'level'"


def test_drop_caches_has_a_limit(hand: RunningHand) -> None:
    """The hand permits six uses an hour, independently of the agent's limits."""
    codes = [hand.request("drop_caches").get("code") for _ in range(7)]

    assert codes == [None] * 6 + ["limited"]


def test_reclaim_and_compact_reach_the_node(hand: RunningHand) -> None:
    """The verbs write the number of bytes or 1 to the node's file; an absent node is refused."""
    hand.request_result("reclaim", node=0, bytes=1 << 30)
    hand.request_result("compact", node=0)

    assert hand.read("sys/devices/system/node/node0/reclaim") == str(1 << 30)
    assert hand.read("sys/devices/system/node/node0/compact") == "1"
    assert hand.request("compact", node=7)["error"] == "there is no node 7 on this host"


def test_reclaim_reaches_a_named_unit(hand: RunningHand) -> None:
    """reclaim acts on a unit that hand.toml permits, and on no other."""
    hand.request_result("reclaim", unit="llama.service", bytes=1 << 20)

    assert hand.read(f"{UNIT}/memory.reclaim") == str(1 << 20)
    assert "must not be changed" in hand.request("reclaim", unit="sshd.service", bytes=1 << 20)["error"]


def test_epp_is_a_word_of_the_kernels(hand: RunningHand) -> None:
    """The verb writes only words that the kernel offers."""
    answer = hand.request("epp", policy=0, preference="turbo", lease="e", ttl=60)
    assert answer["code"] == "refused"
    assert "the kernel offers default, performance, balance_power, power" in answer["error"]

    hand.request_result("epp", policy=0, preference="performance", lease="e", ttl=60)
    assert hand.read(f"{POLICY}/energy_performance_preference") == "performance"


def test_freeze_lets_a_unit_run_for_its_share(hand: RunningHand) -> None:
    """The file alternates between 0 and 1 under the lease and is 0 after it."""
    file = f"{UNIT}/cgroup.freeze"
    answer = hand.request_result("freeze", unit="llama.service", duty=0.5, period=0.1, lease="f", ttl=60)
    assert answer == {"prior": 1.0, "now": 0.5}
    states = set()
    deadline = time.monotonic() + 20
    while not states >= {"0", "1"} and time.monotonic() < deadline:
        states.add(hand.read(file)[:1])
    assert states >= {"0", "1"}

    assert hand.request_result("freeze", unit="llama.service", duty=0.8, period=0.1, lease="f", ttl=60)["prior"] == 0.5
    hand.request_result("release", lease="f")
    assert hand.read(file)[:1] == "0"
    time.sleep(0.2)
    assert hand.read(file)[:1] == "0"


def test_a_killed_hand_leaves_nothing_frozen_for_long(hand: RunningHand) -> None:
    """The next hand resumes the cycle and thaws the unit when the lease expires."""
    hand.request_result("freeze", unit="llama.service", duty=0.5, period=0.1, lease="f", ttl=1)
    hand.kill()
    hand.write(f"{UNIT}/cgroup.freeze", "1")
    hand.start()

    wait_until(lambda: hand.request_result("hello")["leases"] == [])
    assert hand.read(f"{UNIT}/cgroup.freeze")[:1] == "0"


def test_freeze_goes_on_when_the_unit_is_restarted(hand: RunningHand) -> None:
    """The lease lapses while the cgroup is absent; the cycle resumes under the same lease when it returns."""
    cgroup = hand.root / UNIT
    hand.request_result("freeze", unit="llama.service", duty=0.5, period=0.1, lease="f", ttl=60)
    cgroup.rename(cgroup.with_name("away"))
    wait_until(lambda: "f" in hand.request_result("renew", leases=["f"], ttl=60)["lapsed"])
    assert "the unit is not running" in hand.request("freeze", **FREEZE)["error"]

    (cgroup.with_name("away") / "cgroup.freeze").write_text("0\n")
    cgroup.with_name("away").rename(cgroup)
    wait_until(lambda: hand.read(f"{UNIT}/cgroup.freeze")[:1] == "1")
    wait_until(lambda: hand.request_result("renew", leases=["f"], ttl=60)["renewed"] == ["f"])
    assert hand.request_result("freeze", **FREEZE)["now"] == 0.5
    hand.request_result("release", lease="f")
    assert hand.read(f"{UNIT}/cgroup.freeze")[:1] == "0"


def test_what_cannot_be_thawed_is_tried_again(hand: RunningHand) -> None:
    """A lease stays while its unit may still be frozen."""
    file = hand.root / UNIT / "cgroup.freeze"
    hand.request_result("freeze", **FREEZE)
    file.rename(file.with_name("kept"))
    file.mkdir()
    answer = hand.request("release", lease="f")
    assert (answer["code"], "Is a directory" in answer["error"]) == ("failed", True)
    assert len(hand.request_result("hello")["leases"]) == 1

    file.rmdir()
    file.with_name("kept").rename(file)
    assert hand.request_result("release", lease="f") == {"restored": True}


def test_freeze_minds_the_liveness_probe(hand: RunningHand) -> None:
    """A unit is never frozen for longer than `longest_stop` of hand.toml."""
    answer = hand.request("freeze", unit="llama.service", duty=0.5, period=2, lease="f", ttl=60)

    assert answer["code"] == "refused"
    assert "would be frozen for 1.00 s at a time" in answer["error"]


def test_a_command_gets_listed_variables_and_nothing_else(hand: RunningHand) -> None:
    """A command has fixed arguments and a clean environment with the variables that root lists."""
    result = hand.request_result("command", name="say", environment={"STEADYTOK_LABEL_DIMM": "A1:left"})

    assert result["status"] == 0
    assert sorted(line.partition("=")[0] for line in result["output"].split()) == [
        "LANG",
        "PATH",
        "STEADYTOK_LABEL_DIMM",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "say", "environment": {"LD_PRELOAD": "/tmp/x"}}, "is not among the variables"),
        ({"name": "say", "environment": {"STEADYTOK_OTHER": "x"}}, "is not among the variables"),
        ({"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "$(reboot)"}}, "characters that are not allowed"),
        ({"name": "say", "environment": {"STEADYTOK_LABEL_DIMM": "a\nb"}}, "characters that are not allowed"),
        ({"name": "say", "argv": ["/bin/sh"]}, "unknown argument 'argv'"),
        ({"name": "../say"}, "expected a name of hand.toml's commands"),
        ({"name": "reboot"}, "hand.toml has no [commands.reboot]"),
    ],
)
def test_a_command_takes_nothing_else(hand: RunningHand, arguments: dict[str, Any], sentence: str) -> None:
    """Other programs, arguments, variables and characters are refused."""
    assert sentence in hand.request("command", **arguments)["error"]


def test_a_command_that_does_not_end_is_killed(hand: RunningHand) -> None:
    """The hand kills the whole session after the configured timeout; the outcome is ambiguous."""
    answer = hand.request("command", name="sleep")

    assert answer == {"ok": False, "code": "ambiguous", "error": "the command did not end within 0.3 s and was killed"}


def test_a_fault_of_the_hand_is_an_answer(folder: Path) -> None:
    """When a verb raises any exception the outcome is ambiguous, the log has the reason, and the next call works."""
    (folder / "state").mkdir()
    log_lines: list[str] = []
    broken_verb = replace(VERBS["drop_caches"], prepare=lambda *_: lambda: {}["no"])
    context = VerbContext(KernelFiles(folder / "root"), HandConfig(), LeaseStore(folder / "state", BOOT_ID))
    service = Service(context, log_lines.append, {"drop_caches": broken_verb})
    answer = service.answer(b'{"verb": "drop_caches"}', "a test")

    assert answer == {"ok": False, "code": "ambiguous", "error": "internal error of the hand: KeyError: 'no'"}
    assert log_lines == ["refused to a test: internal error of the hand: KeyError: 'no'"]
    assert service.answer(b'{"verb": "hello"}', "a test")["ok"]
