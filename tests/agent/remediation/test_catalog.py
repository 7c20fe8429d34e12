"""All remedies of a configuration are checked before anything starts; the built-in ones are right."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.alerting.matchers import parse_matchers
from agent.config.loader import ConfigError, parse
from agent.remediation.catalog import BUILTIN_FILE, bind_remedies, find_paced_engine
from rules.rulefile import BUILTIN as RULES

ENGINES = [{"name": "r1", "url": "http://127.0.0.1:1"}, {"name": "r2", "url": "http://127.0.0.1:2"}]
RIGHT = {
    "name": "cool",
    "match": ['alertname="DimmHot"', 'severity=~"warning|critical"'],
    "action": "pace",
    "target": {"engine": "r1"},
    "parameters": {"duty": 0.6},
    "cooldown": "10m",
    "max_per_hour": 3,
    "max_attempts": 3,
    "rollback": "on_resolve",
    "verify": {"expr": 'up{dimm="{{ $labels.dimm }}"}', "within": "5m"},
    "plausible": [-40, 100],
    "enabled": True,
}


def list_faults(change: dict[str, Any], **more: Any) -> list[str]:
    """Returns the faults of a configuration whose only remedy has one change."""
    document = {"engines": ENGINES, "remedies": [{**RIGHT, **change}], **more}
    try:
        bind_remedies(parse(document, "f", {}), "f")
    except ConfigError as error:
        return error.messages
    return []


def test_the_whole_form_is_taken() -> None:
    """A remedy may have every documented key."""
    assert list_faults({}) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"match": []}, '$.remedies[0].match: expected a matcher such as alertname="DimmHot"'),
        ({"match": ['severity!="none"', 'x=""']}, "$.remedies[0].match: expected a matcher that not every alert meets"),
        ({"match": ['a=~"("']}, '$.remedies[0].match[0]: error parsing regexp "(": missing ): ('),
        ({"action": "pase"}, "$.remedies[0].action: no action is named 'pase'; there are: "),
        ({"target": {"engin": "r1"}}, "$.remedies[0].target.engin: unknown key; known here: engine, url"),
        ({"target": {"engine": "r3"}}, "$.remedies[0]: target.engine: no engine is named 'r3' under engines:"),
        ({"parameters": {"duti": 1}}, "$.remedies[0].parameters: the mapping contains unknown field `duti`"),
        ({"cooldown": "1s"}, "$.remedies[0].cooldown: expected 10s to 7d"),
        ({"cooldown": 600}, "$.remedies[0].cooldown: expected a duration with its unit"),
        ({"rollback": "sometimes"}, "$.remedies[0].rollback: "),
        ({"verify": {"expr": "up >"}}, "$.remedies[0].verify.expr: 1:5: parse error"),
        ({"verify": {"within": "2h"}}, "$.remedies[0].verify.within: expected 1s to 1h"),
        ({"plausible": [5, 1]}, "$.remedies[0].plausible: expected the lower bound first"),
        (
            {"action": "freeze", "target": {"engine": "each", "unit": "a.service"}, "parameters": {}},
            "$.remedies[0].target.engine: expected an engine's name: freeze is off for every engine that is not named",
        ),
        (
            {"action": "migrate_pages", "target": {"engine": "r1"}, "parameters": {"from_node": 0}},
            "$.remedies[0].parameters: the mapping missing required field `to_node`",
        ),
        ({"name": "a b"}, "$.remedies[0].name: expected up to 64 letters"),
        ({"max_attempts": 0}, "$.remedies[0].max_attempts: "),
        ({"retries": 1}, "$.remedies[0].retries: unknown key"),
    ],
)
def test_each_fault_gets_a_sentence_with_its_place(change: dict[str, Any], sentence: str) -> None:
    """The sentence has the path, the expectation, and the value."""
    messages = list_faults(change)

    assert any(message.startswith(f"f: {sentence}") for message in messages), messages


def test_what_holds_for_all_is_checked_too() -> None:
    """
    Names must differ, the hand and the kill-switch file need absolute paths, and `disable` must name a built-in remedy.
    """
    messages = list_faults({}, remediation={"hand": "glove", "pause_file": "pause", "disable": ["cool-memry"]})

    assert [message.split(":")[1].strip() for message in messages] == [
        "$.remediation.disable",
        "$.remediation.hand",
        "$.remediation.pause_file",
    ]
    twice = {"engines": ENGINES, "remedies": [RIGHT, RIGHT]}
    with pytest.raises(ConfigError, match="expected names to differ, found 'cool' twice"):
        bind_remedies(parse(twice, "f", {}), "f")


def test_those_that_ship_are_for_alerts_that_ship() -> None:
    """Each built-in remedy binds, once for each engine if it paces, and its alert is a built-in rule."""
    remedies = bind_remedies(parse({"engines": ENGINES}, "f", {}), "f")
    groups = [group for path in RULES.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    matched_alerts = {m.value for one in remedies for each in one.match for m in each if m.label == "alertname"}

    assert {"cool-memory/r1", "cool-memory/r2", "free-full-node"} <= {one.name for one in remedies}
    assert matched_alerts <= alerts


def test_an_engine_that_is_held_back_is_known_whatever_holds_it() -> None:
    """
    The duty of a frozen engine is known as that of a paced one, so that nobody takes it for an engine that slows down.
    """
    frozen = {**RIGHT, "action": "freeze", "target": {"engine": "r1", "unit": "a.service"}}
    other = {**RIGHT, "action": "webhook", "target": {"url": "http://x"}, "parameters": {}}
    document = {"engines": ENGINES, "remediation": {"builtin": False}}
    catalogs = [bind_remedies(parse({**document, "remedies": [one]}, "f", {}), "f") for one in (RIGHT, frozen, other)]

    assert [find_paced_engine(remedies[0].undo_recipe) for remedies in catalogs] == ["r1", "r1", None]


def test_one_that_ships_is_replaced_or_left_out_by_name() -> None:
    """
    The operator's remedy replaces the built-in one of its name; `disable` removes it; `builtin: false` removes all.
    """
    replacement = {**RIGHT, "name": "free-full-node"}
    remedies = bind_remedies(parse({"engines": ENGINES, "remedies": [replacement]}, "f", {}), "f")
    without_disabled = bind_remedies(parse({"remediation": {"disable": ["free-full-node"]}}, "f", {}), "f")

    assert [one.settings.action for one in remedies if one.name == "free-full-node"] == ["pace"]
    assert "free-full-node" not in {one.name for one in without_disabled}
    assert bind_remedies(parse({"remediation": {"builtin": False}}, "f", {}), "f") == ()
    assert all(entry["name"] for entry in yaml.safe_load(BUILTIN_FILE.read_text()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('alertname="DimmHot"', [("alertname", "=", "DimmHot")]),
        ("alertname=DimmHot", [("alertname", "=", "DimmHot")]),
        ('{a="b", c!~"d|e"}', [("a", "=", "b"), ("c", "!~", "d|e")]),
        ('a="x,y\\"z\\\\"', [("a", "=", 'x,y"z\\')]),
        ('a=""', [("a", "=", "")]),
        ('"a"=~"b"', [("a", "=~", "b")]),
    ],
)
def test_matchers_are_read_as_alertmanager_does(text: str, expected: list[tuple[str, str, str]]) -> None:
    """With braces or without, quoted or bare, several in one text."""
    assert [(one.label, one.op, one.value) for one in parse_matchers(text)] == expected


@pytest.mark.parametrize("text", ["", "a", "a==b", '{a="b"', 'a="b" c="d"', '1a="b"', 'a="b'])
def test_what_is_no_matcher_is_refused(text: str) -> None:
    """The error names the expectation."""
    with pytest.raises(ValueError, match="expected"):
        parse_matchers(text)


@given(st.text(max_size=30))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Any text gives matchers or a ValueError."""
    try:
        matchers = parse_matchers(text)
    except ValueError:
        return
    assert matchers
