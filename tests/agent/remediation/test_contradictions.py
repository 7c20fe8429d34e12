"""Conditions of a remedy that exclude each other are refused when they are loaded, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.alerting.matchers import build_matcher
from agent.config.loader import ConfigError, parse
from agent.remediation import evidence
from agent.remediation.catalog import bind_remedies
from agent.remediation.contradictions import find_contradictions
from agent.remediation.model import AlertInput, Remedy
from rules.alerts import Alert, AlertState
from rules.matchers import Matcher

POSTED = {"sources": ["webhook"], "instance": ".*"}


def bind(**keys: Any) -> Remedy:
    remedy = {"name": "one", "match": ['alertname="Hot"'], "action": "webhook", "target": {"url": "http://h/"}, **keys}
    document = {
        "external_labels": {"instance": "box"},
        "remediation": {"builtin": False},
        "remedies": [remedy],
    }
    (bound,) = bind_remedies(parse(document, "f", {}), "f")
    return bound


def is_for(remedy: Remedy, labels: Mapping[str, str], source: str = "webhook") -> bool:
    alert = Alert(labels.get("alertname", ""), tuple(sorted(labels.items())), (), AlertState.FIRING, 1.0, 0, "", 0)
    return evidence.matches(remedy, AlertInput(alert, source=source))  # type: ignore[arg-type]  # a source by its name


@pytest.mark.parametrize(
    "name", ["ICMP ping failed", "disk-full", "节点状态", "Ĝisdatigo", "CPU > 80 %", "a.b/c:d", "x" * 1000, "$(reboot)"]
)
def test_a_name_that_is_written_out_is_taken(name: str) -> None:
    """alertmanager#2142, alertmonitor: names have blanks, dashes and letters of every language."""
    assert is_for(bind(**POSTED, match=[f'alertname="{name}"']), {"alertname": name, "instance": "x"})


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("ICMP ping failed", True),
        ("节点状态", True),
        ("disk-full", True),
        ("$(reboot)", False),
        ("<img src=x>", False),
        ("a\x1b[2J", False),
        ("-rf", False),
        ("", False),
        ("x" * 129, False),
    ],
)
def test_a_name_that_only_a_pattern_matches_looks_like_a_name(name: str, taken: bool) -> None:
    """Words of any language do; what a shell, a page or a terminal could take for more does not."""
    assert is_for(bind(**POSTED, match=['alertname=~".*"', 'rack="r1"']), {"alertname": name, "rack": "r1"}) is taken


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"match": ['alertname="A"', 'alertname="B"']}, "no local alert can have"),
        ({"match": ['alertname="A"', 'alertname!="A"']}, "they exclude each other"),
        ({"match": ['alertname=~"A|B"', 'alertname!~"[A-Z]"']}, "they exclude each other"),
        ({"match": ['alertname="RemedyFailed"']}, "no remedy is for an alert about remedies"),
        ({"match": ['alertname=~"RemedyFailed|RemedyGaveUp"']}, "no remedy is for an alert about remedies"),
        ({"match": ['__name__="x"']}, "labels that begin with __ are not in alerts"),
        ({"match": ['alertname="A"', 'instance="other"'], "sources": ["webhook"]}, "write labels: and instance:"),
        ({**POSTED, "match": ['rack="x7"'], "labels": {"rack": "r[0-9]"}}, "no webhook alert can have"),
        ({**POSTED, "match": ['alertname="A"', 'rack=""'], "labels": {"rack": "r[0-9]"}}, "no webhook alert can have"),
        ({**POSTED, "match": ['alertname="Hot"'], "labels": {"alertname": "Cold"}}, "no webhook alert can have"),
        ({**POSTED, "match": [f'rack="{"x" * 1025}"']}, "a posted value has at most 1024 characters"),
        ({**POSTED, "plausible": [0, 1]}, "$.remedies[0].plausible: expected sources: [local]"),
        ({"match": ['alertname=~"Disk.+"', 'alertname=~"Cpu.+"']}, "no local alert can have"),
        ({"match": ['a="b"', 'instance=~"other.*"'], "sources": ["webhook"]}, "write labels: and instance:"),
        ({"sources": ["local", "webhook"], "match": ['instance="other"', 'a="b"']}, "no webhook alert can have"),
    ],
)
def test_what_can_never_be_is_refused(keys: dict[str, Any], sentence: str) -> None:
    """A remedy that would wait for ever gets a sentence with its conditions."""
    with pytest.raises(ConfigError) as caught:
        bind(**keys)

    assert any(sentence in message and "$.remedies[0]" in message for message in caught.value.messages)


