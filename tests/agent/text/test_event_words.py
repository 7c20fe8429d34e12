"""Every event of the audit has words that people understand."""

from __future__ import annotations

from agent.remediation.model import EventKind
from agent.text.event_words import EVENT_WORDS, describe_event


def test_every_event_has_words() -> None:
    """Each kind of event is in the table, and no stored name that is a riddle is printed."""
    assert {kind.value for kind in EventKind} <= EVENT_WORDS.keys()
    assert not {"intended", "did", "begin", "suppressed"} & set(EVENT_WORDS.values())


def test_an_observed_event_says_so() -> None:
    """Observe mode is in front of the ordinary words; an event of another version is printed as it is."""
    assert describe_event("intended", observed=True) == "observe only: planned"
    assert describe_event("suppressed") == "not started"
    assert describe_event("novel") == "novel"
