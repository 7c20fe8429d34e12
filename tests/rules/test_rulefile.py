"""Rule files: valid ones are read completely, and errors have a position."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rules.durations import format_duration, parse_duration
from rules.model import Rule, RuleSet
from rules.rulefile import RuleFileError, load_rules
from rules.strict_yaml import StrictYamlError, load_yaml

GOOD = """
groups:
  - name: heat
    interval: 10s
    limit: 5
    labels: {team: infra, severity: info}
    rules:
      - record: node:hot:max
        expr: max by (node) (hot)
        labels: {a: yes, b: 1.0, c: 0x10, d: 010, e: 2020-01-01, f: ~}
      - alert: Hot
        expr: hot > 1
        for: 1m30s
        keep_firing_for: 5m
        labels: {severity: page}
        annotations: {summary: 'it is {{ $value }}'}
"""


def _load(tmp_path: Path, text: str | bytes) -> RuleSet:
    path = tmp_path / "r.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_rules([path])


def _load_errors(tmp_path: Path, text: str | bytes) -> list[str]:
    with pytest.raises(RuleFileError) as error:
        _load(tmp_path, text)
    return [message.replace(str(tmp_path / "r.yml"), "r.yml") for message in error.value.messages]


def _rule_text(body: str) -> str:
    return "groups:\n- name: g\n  rules:\n  - " + body.replace("\n", "\n    ")


def _list_texts(rule: Rule) -> dict[str, str]:
    return {name: template.text for name, template in rule.labels}


def test_a_good_file_is_read_whole(tmp_path: Path) -> None:
    """Durations are in milliseconds; each rule has its group's labels, which its own override."""
    rules = _load(tmp_path, GOOD)
    (group,) = rules.groups
    record, alert = group.rules

    assert (group.name, group.interval_ms, group.limit) == ("heat", 10_000, 5)
    assert (record.kind, record.name, record.expr) == ("record", "node:hot:max", "max by (node) (hot)")
    assert (alert.kind, alert.name, alert.for_ms, alert.keep_firing_for_ms) == ("alert", "Hot", 90_000, 300_000)
    assert _list_texts(alert) == {"team": "infra", "severity": "page"}
    assert rules.reach_ms == 300_000


def test_scalars_keep_the_text_of_the_file(tmp_path: Path) -> None:
    """Prometheus decodes into strings: `yes` is no boolean, `010` no number and null is empty."""
    record = next(_load(tmp_path, GOOD).rules)

    assert {name: text for name, text in _list_texts(record).items() if len(name) == 1} == {
        "a": "yes",
        "b": "1.0",
        "c": "0x10",
        "d": "010",
        "e": "2020-01-01",
        "f": "",
    }


@pytest.mark.parametrize("text", ["", "---\n", "groups:\n", "{}", "groups: []", "# nothing\n", "\ufeffgroups: []\n"])
def test_an_empty_file_has_no_groups(tmp_path: Path, text: str) -> None:
    """An empty file is not an error, as in Prometheus."""
    assert _load(tmp_path, text) == RuleSet()


