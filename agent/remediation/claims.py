"""The claims on held resources: the end of the last claim undoes the act. Pure, as the guards are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.remediation.model import (
    Act,
    AlertEpisode,
    AuditEntry,
    Claim,
    DecisionInputs,
    Phase,
    RemediationState,
    Remedy,
)
from agent.remediation.transitions import make_entry
from collectors import Labels


def update_claims(
    state: RemediationState, inputs: DecisionInputs, remedies: Mapping[str, Remedy]
) -> tuple[RemediationState, list[Act], list[AuditEntry]]:
    """Removes the claims that have ended, and releases the acts without a claim."""
    release, entries = [], []
    episodes = {(episode.remedy, episode.labels): episode for episode in state.sessions}
    for act in state.acts:
        if act.phase is not Phase.HELD or not act.reversible:
            continue
        standing = tuple(_filter_standing(act, episodes, remedies))
        reason = _find_release_reason(act, inputs, standing)
        if not reason:
            state = state.with_act(replace(act, claims=standing))
            continue
        act = replace(act, phase=Phase.RELEASING)
        state = state.with_act(act)
        release.append(act)
        entries.append(make_entry(inputs.now_ms, act, "release", reason))
    return state, release, entries


def _find_release_reason(act: Act, inputs: DecisionInputs, standing: tuple[Claim, ...]) -> str:
    if inputs.killed:
        return "the kill-switch file exists"
    if act.observed != inputs.observing:
        return describe_mode(inputs)
    return "" if standing else "no alert claims it any more"


def describe_mode(inputs: DecisionInputs) -> str:
    """Describes a change of the mode."""
    return f"the mode is now {'observe' if inputs.observing else 'enforce'}"


def _filter_standing(
    act: Act, episodes: Mapping[tuple[str, Labels], AlertEpisode], remedies: Mapping[str, Remedy]
) -> list[Claim]:
    claims = []
    for claim in act.claims:
        episode, remedy = episodes.get((claim.remedy, claim.labels)), remedies.get(claim.remedy)
        if remedy is None or remedy.resource != act.resource:
            continue
        if episode is not None:
            claims.append(replace(claim, lost=episode.lost, strength=remedy.strength))
        elif remedy.rollback != "on_resolve":
            claims.append(claim)
    return claims
