"""
Finds conditions of a remedy that no alert can ever meet together: such a remedy would wait for ever, silently. Pure.

Only what is certain is a fault: where no matcher and no pattern names the values of a label one by one, and patterns do
not begin with different texts, an alert may meet them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import combinations

from agent.alerting.identity import SOURCE
from agent.alerting.inbox_row import MAX_POSTED_VALUE, RESERVED_PREFIX
from agent.remediation.evidence import REMEDY_ALERTS
from rules.matchers import Matcher, Matchers

_LITERALS = re.compile(r"[^\\.+*?()\[\]{}^$]*")
_BEGINNING = re.compile(r"(?:(?:[^\\.+*?()\[\]{}^$]|\\[^\w\s])(?![?*{]))*")  # before ?, * or { a letter may be missing


def find_contradictions(match: Matchers, trusted: Matchers, sources: Iterable[str]) -> Iterator[str]:
    """Yields a sentence for each source and label whose conditions exclude each other."""
    for source in sources:
        conditions = (*match, *trusted) if source == "webhook" else match
        for label in dict.fromkeys(matcher.label for matcher in match):
            on_label = [matcher for matcher in conditions if matcher.label == label]
            reason = _explain(label, on_label, source)
            if reason:
                shown = " and ".join(f'{matcher.label}{matcher.op}"{matcher.value}"' for matcher in on_label)
                yield f"no {source} alert can have {shown}: {reason}"


def _explain(label: str, matchers: list[Matcher], source: str) -> str:
    """Returns why no alert of that source can meet the matchers of one label; empty if one may."""
    if label.startswith(RESERVED_PREFIX) and label != SOURCE and not _all_meet("", matchers):
        return "labels that begin with __ are not in alerts"
    values = _list_values(matchers)
    if values is None and not _begin_differently(matchers):
        return ""
    values = [value for value in values or () if _all_meet(value, matchers)]
    if not values:
        if source == "webhook":
            return "they exclude each other; write labels: and instance: for what a post may have there"
        return "they exclude each other"
    if label == "alertname" and all(value in REMEDY_ALERTS for value in values):
        return "no remedy is for an alert about remedies"
    if source == "webhook" and all(len(value) > MAX_POSTED_VALUE for value in values):
        return f"a posted value has at most {MAX_POSTED_VALUE} characters"
    return ""


def _list_values(matchers: Iterable[Matcher]) -> list[str] | None:
    """Returns the values that one matcher names one by one; None if none does."""
    for matcher in matchers:
        if matcher.op == "=":
            return [matcher.value]
        if matcher.op == "=~" and _LITERALS.fullmatch(matcher.value):
            return matcher.value.split("|")
    return None


def _begin_differently(matchers: Iterable[Matcher]) -> bool:
    """Returns True if two patterns begin with texts of which neither continues the other."""
    beginnings = [_find_beginning(matcher.value) for matcher in matchers if matcher.op == "=~"]
    return any(not (one.startswith(other) or other.startswith(one)) for one, other in combinations(beginnings, 2))


def _find_beginning(pattern: str) -> str:
    """Returns the text with which each match of a pattern begins; empty where a `|` may choose another."""
    beginning = _BEGINNING.match(pattern)
    return "" if beginning is None or "|" in pattern else re.sub(r"\\(.)", r"\1", beginning[0])


def _all_meet(value: str, matchers: Iterable[Matcher]) -> bool:
    return all(matcher.test(value) for matcher in matchers)