def test_anchors_and_merge_keys_work_and_a_second_document_does_not_count(tmp_path: Path) -> None:
    """Prometheus reads the first document only."""
    text = _rule_text("&r {alert: A, expr: x, labels: &l {a: b}}\n") + "\n  - {<<: *r, alert: B}\n---\nnonsense: 1\n"
    first, second = _load(tmp_path, text).rules

    assert (first.name, second.name, _list_texts(second)) == ("A", "B", {"a": "b"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grops: []", "1:1: field grops not found; expected one of groups"),
        (
            "groups:\n- name: g\n  inteval: 5s\n",
            '3:3: group "g": field inteval not found; expected one of name, interval',
        ),
        ("- a", "1:1: expected a mapping with the key groups, found a list"),
        ("groups: 3", '1:9: expected groups: a list of rule groups, found "3"'),
        ("groups:\n- rules: []\n", "2:3: Groupname must not be empty"),
        ("groups:\n- name: g\n- name: g\n", '3:3: groupname: "g" is repeated in the same file'),
        ("groups:\n- {name: g, interval: 1.5h}", '2:23: group "g": interval: not a valid duration string: "1.5h"'),
        ("groups:\n- {name: g, limit: 1.5}", '2:20: group "g": limit: not a whole number: "1.5"'),
        ("groups:\n- name: g\n  rules: [a]\n", '3:11: group "g", rule 1: expected a rule, found "a"'),
        ("a: 1\na: 2\n", '2:1: mapping key "a" already defined at line 1'),
        ("a: [", "2:1: yaml: did not find expected node content"),
        (b"a: \xff", "1:4: not UTF-8 text"),
        ("[" * 100, "1:51: nested more than 50 deep"),
        ("[" * 100_000, "nest"),  # a newer libyaml reports this first, in its own words
        ("&a [*a]", "1:1: yaml: anchor contains itself"),
        (
            _rule_text("record: r\nalert: a\nexpr: x"),
            "4:5: group \"g\", rule 1, \"a\": only one of 'record' and 'alert' must",
        ),
        (_rule_text("expr: x"), "one of 'record' or 'alert' must be set"),
        (_rule_text("alert: a"), '4:5: group "g", rule 1, "a": field \'expr\' must be set in rule'),
        (_rule_text("alert: a\nexpr: 'x ='"), '5:11: group "g", rule 1, "a": could not parse expression: '),
        (_rule_text("alert: a\nexpr: x\nfro: 5m"), '6:5: group "g", rule 1, "a": field fro not found'),
        (
            _rule_text("alert: a\nexpr: x\nfor: 5"),
            '6:10: group "g", rule 1, "a": for: not a valid duration string: "5"',
        ),
        (
            _rule_text("alert: a\nexpr: x\nkeep_firing_for: -5m"),
            'keep_firing_for: not a valid duration string: "-5m"',
        ),
        (
            _rule_text("record: r\nexpr: x\nfor: 5m"),
            '6:10: group "g", rule 1, "r": invalid field \'for\' in recording rule',
        ),
        (_rule_text("record: r\nexpr: x\nkeep_firing_for: 5m"), "invalid field 'keep_firing_for' in recording rule"),
        (_rule_text("record: r\nexpr: x\nannotations: {a: b}"), "invalid field 'annotations' in recording rule"),
        (
            _rule_text("record: r{a}\nexpr: x"),
            "braces present in the recording rule name; should it be in expr?: r{a}",
        ),
        (_rule_text("alert: a\nexpr: x\nlabels: {'': c}"), "invalid label name: "),
        ("groups:\n- {name: g, limit: '5'}", '2:20: group "g": limit: the quotes make "5" a text; expected a whole'),
        (_rule_text("alert: a\nexpr: x\nlabels: {__name__: c}"), "invalid label name: __name__"),
        (_rule_text("alert: a\nexpr: x\nannotations: {'': c}"), "invalid annotation name: "),
        (_rule_text("alert: a\nexpr: x\nlabels: {b: [c]}"), "b: expected text, found a list"),
        (_rule_text("alert: a\nexpr: x\nlabels: c"), 'labels: expected a mapping of names to text, found "c"'),
        (_rule_text("alert: a\nexpr: x\nlabels: {b: '{{ nope }}'}"), 'label "b": error parsing template __alert_a: '),
        (
            _rule_text("alert: a\nexpr: x\nannotations: {b: '{{ $x }}'}"),
            'annotation "b": error parsing template __alert_a: ',
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str | bytes, message: str) -> None:
    """Each error names file, line and column, group and rule, and the expected value."""
    messages = _load_errors(tmp_path, text)

    assert any(message in each for each in messages), messages
    assert all(each.startswith("r.yml: ") for each in messages)


def test_every_error_of_every_file_is_told_at_once(tmp_path: Path) -> None:
    """One bad file keeps every rule from loading."""
    good, bad, gone = tmp_path / "good.yml", tmp_path / "bad.yml", tmp_path / "gone.yml"
    good.write_text(GOOD)
    bad.write_text(_rule_text("alert: a\nexpr: '('\nfor: x") + "\n  - {}\n")
    with pytest.raises(RuleFileError) as error:
        load_rules([good, bad, gone])
    messages = error.value.messages

    assert len([message for message in messages if message.startswith(f"{bad}: ")]) == 4
    assert f"{gone}: cannot be read: No such file or directory" in messages


def test_rules_can_be_left_out_by_name(tmp_path: Path) -> None:
    """An unknown name is refused with a list of the known ones."""
    rules = _load(tmp_path, GOOD)

    assert rules.exclude_rules(["Hot"]).names == ("node:hot:max",)
    assert rules.exclude_rules(["Hot", "node:hot:max"]) == RuleSet()
    with pytest.raises(ValueError, match="no rule is named Cold; there are: Hot, node:hot:max"):
        rules.exclude_rules(["Cold"])


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0", 0), ("5ms", 5), ("1h30m", 5_400_000), ("1y2w3d4h5m6s7ms", 33_019_506_007), ("90s", 90_000), ("0s", 0)],
)
def test_durations_are_prometheus_durations(text: str, ms: int) -> None:
    """Units in order from y to ms, each at most once; a year has 365 days."""
    assert parse_duration(text) == ms


@pytest.mark.parametrize("text", ["", "5", "-5m", "1.5h", "5m1h", "5 m", "m", "1m1m", "5M", "999999999y", "٣s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """A number without a unit, a sign, a fraction and a wrong order are errors."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@settings(deadline=None)
@given(st.integers(0, 9 * 10**12))
def test_a_duration_reads_back(ms: int) -> None:
    """A formatted duration parses to the same value."""
    assert parse_duration(format_duration(ms)) == ms


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_WORDS = "groups name rules record alert expr for labels annotations limit interval keep_firing_for query_offset x"
_KEYS = st.sampled_from(_WORDS.split())
_VALUES = _SCALARS | st.sampled_from(["up > 0", "5m", "a:b", "{{ $value }}", "{{"])
_TREES = st.recursive(
    _VALUES, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(_KEYS, tree, max_size=6), max_leaves=30
)


@settings(deadline=None)
@given(_TREES)
def test_any_tree_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, tree: object) -> None:
    """The loader raises RuleFileError and nothing else."""
    path = tmp_path_factory.getbasetemp() / "tree.yml"
    for document in (tree, {"groups": [{"name": "g", "rules": [tree]}]}):
        path.write_text(yaml.safe_dump(document))
        try:
            load_rules([path])
        except RuleFileError as error:
            assert error.messages


@settings(deadline=None)
@given(st.binary(max_size=60) | st.text("[]{}:,-&*!|>'\"%@` \n#?~<ab", max_size=60).map(str.encode))
def test_any_bytes_are_yaml_or_an_error_with_a_place(raw: bytes) -> None:
    """The loader raises only StrictYamlError."""
    try:
        load_yaml(raw)
    except StrictYamlError as error:
        assert error.mark.line >= 1
        assert error.mark.column >= 1
