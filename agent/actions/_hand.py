"""What actions that need the hand have in common: what root allows, and leases that are renewed and let go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.actions import ActionError, FailedError, Reach, RefusedError, UnknownError, _looking

PIECE = 32  # leases in one request, which may have 4,096 bytes


def allowed(reach: Reach) -> Mapping[str, Any] | None:
    """What the hand says of itself; None where none answers, as where remedies only observe and there is none."""
    try:
        return reach.hand("hello")
    except (FailedError, UnknownError):
        return None


def unit(reach: Reach, name: str, verb: str) -> Mapping[str, Any]:
    """What hand.toml says of a unit, empty where there is no hand; RefusedError where it does not allow the verb."""
    told = allowed(reach)
    if told is None:
        return {}
    found: Mapping[str, Any] = told.get("units", {}).get(name, {"may": []})
    if verb not in found["may"]:
        raise RefusedError(f'{name} is not to be touched: [units."{name}"] {verb} = true in hand.toml allows it')
    return found


def renewed(reach: Reach, leases: Sequence[str], ttl: float) -> set[str]:
    """Those leases that go on: still held, with what they hold as it was left; FailedError where nobody answers."""
    pieces = [list(leases[start : start + PIECE]) for start in range(0, len(leases), PIECE)]
    told = _looking.first(lambda: [reach.hand("renew", leases=piece, ttl=ttl) for piece in pieces])
    return {name for answer in told for name in answer["renewed"]}


def let_go(reach: Reach, leases: Sequence[str]) -> None:
    """Ends what is still held; what has ended was put back by the hand itself. Raises the first fault, after all."""
    held = {one["lease"] for one in reach.hand("hello")["leases"]}
    faults = []
    for lease in leases:
        if lease in held:
            try:
                reach.hand("release", lease=lease)
            except ActionError as error:  # the others are put back all the same
                faults.append(error)
    if faults:
        raise faults[0]
