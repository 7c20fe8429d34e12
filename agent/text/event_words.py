"""The events of the audit in words: the log, `steadytok remedies audit` and `top` print these, never a stored name."""

from __future__ import annotations

EVENT_WORDS = {
    "begin": "started",
    "tighten": "tightened",
    "claim": "claimed",
    "suppressed": "not started",
    "refused": "refused",
    "intended": "planned",
    "did": "done",
    "failed": "failed",
    "unknown": "outcome unknown",
    "helped": "helped",
    "useless": "did not help",
    "unjudged": "effect not measurable",
    "retuning": "value about to change",
    "retuned": "value adjusted",
    "steers": "controlled",
    "changed": "changed by someone else",
    "release": "restoring",
    "restored": "restored",
    "interrupted": "interrupted by the agent's end",
    "gave up": "gave up",
    "paused": "paused",
    "resumed": "resumed",
    "unexpected": "unexpected event",
}
"""The words for each event's name in the journal and the API."""


def describe_event(name: str, *, observed: bool = False) -> str:
    """Returns the words for an event; a name of another version stays as it is."""
    words = EVENT_WORDS.get(name, name)
    return f"observe only: {words}" if observed else words
