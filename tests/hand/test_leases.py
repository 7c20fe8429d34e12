"""Leases expire by themselves, even when the agent or the hand dies."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from hand.config import HandConfig
from hand.files import KernelFiles
from hand.leases import LeaseStore
from hand.service import Service
from hand.verb import VerbContext
from tests.hand.conftest import BOOT_ID, POLICY, RunningHand, wait_until

GOVERNOR = f"{POLICY}/scaling_governor"


def hold_governor(hand: RunningHand, ttl: float, governor: str = "performance", lease: str = "cool") -> None:
    hand.request_result("governor", policy=0, governor=governor, lease=lease, ttl=ttl, expected=None)


def test_a_lease_ends_by_itself(hand: RunningHand) -> None:
    """A lease that nobody renews is restored after its ttl."""
    hold_governor(hand, 0.3)
    assert hand.read(GOVERNOR) == "performance"

    wait_until(lambda: hand.read(GOVERNOR) == "powersave")
    assert hand.request_result("hello")["leases"] == []


def test_a_renewed_lease_holds(hand: RunningHand) -> None:
    """A renewal returns the renewed and the unknown names, and extends the lease."""
    hold_governor(hand, 0.5)
    renewal = hand.request_result("renew", leases=["cool", "gone"], ttl=60)
    assert renewal == {"renewed": ["cool"], "unknown": ["gone"], "lapsed": {}}

    (lease,) = hand.request_result("hello")["leases"]
    assert lease["left"] > 30
    assert (lease["prior"], lease["ours"]) == ("powersave", "performance")


def test_a_lease_whose_value_is_another_now_is_not_renewed(hand: RunningHand) -> None:
    """The response names the current value, and the lease expires: the agent would trust an empty lease for ever."""
    hold_governor(hand, 1.0)
    hand.write(GOVERNOR, "schedutil")
    renewal = hand.request_result("renew", leases=["cool"], ttl=60)

    assert (renewal["renewed"], renewal["unknown"]) == ([], [])
    assert renewal["lapsed"] == {"cool": f"{GOVERNOR} is schedutil and no longer performance"}
    wait_until(lambda: hand.request_result("hello")["leases"] == [])
    assert hand.read(GOVERNOR) == "schedutil"


def test_a_released_lease_is_put_back_at_once(hand: RunningHand) -> None:
    """Release restores the prior value and removes the lease."""
    hold_governor(hand, 60)
    assert hand.request_result("release", lease="cool") == {"restored": True}
    assert hand.read(GOVERNOR) == "powersave"
    assert hand.request("release", lease="cool")["code"] == "unknown"


def test_what_somebody_else_changed_is_left(hand: RunningHand) -> None:
    """A value that somebody else set stays; the error says so, and the lease ends."""
    hold_governor(hand, 60)
    hand.write(GOVERNOR, "schedutil")
    answer = hand.request("release", lease="cool")

    assert answer["code"] == "changed"
    assert "schedutil and no longer performance: somebody else changed it" in answer["error"]
    assert hand.read(GOVERNOR) == "schedutil"
    assert hand.request_result("hello")["leases"] == []


def test_the_first_prior_value_is_the_one_that_comes_back(hand: RunningHand) -> None:
    """A second lease on the same file replaces the first and keeps its prior value."""
    hold_governor(hand, 60)
    hold_governor(hand, 60, governor="schedutil", lease="other")
    assert [lease["lease"] for lease in hand.request_result("hello")["leases"]] == ["other"]

    hand.request_result("release", lease="other")
    assert hand.read(GOVERNOR) == "powersave"


def test_a_name_holds_one_thing(hand: RunningHand) -> None:
    """A lease name cannot move to another resource: the first resource would never be restored."""
    hold_governor(hand, ttl=30)
    answer = hand.request("epp", policy=0, preference="power", lease="cool", ttl=30)

    assert (answer["code"], "lease cool holds" in answer["error"]) == ("refused", True)
    hand.request_result("release", lease="cool")
    assert hand.read(GOVERNOR) == "powersave"


def test_what_is_not_as_expected_is_not_written(hand: RunningHand) -> None:
    """When the value differs from the caller's expected one, the hand writes nothing and holds nothing."""
    answer = hand.request("governor", policy=0, governor="performance", lease="cool", ttl=60, expected="schedutil")

    assert answer["code"] == "changed"
    assert hand.read(GOVERNOR) == "powersave"
    assert hand.request_result("hello")["leases"] == []


