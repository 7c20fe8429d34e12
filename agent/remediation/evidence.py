"""Matches alerts with remedies, and checks that the evidence of an alert suffices to act. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from agent.remediation.model import AlertEpisode, AlertInput, DecisionInputs, RemediationState, Remedy
from rules.alerts import AlertState

REMEDY_ALERTS = frozenset({"RemedyRunning", "RemedyFailed", "RemedyGaveUp"})
"""Alerts about remedies, which no remedy is for."""


def matches(remedy: Remedy, alert_input: AlertInput) -> bool:
    """True if a remedy is for an alert; a posted alert must also match the trusted patterns."""
    labels = dict(alert_input.alert.labels)
    if alert_input.source not in remedy.sources or alert_input.alert.name in REMEDY_ALERTS:
        return False
    trusted = remedy.trusted if alert_input.source == "webhook" else ()
    any_match = (all(matcher.test(labels.get(matcher.label, "")) for matcher in matchers) for matchers in remedy.match)
    return all(matcher.test(labels.get(matcher.label, "")) for matcher in trusted) and any(any_match)


def find_evidence_fault(remedy: Remedy, alert_input: AlertInput) -> str:
    """Returns the reason why an alert's evidence does not suffice to act; empty if it does."""
    alert = alert_input.alert
    low, high = remedy.plausible or (-math.inf, math.inf)
    if not alert.fresh or alert.lost_since_ms is not None:
        return "the evidence is lost: a source of the rule is silent"
    if alert.restored_ms is not None:
        return "the samples since the restart do not yet cover the rule's window"
    if alert.keep_firing_since_ms is not None:
        return "the condition is over; keep_firing_for holds the alert"
    if alert_input.source == "local" and not (math.isfinite(alert.value) and low <= alert.value <= high):
        # Without the value, which the audit has in its own field: a drifting sensor would write a line a second.
        return f"the value is not plausible: expected {low:g} to {high:g}"
    return ""


def update_episodes(
    state: RemediationState, inputs: DecisionInputs, remedies: Mapping[str, Remedy]
) -> tuple[AlertEpisode, ...]:
    """Updates the episodes: an alert's episode lasts while it fires; a lost alert's goes on, without evidence."""
    previous_episodes = {(episode.remedy, episode.labels): episode for episode in state.episodes}
    episodes = []
    for remedy in remedies.values():
        for alert_input in inputs.alerts:
            alert = alert_input.alert
            if alert.state is not AlertState.FIRING or not matches(remedy, alert_input):
                continue
            previous = previous_episodes.get((remedy.name, alert.labels), AlertEpisode(remedy.name, alert.labels, None))
            has_evidence = not find_evidence_fault(remedy, alert_input)
            since = (inputs.now_ms if previous.since_ms is None else previous.since_ms) if has_evidence else None
            episodes.append(replace(previous, since_ms=since, lost=alert.lost_since_ms is not None or not alert.fresh))
    return tuple(episodes)
