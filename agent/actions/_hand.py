"""Shared by the actions that need the hand: root's permissions, and leases that are renewed and released."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.actions import ActionContext, ActionError, FailedError, RefusedError, UnknownError, read_only

LEASES_PER_REQUEST = 32  # leases in one request, which may have 4,096 bytes


def fetch_hello(context: ActionContext) -> Mapping[str, Any] | None:
    """Returns the hand's description of itself; None if there is no hand, as on hosts that only observe."""
    try:
        return context.hand("hello")
    except (FailedError, UnknownError):
        return None


def require_unit(context: ActionContext, name: str, verb: str) -> Mapping[str, Any]:
    """Returns hand.toml's rules for a unit, empty without a hand; RefusedError if they do not allow the verb."""
    hello = fetch_hello(context)
    if hello is None:
        return {}
    unit_rules: Mapping[str, Any] = hello.get("units", {}).get(name, {"may": []})
    if verb not in unit_rules["may"]:
        raise RefusedError(f'hand.toml does not allow {verb} for {name}; set {verb} = true under [units."{name}"]')
    return unit_rules


def renew_leases(context: ActionContext, leases: Sequence[str], ttl: float) -> set[str]:
    """Renews leases; returns those that are still active and unchanged. FailedError if the hand does not answer."""
    batches = [list(leases[start : start + LEASES_PER_REQUEST]) for start in range(0, len(leases), LEASES_PER_REQUEST)]
    answers = read_only(lambda: [context.hand("renew", leases=batch, ttl=ttl) for batch in batches])
    return {name for answer in answers for name in answer["renewed"]}


def release_leases(context: ActionContext, leases: Sequence[str]) -> None:
    """
    Ends the leases that are still active; the hand has undone the others. Raises the first error after trying all.
    """
    held_leases = {active["lease"] for active in context.hand("hello")["leases"]}
    faults = []
    for lease in leases:
        if lease in held_leases:
            try:
                context.hand("release", lease=lease)
            except ActionError as error:  # the other leases are released all the same
                faults.append(error)
    if faults:
        raise faults[0]
