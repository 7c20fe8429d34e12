"""
Merges what Alertmanagers say about one alert: the newest statement counts, and a late one is recognized. Pure.

An alert can end and fire again with the same start: Prometheus loses sight of Alertmanager, which resolves the alert at
its `endsAt`, and then sends it again (https://github.com/prometheus/prometheus/issues/5277). A payload has no time of
its own, so order decides. An Alertmanager sends the posts of one group one after another, and a retry comes before the
next post: what one group of one Alertmanager says last is its newest statement.

Between two groups, or two Alertmanagers of a cluster, no order is certain. The second waits for the first
(`--cluster.peer-timeout`) and posts what it knew before. So "firing" from another sender soon after "resolved" is
doubted: the alert fires once DOUBT_MS have passed without another "resolved", which the late sender posts too.

The start of an alert can move while it fires: of two Prometheus servers that send it, Alertmanager keeps the earlier
start. So an end is the end of every start of this alert that lies before it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from collectors import Labels

DOUBT_MS = 300_000
"""The default `group_interval`: after that time a late sender has posted what it knows now."""

MAX_POSTED_VALUE = 1024
"""Characters of a posted label's value; an alert with a longer one is refused."""

RESERVED_PREFIX = "__"
"""Labels that begin so are the agent's own: they are taken from no post, and are in no alert that is sent."""

_MAX_SENDERS = 32  # remembered of one ending; further ones are doubted, which only delays them


class PostedAlert(NamedTuple):
    """One alert of a post."""

    fingerprint: str
    starts_ms: int
    firing: bool
    labels: Labels
    sender: str = ""
    """The Alertmanager and its group, whose posts come in order."""
    ends_ms: int | None = None
    """The end that a resolved alert has in the post."""


InboxKey = tuple[str, int]


class Ending(NamedTuple):
    """The last time that an alert was posted as resolved."""

    senders: frozenset[str]
    """Who posted this ending; empty after a restart, which forgets them."""
    ends_ms: int | None
    at_ms: int

    def is_repeated_by(self, alert: PostedAlert) -> bool:
        """True for a late delivery of this same ending; a sender has a later end for a later ending."""
        if alert.ends_ms is None or self.ends_ms is None or alert.sender not in self.senders:
            return False
        return alert.ends_ms <= self.ends_ms

    def join(self, later: Ending) -> Ending:
        """Returns the ending after a further post of one: the same from another sender, or one that is newer."""
        if later.ends_ms is not None and (self.ends_ms is None or later.ends_ms > self.ends_ms):
            return later  # it fired in between, which nobody posted yet: who posts that now posts it late
        if later.ends_ms != self.ends_ms or len(self.senders) >= _MAX_SENDERS:
            return self
        return self._replace(senders=self.senders | later.senders)


@dataclass(frozen=True, slots=True)
class InboxRow:
    """A posted alert with the times of its deliveries."""

    alert: PostedAlert
    first_seen_ms: int
    """When it was first posted."""
    last_seen_ms: int
    """When it was last posted while it counted as firing."""
    ending: Ending | None = None
    """Its last ending; it may fire again since."""
    doubted_until_ms: int = 0
    """Until then "firing" may be a late delivery."""

    @property
    def key(self) -> InboxKey:
        """The fingerprint and the start time, which identify the alert."""
        return (self.alert.fingerprint, self.alert.starts_ms)

    def is_alive(self, now_ms: int, expire_ms: int) -> bool:
        """True if it was posted as firing, lately, and not as resolved since."""
        return self.alert.firing and now_ms - self.last_seen_ms < expire_ms

    def is_firing(self, now_ms: int, expire_ms: int) -> bool:
        """True if it counts as firing."""
        return self.is_alive(now_ms, expire_ms) and now_ms >= self.doubted_until_ms

    def is_ended_by(self, alert: PostedAlert) -> bool:
        """True if a resolved post of the same alert, with another start, ends this row too."""
        return self.alert.firing and alert.ends_ms is not None and self.alert.starts_ms <= alert.ends_ms

    def shift(self, delta_ms: int) -> InboxRow:
        """Returns the same row after a shift of the wall clock."""
        return replace(
            self,
            first_seen_ms=self.first_seen_ms + delta_ms,
            last_seen_ms=self.last_seen_ms + delta_ms,
            ending=self.ending and self.ending._replace(at_ms=self.ending.at_ms + delta_ms),
            doubted_until_ms=self.doubted_until_ms and self.doubted_until_ms + delta_ms,
        )


def merge(previous: InboxRow | None, alert: PostedAlert, now_ms: int, expire_ms: int) -> tuple[InboxRow, str]:
    """Returns the row after a post, and its outcome: `taken`, `resolved` or `repeated`."""
    if alert.firing:
        return _merge_firing(previous, alert, now_ms, expire_ms)
    ending = Ending(frozenset({alert.sender}), alert.ends_ms, now_ms)
    if previous is None:
        return InboxRow(alert, now_ms, now_ms, ending), "resolved"
    if not previous.alert.firing:
        known = previous.ending or ending
        return replace(previous, ending=known.join(ending)), "repeated"
    is_doubted = now_ms < previous.doubted_until_ms  # then every "resolved" confirms the doubt
    if not is_doubted and previous.ending is not None and previous.ending.is_repeated_by(alert):
        return previous, "repeated"
    ended = previous.alert._replace(firing=False)
    return replace(previous, alert=ended, last_seen_ms=now_ms, ending=ending, doubted_until_ms=0), "resolved"


def _merge_firing(previous: InboxRow | None, alert: PostedAlert, now_ms: int, expire_ms: int) -> tuple[InboxRow, str]:
    if previous is None:
        return InboxRow(alert, now_ms, now_ms), "taken"
    ending = previous.ending
    in_order = ending is None or alert.sender in ending.senders
    if not previous.alert.firing:
        doubted_until_ms = 0 if ending is None or in_order else ending.at_ms + DOUBT_MS
        firing = previous.alert._replace(firing=True)
        return replace(previous, alert=firing, last_seen_ms=now_ms, doubted_until_ms=doubted_until_ms), "taken"
    # Firing again after it expired is news: with Alertmanager's repeat_interval of 4 h it would be lost after 15 min.
    outcome = "repeated" if previous.is_alive(now_ms, expire_ms) else "taken"
    doubted_until_ms = 0 if in_order else previous.doubted_until_ms
    return replace(previous, last_seen_ms=now_ms, doubted_until_ms=doubted_until_ms), outcome
