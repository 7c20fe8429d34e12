"""What is held, and for whom: the end of the last claim on a resource puts it back. Pure, as the guards are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.remediation.model import Act, Claim, Entry, Phase, Remedy, Session, State, World
from agent.remediation.transitions import entry_of
from collectors import Labels


def kept(state: State, world: World, remedies: Mapping[str, Remedy]) -> tuple[State, list[Act], list[Entry]]:
    """Every held resource with the claims that still stand; what nobody claims is put back."""
    release, entries = [], []
    firing = {(session.remedy, session.labels): session for session in state.sessions}
    for act in state.acts:
        if act.phase is not Phase.HELD or not act.reversible:
            continue
        standing = tuple(_standing(act, firing, remedies))
        why = _why_let_go(act, world, standing)
        if not why:
            state = state.with_act(replace(act, claims=standing))
            continue
        act = replace(act, phase=Phase.RELEASING)
        state = state.with_act(act)
        release.append(act)
        entries.append(entry_of(world.now_ms, act, "release", why))
    return state, release, entries


def _why_let_go(act: Act, world: World, standing: tuple[Claim, ...]) -> str:
    if world.killed:
        return "the kill-switch file is there"
    if act.observed != world.observing:
        return mode(world)
    return "" if standing else "no alert claims it any more"


def mode(world: World) -> str:
    """That the mode has changed."""
    return f"the mode is now {'observe' if world.observing else 'enforce'}"


def _standing(act: Act, firing: Mapping[tuple[str, Labels], Session], remedies: Mapping[str, Remedy]) -> list[Claim]:
    found = []
    for claim in act.claims:
        session, remedy = firing.get((claim.remedy, claim.labels)), remedies.get(claim.remedy)
        if remedy is None or remedy.resource != act.resource:
            continue
        if session is not None:
            found.append(replace(claim, lost=session.lost, strength=remedy.strength))
        elif remedy.rollback != "on_resolve":
            found.append(claim)
    return found
