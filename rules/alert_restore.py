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
from rules.model import Rule


class RuleKey(NamedTuple):
    """What makes it the same rule after a restart; `number` tells rules apart that are alike in all of it."""

    name: str
    labels: tuple[tuple[str, str], ...]
    expr: str
    ordinal: int


class SavedAlert(NamedTuple):
    """One alert of one rule."""

    rule: RuleKey
    alert: Alert


def build_rule_keys(rules: Iterable[Rule]) -> list[RuleKey]:
    """The key of each rule, in their order."""
    counts: dict[tuple[object, ...], int] = {}
    rule_keys = []
    for rule in rules:
        _, name, labels = rule.identity
        ordinal = counts[name, labels, rule.expr] = counts.get((name, labels, rule.expr), 0) + 1
        rule_keys.append(RuleKey(name, labels, rule.expr, ordinal))
    return rule_keys


def restore_alert(alert: Alert, now_ms: int, saved_ms: int) -> Alert:
    """
    The alert as it goes on at now_ms; `saved_ms` is when it was kept.

    Where the clock went back meanwhile, the alert goes back with it: no time of it lies ahead.
    """
    alert = alert.shift(min(0, now_ms - saved_ms))
    return replace(
        alert,
        active_at_ms=min(alert.active_at_ms, now_ms),
        fired_at_ms=_clamp_time(now_ms, alert.fired_at_ms),
        resolved_at_ms=_clamp_time(now_ms, alert.resolved_at_ms),
        keep_firing_since_ms=_clamp_time(now_ms, alert.keep_firing_since_ms),
        lost_since_ms=_clamp_time(now_ms, alert.lost_since_ms),
        restored_ms=None if alert.state is AlertState.RESOLVED else now_ms,
    )


def with_current_identity(
    active: Active, restored_labels: Collection[Labels], results: Active, identity: Labels
) -> Active:
    """
    The alerts under the labels that their rule gives them now.

    Before rules saw the identity alerts were kept without it: an elder that is not found any more, while one is that
    differs by the identity alone, is that one. For Alertmanager, whom both are told with it, they are the same anyway.
    """
    unmatched = [labels for labels in restored_labels if labels not in results]
    if not unmatched:
        return active
    by_bare_labels = {tuple(pair for pair in labels if pair not in identity): labels for labels in results}
    relabelled = {
        old: by_bare_labels[old] for old in unmatched if old in by_bare_labels and by_bare_labels[old] not in active
    }
    new_labels = {old: relabelled.get(old, old) for old in active}
    return {new_labels[old]: replace(alert, labels=new_labels[old]) for old, alert in active.items()}


def _clamp_time(now_ms: int, at_ms: int | None) -> int | None:
    return None if at_ms is None else min(at_ms, now_ms)
