"""What holds a host back ends by itself, whoever dies."""

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
from tests.hand.conftest import BOOT_ID, POLICY, Running, eventually

GOVERNOR = f"{POLICY}/scaling_governor"


def hold(hand: Running, ttl: float, governor: str = "performance", lease: str = "cool") -> None:
    hand.result("governor", policy=0, governor=governor, lease=lease, ttl=ttl, expected=None)


def test_a_lease_ends_by_itself(hand: Running) -> None:
    """What nobody renews is put back when its ttl is over."""
    hold(hand, 0.3)
    assert hand.read(GOVERNOR) == "performance"

    eventually(lambda: hand.read(GOVERNOR) == "powersave")
    assert hand.result("hello")["leases"] == []


def test_a_renewed_lease_holds(hand: Running) -> None:
    """Renewing tells which leases go on and which are not held; the renewed one is still there."""
    hold(hand, 0.5)
    told = hand.result("renew", leases=["cool", "gone"], ttl=60)
    assert told == {"renewed": ["cool"], "unknown": ["gone"], "lapsed": {}}

    (lease,) = hand.result("hello")["leases"]
    assert lease["left"] > 30
    assert (lease["prior"], lease["ours"]) == ("powersave", "performance")


def test_a_lease_whose_value_is_another_now_is_not_renewed(hand: Running) -> None:
    """It is told with what is there, and ends by itself: a lease on paper alone would be believed for ever."""
    hold(hand, 1.0)
    hand.write(GOVERNOR, "schedutil")
    told = hand.result("renew", leases=["cool"], ttl=60)

    assert (told["renewed"], told["unknown"]) == ([], [])
    assert told["lapsed"] == {"cool": f"{GOVERNOR} is schedutil and no longer performance"}
    eventually(lambda: hand.result("hello")["leases"] == [])
    assert hand.read(GOVERNOR) == "schedutil"


def test_a_released_lease_is_put_back_at_once(hand: Running) -> None:
    """Release restores the prior value, and the lease is gone."""
    hold(hand, 60)
    assert hand.result("release", lease="cool") == {"restored": True}
    assert hand.read(GOVERNOR) == "powersave"
    assert hand.ask("release", lease="cool")["code"] == "unknown"


def test_what_somebody_else_changed_is_left(hand: Running) -> None:
    """Where the value is no longer ours it is theirs: hands off, said in a sentence, and the lease ends."""
    hold(hand, 60)
    hand.write(GOVERNOR, "schedutil")
    answer = hand.ask("release", lease="cool")

    assert answer["code"] == "changed"
    assert "schedutil and no longer performance: somebody else changed it" in answer["error"]
    assert hand.read(GOVERNOR) == "schedutil"
    assert hand.result("hello")["leases"] == []


def test_the_first_prior_value_is_the_one_that_comes_back(hand: Running) -> None:
    """A second lease on the same file takes it over and keeps what was there before the first."""
    hold(hand, 60)
    hold(hand, 60, governor="schedutil", lease="other")
    assert [lease["lease"] for lease in hand.result("hello")["leases"]] == ["other"]

    hand.result("release", lease="other")
    assert hand.read(GOVERNOR) == "powersave"


def test_a_name_holds_one_thing(hand: Running) -> None:
    """Were it given to another resource, the first would be forgotten and never put back."""
    hold(hand, ttl=30)
    answer = hand.ask("epp", policy=0, preference="power", lease="cool", ttl=30)

    assert (answer["code"], "lease cool holds" in answer["error"]) == ("refused", True)
    hand.result("release", lease="cool")
    assert hand.read(GOVERNOR) == "powersave"


def test_what_is_not_as_expected_is_not_written(hand: Running) -> None:
    """The caller says what it saw; where that has changed meanwhile, nothing is written and nothing held."""
    answer = hand.ask("governor", policy=0, governor="performance", lease="cool", ttl=60, expected="schedutil")

    assert answer["code"] == "changed"
    assert hand.read(GOVERNOR) == "powersave"
    assert hand.result("hello")["leases"] == []


def test_all_is_put_back_when_the_hand_ends(hand: Running) -> None:
    """SIGTERM restores everything, and the exit status is 0."""
    hold(hand, 60)
    assert hand.end() == 0
    assert hand.read(GOVERNOR) == "powersave"


