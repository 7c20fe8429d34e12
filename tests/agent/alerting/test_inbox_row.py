"""The newest statement about a posted alert counts, in whatever order the posts of several senders arrive."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.alerting.inbox_row import DOUBT_MS, InboxRow, PostedAlert, merge

NOW = 1_700_000_000_000
MINUTE = 60_000
EXPIRE = 10**12
FIRING = PostedAlert("aa01", NOW - MINUTE, True, (("alertname", "Hot"),), "A")


def resolve(ends_ms: int | None = NOW, sender: str = "A") -> PostedAlert:
    return FIRING._replace(firing=False, ends_ms=ends_ms, sender=sender)


def merge_all(*posts: tuple[PostedAlert, int]) -> tuple[InboxRow, list[str]]:
    """Merges posts with the ms of their arrival after NOW."""
    row: InboxRow | None = None
    outcomes = []
    for alert, after_ms in posts:
        row, outcome = merge(row, alert, NOW + after_ms, EXPIRE)
        outcomes.append(outcome)
    assert row is not None
    return row, outcomes


def test_what_ended_by_timeout_fires_again() -> None:
    """prometheus#5277, alertmanager#952: sent late, an alert is resolved by its end, and fires again as it was."""
    row, outcomes = merge_all((FIRING, 0), (resolve(), 6_000), (FIRING, 14_000), (FIRING, 19_000))

    assert outcomes == ["taken", "resolved", "taken", "repeated"]
    assert row.is_firing(NOW + 14_000, EXPIRE)


@pytest.mark.parametrize("again", [(FIRING, 60_000), (resolve(NOW), 60_000)])
def test_a_late_firing_of_a_peer_revives_nothing(again: tuple[PostedAlert, int]) -> None:
    """The second Alertmanager of a cluster posts late what it knew before; its next post ends the doubt."""
    late = FIRING._replace(sender="B")
    row, _ = merge_all((FIRING, 0), (resolve(), 10_000), (late, 15_000))
    assert not row.is_firing(NOW + 15_000, EXPIRE)
    assert not row.is_firing(NOW + 10_000 + DOUBT_MS - 1, EXPIRE)
    assert row.is_firing(NOW + 10_000 + DOUBT_MS, EXPIRE)

    row, _ = merge_all((FIRING, 0), (resolve(), 10_000), (late, 15_000), again)

    assert row.is_firing(NOW + 60_000, EXPIRE) is again[0].firing


def test_a_late_resolved_ends_nothing() -> None:
    """A second delivery of an ending that is over has the same end, and a later ending has a later one."""
    row, outcomes = merge_all((FIRING, 0), (resolve(), 1), (FIRING, 2), (resolve(), 3))
    assert outcomes[-1] == "repeated"
    assert row.is_firing(NOW + 3, EXPIRE)

    row, outcomes = merge_all((FIRING, 0), (resolve(), 1), (FIRING, 2), (resolve(NOW + 2), 3))

    assert outcomes[-1] == "resolved"
    assert not row.is_firing(NOW + 3, EXPIRE)


def test_a_newer_ending_replaces_the_known_one() -> None:
    """A fires anew and ends anew; B posts that end first, so that A's "firing", still on its way, is late."""
    row, outcomes = merge_all((FIRING, 0), (resolve(), 1), (resolve(NOW + 50, "B"), 60), (FIRING, 61))

    assert outcomes[2:] == ["repeated", "taken"]
    assert not row.is_firing(NOW + 61, EXPIRE)


def test_a_shift_of_the_clock_moves_every_time() -> None:
    """After a shift of the wall clock the doubt ends as much later or earlier."""
    row, _ = merge_all((FIRING, 0), (resolve(), 10_000), (FIRING._replace(sender="B"), 15_000))
    shifted = row.shift(-MINUTE)

    assert not shifted.is_firing(NOW + 10_000 + DOUBT_MS - MINUTE - 1, EXPIRE)
    assert shifted.is_firing(NOW + 10_000 + DOUBT_MS - MINUTE, EXPIRE)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10 * MINUTE)), min_size=1, max_size=30))
def test_of_one_sender_the_last_post_counts(posts: list[tuple[bool, int]]) -> None:
    """An Alertmanager posts the states of a group in order, so that its last post is the state, at once."""
    row, now = None, NOW
    for firing, later in posts:
        now += later
        row, _ = merge(row, FIRING if firing else resolve(now), now, EXPIRE)

        assert row.is_firing(now, EXPIRE) is firing


class Post(NamedTuple):
    """A post on its way, and the number of the state that it was made from."""

    alert: PostedAlert
    state: int


class Cluster(RuleBasedStateMachine):
    """
    Two Alertmanagers and two groups know one alert, which ends and fires again with one start.

    Each sender makes a post from the state of that moment and delivers it any time later; before its next post it may
    deliver it again. In between the others make and deliver theirs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.state, self.ended_at = NOW, 0, 0
        self.row: InboxRow | None = None
        self.waiting: dict[str, Post] = {}
        self.delivered: dict[str, Post] = {}
        self.ending_known_at: int | None = None
        self.last_ending_at = 0

    @property
    def is_firing(self) -> bool:
        return self.state % 2 == 0

    @rule(ms=st.integers(1, 2 * DOUBT_MS))
    def wait(self, ms: int) -> None:
        self.now += ms

    @rule(ms=st.integers(1, MINUTE))
    def change(self, ms: int) -> None:
        self.now += ms
        self.state += 1
        self.ended_at = self.ended_at if self.is_firing else self.now
        self.ending_known_at = None

    @rule(sender=st.sampled_from(["A/1", "A/2", "B/1"]))
    def make_post(self, sender: str) -> None:
        if sender not in self.waiting:
            alert = FIRING if self.is_firing else resolve(self.ended_at)
            self.waiting[sender] = Post(alert._replace(sender=sender), self.state)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from(sorted(self.waiting)))
        self.delivered[sender] = self.waiting.pop(sender)
        self.arrive(self.delivered[sender])

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def deliver_again(self, data: st.DataObject) -> None:
        sender = data.draw(st.sampled_from(sorted(self.delivered)))
        if sender not in self.waiting:
            self.arrive(self.delivered[sender])

    def arrive(self, post: Post) -> None:
        self.now += 1
        self.row, outcome = merge(self.row, post.alert, self.now, EXPIRE)
        self.last_ending_at = self.now if outcome == "resolved" else self.last_ending_at
        if post.state == self.state and not self.is_firing and self.ending_known_at is None:
            self.ending_known_at = self.now

    @invariant()
    def no_late_post_revives_it(self) -> None:
        if self.row is not None and self.ending_known_at is not None and self.now < self.ending_known_at + DOUBT_MS:
            assert not self.row.is_firing(self.now, EXPIRE)

    @invariant()
    def it_becomes_what_all_say(self) -> None:
        if self.row is None or self.waiting or any(post.state != self.state for post in self.delivered.values()):
            return
        later = max(self.now, self.last_ending_at + DOUBT_MS)
        assert self.row.is_firing(later, EXPIRE) is self.is_firing


Cluster.TestCase.settings = settings(stateful_step_count=40)
test_several_senders = Cluster.TestCase