def test_silences_need_an_alertmanager() -> None:
    """`silences: true` without an Alertmanager would look obeyed, and nothing would ever be silenced."""
    with pytest.raises(ConfigError, match=r"\$\.remediation\.silences: expected alertmanagers"):
        bind_remedies(parse({"remediation": {"silences": True}}, "f", {}), "f")


@pytest.mark.parametrize(
    "keys",
    [
        {"match": ['alertname=~"A|B"', 'alertname!="A"']},
        {"match": ['alertname="A"', 'instance="other"']},
        {"match": ['alertname="A"', 'instance=~"box(:.*)?"'], "sources": ["webhook"]},
        {"match": ['alertname="A"', 'instance="box:9100"'], "sources": ["webhook"]},
        {"match": ['alertname="A"', 'instance="other"'], "sources": ["webhook"], "instance": "other"},
        {**POSTED, "match": ['rack="r7"'], "labels": {"rack": "r[0-9]"}},
        {"match": ['alertname=~"Remedy.*|Hot"']},
        {"match": ['alertname=~"Disk.+"', 'alertname=~"Disk ?[a-z]+"']},
        {"match": ['a="b"', 'instance=~"bo.*"'], "sources": ["webhook"]},
        {"match": ['alertname=~"RemedyFailed|Hot"']},
        {"match": ['alertname="A"', '__name__=""']},
    ],
)
def test_what_may_be_is_taken(keys: dict[str, Any]) -> None:
    """Conditions that some alert can meet are no fault."""
    assert bind(**keys).name == "one"


VALUES = st.sampled_from(["", "a", "b", "ab", "a b", "a.b", "节", "RemedyFailed"])
PATTERNS = st.one_of(
    st.sampled_from(["", "a", "a|b", "a.*", ".+", "[ab]+", "ab|", "b", "\\p{L}+", "RemedyFailed"]),
    st.sampled_from(
        ["a?b", "a*b", "a{0}b", "ab*", "a\\.b", "a.b", "\\Qa.b\\E", "(?i)A.*", "b(.*)", "a$", "a b+", "^a"]
    ),
)
MATCHERS = st.one_of(
    st.tuples(st.sampled_from(["=", "!="]), VALUES), st.tuples(st.sampled_from(["=~", "!~"]), PATTERNS)
)


@given(st.lists(MATCHERS, min_size=1, max_size=4), st.lists(PATTERNS, max_size=1), VALUES)
@example([("=", "a")], ["b"], "a")
def test_no_condition_that_an_alert_meets_is_refused(
    match: list[tuple[Any, str]], trusted: list[str], value: str
) -> None:
    """Where a value meets all of them, they do not exclude each other; where they begin with `=`, the test is exact."""
    matchers = tuple(build_matcher("x", op, text) for op, text in match)
    patterns = tuple(build_matcher("x", "=~", text) for text in trusted)

    for source, conditions in (("local", matchers), ("webhook", (*matchers, *patterns))):
        faults = list(find_contradictions(matchers, patterns, [source]))
        if _meets(value, conditions):
            assert faults == []
        exact = next((matcher.value for matcher in conditions if matcher.op == "="), None)
        if exact is not None:
            assert bool(faults) is not _meets(exact, conditions)


def _meets(value: str, matchers: tuple[Matcher, ...]) -> bool:
    return all(matcher.test(value) for matcher in matchers)
