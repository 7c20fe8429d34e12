"""
What of the alerts outlives the process: values that go out, and come back in after a restart.

An alert comes back to the rule of the same name, label texts and expression; one whose rule has changed or gone does
not. The time that the agent was down counts, so `for` runs on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from collectors import Labels
from rules.alerts import Active, Alert, AlertState
from rules.rulefile import Rule


class RuleKey(NamedTuple):
    """What makes it the same rule after a restart; `number` tells rules apart that are alike in all of it."""

    name: str
    labels: tuple[tuple[str, str], ...]
    expr: str
    number: int


class Kept(NamedTuple):
    """One alert of one rule."""

    rule: RuleKey
    alert: Alert


def keys(rules: Iterable[Rule]) -> list[RuleKey]:
    """The key of each rule, in their order."""
    seen: dict[tuple[object, ...], int] = {}
    found = []
    for rule in rules:
        _, name, labels = rule.identity
        number = seen[name, labels, rule.expr] = seen.get((name, labels, rule.expr), 0) + 1
        found.append(RuleKey(name, labels, rule.expr, number))
    return found


def restored(alert: Alert, now_ms: int, saved_ms: int) -> Alert:
    """
    The alert as it goes on at now_ms; `saved_ms` is when it was kept.

    Where the clock went back meanwhile, the alert goes back with it: no time of it lies ahead.
    """
    alert = alert.shifted(min(0, now_ms - saved_ms))
    return replace(
        alert,
        active_at_ms=min(alert.active_at_ms, now_ms),
        fired_at_ms=_not_after(now_ms, alert.fired_at_ms),
        resolved_at_ms=_not_after(now_ms, alert.resolved_at_ms),
        keep_firing_since_ms=_not_after(now_ms, alert.keep_firing_since_ms),
        lost_since_ms=_not_after(now_ms, alert.lost_since_ms),
        restored_ms=None if alert.state is AlertState.RESOLVED else now_ms,
    )


def adopted(active: Active, elders: Collection[Labels], found: Active, identity: Labels) -> Active:
    """
    The alerts under the labels that their rule gives them now.

    Before rules saw the identity alerts were kept without it: an elder that is not found any more, while one is that
    differs by the identity alone, is that one. For Alertmanager, whom both are told with it, they are the same anyway.
    """
    left = [labels for labels in elders if labels not in found]
    if not left:
        return active
    without = {tuple(pair for pair in labels if pair not in identity): labels for labels in found}
    now = {old: without[old] for old in left if old in without and without[old] not in active}
    names = {old: now.get(old, old) for old in active}
    return {names[old]: replace(alert, labels=names[old]) for old, alert in active.items()}


def _not_after(now_ms: int, at_ms: int | None) -> int | None:
    return None if at_ms is None else min(at_ms, now_ms)