def test_all_is_put_back_when_the_hand_ends(hand: RunningHand) -> None:
    """After SIGTERM the hand restores everything and exits with 0."""
    hold_governor(hand, 60)
    assert hand.terminate() == 0
    assert hand.read(GOVERNOR) == "powersave"


def test_a_killed_hand_takes_up_its_leases(hand: RunningHand) -> None:
    """After kill -9 the next hand loads the leases and restores each when it expires."""
    hold_governor(hand, 60)
    hand.kill()
    hand.start()
    (lease,) = hand.request_result("hello")["leases"]
    assert (lease["prior"], lease["ours"]) == ("powersave", "performance")

    hand.request_result("renew", leases=["cool"], ttl=0.1)
    wait_until(lambda: hand.read(GOVERNOR) == "powersave")


def test_a_lease_that_ended_while_nobody_was_there_is_put_back_at_start(hand: RunningHand) -> None:
    """A lease that expired while no hand ran is restored when the next hand starts."""
    hold_governor(hand, 0.2)
    hand.kill()
    assert hand.read(GOVERNOR) == "performance"

    hand.start()
    wait_until(lambda: hand.read(GOVERNOR) == "powersave")


def test_a_kill_between_journal_and_write_harms_nothing(folder: Path) -> None:
    """A saved lease whose value was never written needs no restore."""
    state = folder / "state"
    state.mkdir()
    lease = {"name": "cool", "verb": "governor", "resource": GOVERNOR, "prior": "powersave", "ours": "performance"}
    boot_id = (folder / "root/proc/sys/kernel/random/boot_id").read_text().strip()
    (state / "leases.json").write_text(json.dumps({"boot_id": boot_id, "leases": [{**lease, "until": 0.0}]}))
    hand = RunningHand(folder)

    wait_until(lambda: hand.request_result("hello")["leases"] == [])
    assert hand.read(GOVERNOR) == "powersave"
    assert "cannot restore" not in hand.read_log()
    hand.terminate()


def test_leases_of_another_boot_are_forgotten(hand: RunningHand) -> None:
    """A reboot has reset the resources, so the hand forgets the leases and changes nothing."""
    hold_governor(hand, 60)
    hand.kill()
    hand.write("proc/sys/kernel/random/boot_id", "another")
    hand.start()

    assert hand.request_result("hello")["leases"] == []
    assert hand.read(GOVERNOR) == "performance"


def test_a_state_that_cannot_be_read_stops_the_start(folder: Path) -> None:
    """A hand that cannot read its leases does not start: it could not restore their resources."""
    (folder / "state").mkdir()
    (folder / "state/leases.json").write_text("{")
    try:
        RunningHand(folder)
    except AssertionError as error:
        assert "leases.json cannot be read" in str(error)
    else:
        raise AssertionError("it started")


@pytest.mark.deep
def test_what_cannot_be_put_back_is_tried_again(hand: RunningHand) -> None:
    """The file of an offline processor is restored when it returns; the error is logged once."""
    hold_governor(hand, 0.2)
    file = hand.root / GOVERNOR
    file.rename(file.with_suffix(".away"))
    wait_until(lambda: "cannot restore" in hand.read_log())
    file.with_suffix(".away").rename(file)

    wait_until(lambda: hand.read(GOVERNOR) == "powersave")
    assert hand.read_log().count("cannot restore") == 1


class SlowFiles(KernelFiles):
    """Kernel files whose first write is slow."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writing = threading.Event()

    def write(self, path: str, text: str) -> None:
        """Writes the file; the first call waits before."""
        if not self.writing.is_set():
            self.writing.set()
            time.sleep(0.4)
        super().write(path, text)


def test_a_lease_that_ends_during_its_write_is_put_back_after_it(folder: Path) -> None:
    """A restore before the write would leave the value for ever; a minute of fuzzing found that bug."""
    files = SlowFiles(folder / "root")
    (folder / "state").mkdir()
    leases = LeaseStore(folder / "state", BOOT_ID)
    service = Service(VerbContext(files, HandConfig(), leases), lambda _: None)

    def expire_lease() -> None:
        files.writing.wait(10)
        time.sleep(0.2)
        service.restore_expired()

    expiry_thread = threading.Thread(target=expire_lease)
    expiry_thread.start()
    arguments = {"policy": 0, "governor": "performance", "lease": "cool", "ttl": 0.1}
    service.answer(json.dumps({"verb": "governor", "arguments": arguments}).encode(), "a test")
    expiry_thread.join()

    assert (folder / "root" / GOVERNOR).read_text().strip() == "powersave"
    assert leases.list_all() == []