def test_a_killed_hand_takes_up_its_leases(hand: Running) -> None:
    """After kill -9 the next hand knows what is held and puts it back when it ends, renewed or not."""
    hold(hand, 60)
    hand.kill()
    hand.start()
    (lease,) = hand.result("hello")["leases"]
    assert (lease["prior"], lease["ours"]) == ("powersave", "performance")

    hand.result("renew", leases=["cool"], ttl=0.1)
    eventually(lambda: hand.read(GOVERNOR) == "powersave")


def test_a_lease_that_ended_while_nobody_was_there_is_put_back_at_start(hand: Running) -> None:
    """A hand that was dead when the time came restores as soon as it is back."""
    hold(hand, 0.2)
    hand.kill()
    assert hand.read(GOVERNOR) == "performance"

    hand.start()
    eventually(lambda: hand.read(GOVERNOR) == "powersave")


def test_a_kill_between_journal_and_write_harms_nothing(folder: Path) -> None:
    """Held on paper, but never written: the value is still the prior one, and putting it back is nothing to do."""
    state = folder / "state"
    state.mkdir()
    lease = {"name": "cool", "verb": "governor", "resource": GOVERNOR, "prior": "powersave", "ours": "performance"}
    boot_id = (folder / "root/proc/sys/kernel/random/boot_id").read_text().strip()
    (state / "leases.json").write_text(json.dumps({"boot_id": boot_id, "leases": [{**lease, "until": 0.0}]}))
    hand = Running(folder)

    eventually(lambda: hand.result("hello")["leases"] == [])
    assert hand.read(GOVERNOR) == "powersave"
    assert "cannot put back" not in hand.words()
    hand.end()


def test_leases_of_another_boot_are_forgotten(hand: Running) -> None:
    """A reboot has reset what was held: what is there now is nobody's business."""
    hold(hand, 60)
    hand.kill()
    hand.write("proc/sys/kernel/random/boot_id", "another")
    hand.start()

    assert hand.result("hello")["leases"] == []
    assert hand.read(GOVERNOR) == "performance"


def test_a_state_that_cannot_be_read_stops_the_start(folder: Path) -> None:
    """What is held is not known then, and nothing may be done that could not be put back."""
    (folder / "state").mkdir()
    (folder / "state/leases.json").write_text("{")
    try:
        Running(folder)
    except AssertionError as error:
        assert "leases.json cannot be read" in str(error)
    else:
        raise AssertionError("it started")


@pytest.mark.deep
def test_what_cannot_be_put_back_is_tried_again(hand: Running) -> None:
    """A file that is away, as of an offline processor, is restored when it comes back; the fault is said once."""
    hold(hand, 0.2)
    file = hand.root / GOVERNOR
    file.rename(file.with_suffix(".away"))
    eventually(lambda: "cannot put back" in hand.words())
    file.with_suffix(".away").rename(file)

    eventually(lambda: hand.read(GOVERNOR) == "powersave")
    assert hand.words().count("cannot put back") == 1


class SlowFiles(KernelFiles):
    """A kernel that takes its time over the first write."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.writing = threading.Event()

    def write(self, path: str, text: str) -> None:
        """As ever, but late."""
        if not self.writing.is_set():
            self.writing.set()
            time.sleep(0.4)
        super().write(path, text)


def test_a_lease_that_ends_during_its_write_is_put_back_after_it(folder: Path) -> None:
    """Were it ended before the value is there, the value would stay for ever: a minute of fuzzing found it."""
    files = SlowFiles(folder / "root")
    (folder / "state").mkdir()
    leases = LeaseStore(folder / "state", BOOT_ID)
    service = Service(VerbContext(files, HandConfig(), leases), lambda _: None)

    def ends_it() -> None:
        files.writing.wait(10)
        time.sleep(0.2)
        service.restore_expired()

    ending = threading.Thread(target=ends_it)
    ending.start()
    arguments = {"policy": 0, "governor": "performance", "lease": "cool", "ttl": 0.1}
    service.answer(json.dumps({"verb": "governor", "arguments": arguments}).encode(), "a test")
    ending.join()

    assert (folder / "root" / GOVERNOR).read_text().strip() == "powersave"
    assert leases.list_all() == []
