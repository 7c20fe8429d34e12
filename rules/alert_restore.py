"""
Saves alerts over a restart, as values that the caller stores.

An alert returns to the rule of the same name, label texts and expression; it is dropped if its rule has changed or
gone. The downtime of the agent counts, so `for` continues.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from collectors import Labels
from rules.alerts import Active, Alert, AlertState
from rules.model import Rule


class RuleKey(NamedTuple):
    """The identity of a rule over a restart; `ordinal` distinguishes rules that are equal in all else."""

    name: str
    labels: tuple[tuple[str, str], ...]
    expr: str
    ordinal: int


class SavedAlert(NamedTuple):
    """One alert with the key of its rule."""

    rule: RuleKey
    alert: Alert


def build_rule_keys(rules: Iterable[Rule]) -> list[RuleKey]:
    """Returns the key of each rule, in their order."""
    counts: dict[tuple[object, ...], int] = {}
    rule_keys = []
    for rule in rules:
        _, name, labels = rule.identity
        ordinal = counts[name, labels, rule.expr] = counts.get((name, labels, rule.expr), 0) + 1
        rule_keys.append(RuleKey(name, labels, rule.expr, ordinal))
    return rule_keys


def restore_alert(alert: Alert, now_ms: int, saved_ms: int) -> Alert:
    """
    Returns the alert as it continues at now_ms, after it was saved at `saved_ms`.

    If the clock was set back meanwhile, the alert's times move back too: none of them lies in the future.
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
    Returns the alerts under the labels that their rule produces now.

    Older agents saved alerts without the identity. A restored alert that is no longer in the results is matched to a
    result that differs only by the identity. Alertmanager received both with the identity, so for it they are the same
    alert.
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
