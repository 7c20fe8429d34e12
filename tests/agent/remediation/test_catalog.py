"""The remedies of a configuration are checked whole before anything starts; those that ship are right."""

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


def faults(change: dict[str, Any], **more: Any) -> list[str]:
    """What is said of a configuration whose one remedy is right but for a change."""
    document = {"engines": ENGINES, "remedies": [{**RIGHT, **change}], **more}
    try:
        bind_remedies(parse(document, "f", {}), "f")
    except ConfigError as error:
        return error.messages
    return []


def test_the_whole_form_is_taken() -> None:
    """Every key that a remedy may have."""
    assert faults({}) == []


@pytest.mark.parametrize(
    ("change", "said"),
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
        ({"verify": {"expr": "up >"}}, "$.remedies[0].verify.expr: parse error"),
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
def test_each_fault_gets_a_sentence_with_its_place(change: dict[str, Any], said: str) -> None:
    """Where, what was expected, and what was found."""
    found = faults(change)

    assert any(message.startswith(f"f: {said}") for message in found), found


def test_what_holds_for_all_is_checked_too() -> None:
    """Names that differ, a hand that is one, a kill-switch file with its whole path, names that ship."""
    found = faults({}, remediation={"hand": "glove", "pause_file": "pause", "disable": ["cool-memry"]})

    assert [message.split(":")[1].strip() for message in found] == [
        "$.remediation.disable",
        "$.remediation.hand",
        "$.remediation.pause_file",
    ]
    twice = {"engines": ENGINES, "remedies": [RIGHT, RIGHT]}
    with pytest.raises(ConfigError, match="expected names to differ, found 'cool' twice"):
        bind_remedies(parse(twice, "f", {}), "f")


def test_those_that_ship_are_for_alerts_that_ship() -> None:
    """Each binds, one for each engine where it paces, and its alert is a built-in rule."""
    book = bind_remedies(parse({"engines": ENGINES}, "f", {}), "f")
    groups = [group for path in RULES.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"]]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    wanted = {m.value for one in book for each in one.match for m in each if m.label == "alertname"}

    assert {"cool-memory/r1", "cool-memory/r2", "free-full-node"} <= {one.name for one in book}
    assert wanted <= alerts


def test_an_engine_that_is_held_back_is_known_whatever_holds_it() -> None:
    """So that nobody takes a frozen engine for a sagging one: its duty is told as a pace's is."""
    frozen = {**RIGHT, "action": "freeze", "target": {"engine": "r1", "unit": "a.service"}}
    other = {**RIGHT, "action": "webhook", "target": {"url": "http://x"}, "parameters": {}}
    document = {"engines": ENGINES, "remediation": {"builtin": False}}
    books = [bind_remedies(parse({**document, "remedies": [one]}, "f", {}), "f") for one in (RIGHT, frozen, other)]

    assert [find_paced_engine(book[0].undo_recipe) for book in books] == ["r1", "r1", None]


def test_one_that_ships_is_replaced_or_left_out_by_name() -> None:
    """The operator's own of that name takes its place; `disable` leaves it out; `builtin: false` all."""
    own = {**RIGHT, "name": "free-full-node"}
    book = bind_remedies(parse({"engines": ENGINES, "remedies": [own]}, "f", {}), "f")
    less = bind_remedies(parse({"remediation": {"disable": ["free-full-node"]}}, "f", {}), "f")

    assert [one.settings.action for one in book if one.name == "free-full-node"] == ["pace"]
    assert "free-full-node" not in {one.name for one in less}
    assert bind_remedies(parse({"remediation": {"builtin": False}}, "f", {}), "f") == ()
    assert all(told["name"] for told in yaml.safe_load(BUILTIN_FILE.read_text()))


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
    """With a sentence that has the text in it."""
    with pytest.raises(ValueError, match="expected"):
        parse_matchers(text)


@given(st.text(max_size=30))
def test_no_text_breaks_the_reader(text: str) -> None:
    """Matchers or a ValueError, never anything else."""
    try:
        found = parse_matchers(text)
    except ValueError:
        return
    assert found
