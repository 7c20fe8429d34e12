"""The same test files get the same verdict from `promtool test rules` and from ours; so do rule files when checked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rules.rulefile import BUILTIN, RuleFileError, load_rules
from rules.unittests.runner import run_test_file
from tests import processes

pytestmark = pytest.mark.deep

BUILTIN_TESTS = Path(__file__).parents[1] / "rules" / "builtin"

RULES = """
groups:
- name: first
  interval: 7m
  rules:
  - record: job:up:sum
    expr: sum by (job) (up)
    labels: {kind: '010'}
  - alert: Down
    expr: up == 0
    for: 2m
    keep_firing_for: 3m
    labels: {severity: '{{ if gt (len $labels.job) 1 }}page{{ else }}info{{ end }}'}
    annotations: {summary: '{{ $labels.job }} at {{ $externalLabels.site }}: {{ $value | humanize }}'}
  - alert: Fast
    expr: requests_total - requests_total offset 1m > 60
    annotations: {a: '{{ $value }}', b: ''}
- name: second
  rules:
  - alert: FewUp
    expr: job:up:sum < 2
    labels: {job: ''}
  - alert: Chained
    expr: count(ALERTS{alertstate="firing"}) > 1
"""
HEAD = """
rule_files: [rules.yml]
evaluation_interval: 1m
group_eval_order: [first, second]
tests:
- interval: 1m
  name: one
  external_labels: {site: lab}
  input_series:
  - {series: 'up{job="a", i="1"}', values: '1 1 0x3 1x10'}
  - {series: 'up{job="a", i="2"}', values: '1x4 _x2 1 stale'}
  - {series: 'requests_total', values: '0+30x4 0+120x4 _ _ 700'}
"""
ALERT = "  alert_rule_test:\n  - {eval_time: %s, alertname: %s, exp_alerts: [%s]}\n"
EXPR = "  promql_expr_test:\n  - {expr: '%s', eval_time: %s, exp_samples: [%s]}\n"
DOWN = "{exp_labels: {job: a, i: '1', severity: info}, exp_annotations: {summary: 'a at lab: 0'}}"


def _alert(time: str, name: str, expected: str = "") -> str:
    return HEAD + ALERT % (time, name, expected)


def _expr(expr: str, time: str, expected: str = "") -> str:
    return HEAD + EXPR % (expr, time, expected)


FILES = {
    "pending": _alert("3m", "Down"),
    "firing": _alert("4m", "Down", DOWN),
    "firing between evaluations": _alert("4m30s", "Down", DOWN),
    "kept firing": _alert("8m", "Down", DOWN),
    "kept firing no longer": _alert("9m", "Down", DOWN),
    "resolved": _alert("9m", "Down"),
    "wrong annotation": _alert("4m", "Down", DOWN.replace("at lab", "at home")),
    "wrong label": _alert("4m", "Down", DOWN.replace("info", "page")),
    "one too many": _alert("4m", "Down", f"{DOWN}, {DOWN}"),
    "unknown alert": _alert("4m", "Nobody"),
    "unknown alert expected": _alert("4m", "Nobody", "{}"),
    "empty annotation": _alert("7m", "Fast", "{exp_annotations: {a: '120', b: ''}}"),
    "label dropped": _alert("3m", "FewUp", "{exp_labels: {kind: '010'}}"),
    "label not dropped": _alert("3m", "FewUp", "{exp_labels: {kind: '010', job: a}}"),
    "chained": _alert("4m", "Chained", "{}"),
    "chained not yet": _alert("3m", "Chained"),
    "recorded": _expr("job:up:sum", "1m", '{labels: \'job:up:sum{job="a",kind="010"}\', value: 2}'),
    "recorded octal": _expr("job:up:sum", "1m", '{labels: \'job:up:sum{job="a",kind="8"}\', value: 2}'),
    "gap": _expr('up{i="2"}', "6m", '{labels: \'up{i="2",job="a"}\', value: 1}'),
    "stale": _expr('up{i="2"}', "8m"),
    "before stale": _expr('up{i="2"}', "7m", '{labels: \'up{i="2",job="a"}\', value: 1}'),
    "counts up": _expr("requests_total", "4m", "{labels: requests_total, value: 120}"),
    "counts up wrong": _expr("requests_total", "4m", "{labels: requests_total, value: 150}"),
    "alerts": _expr("count(ALERTS) by (alertstate)", "3m", "{labels: '{alertstate=\"firing\"}', value: 1}"),
    "alerts of both states": _expr(
        "count(ALERTS) by (alertstate)",
        "3m",
        "{labels: '{alertstate=\"firing\"}', value: 1}, {labels: '{alertstate=\"pending\"}', value: 1}",
    ),
    "for state": _expr(
        'ALERTS_FOR_STATE{alertname!="Down"} - 120', "3m", '{labels: \'{alertname="FewUp",kind="010"}\', value: 0}'
    ),
    "scalar": _expr("1 + 1", "0m", "{labels: '{}', value: 2}"),
    "nan is not itself": _expr("vector(0) / 0", "0m", "{labels: '{}', value: .nan}"),
    "subquery without a step": _expr("count_over_time(vector(1)[150s:])", "9m", "{labels: '{}', value: 3}"),
    "infinity": _expr("vector(1) / 0", "0m", "{labels: '{}', value: .inf}"),
    "bad expression": _expr("sum(", "0m"),
    "bad query": _expr("up + on() up", "0m"),
    "unknown key": HEAD.replace("name: one", "nam: one") + ALERT % ("1m", "Down", ""),
    "no alertname": HEAD + "  alert_rule_test:\n  - {eval_time: 1m}\n",
    "bad values": HEAD.replace("1x10", "1y10") + ALERT % ("1m", "Down", ""),
    "bad series": HEAD.replace("series: 'requests_total'", "series: 'requests-total'") + ALERT % ("1m", "Down", ""),
    "bad duration": _alert("1.5m", "Down"),
    "no rule files": HEAD.replace("[rules.yml]", "[none.yml]") + ALERT % ("1m", "Down", ""),
    "broken rules": HEAD.replace("[rules.yml]", "[broken.yml]") + ALERT % ("1m", "Down", ""),
    "failing rules": HEAD.replace("[rules.yml]", "[failing.yml]") + ALERT % ("1m", "Down", ""),
    "same file twice": HEAD.replace("[rules.yml]", "['*rules.yml', other.yml]") + ALERT % ("1m", "Down", ""),
    "nothing": "",
    "hexadecimal looks like a count": HEAD.replace("'0+30x4 0+120x4 _ _ 700'", "'0x3 1'")
    + EXPR % ("requests_total", "4m", "{labels: requests_total, value: 1}"),
}
RULE_FILES = {
    "empty": "",
    "null": "groups:\n",
    "unknown key": "groups: []\nx: 1\n",
    "second document": "groups: []\n---\nx: 1\n",
    "no name": "groups: [{rules: []}]",
    "twice": "groups: [{name: g}, {name: g}]",
    "two keys": "groups: [{name: g, name: h}]",
    "both": "groups: [{name: g, rules: [{alert: a, record: b, expr: x}]}]",
    "neither": "groups: [{name: g, rules: [{expr: x}]}]",
    "no expr": "groups: [{name: g, rules: [{alert: a}]}]",
    "expr is a number": "groups: [{name: g, rules: [{alert: a, expr: 1}]}]",
    "matrix": "groups: [{name: g, rules: [{alert: a, expr: 'x[5m]'}]}]",
    "negative limit": "groups: [{name: g, limit: -1, rules: [{alert: a, expr: x}]}]",
    "for without unit": "groups: [{name: g, rules: [{alert: a, expr: x, for: 5}]}]",
    "for zero": "groups: [{name: g, rules: [{alert: a, expr: x, for: 0}]}]",
    "for empty": "groups: [{name: g, rules: [{alert: a, expr: x, for: ''}]}]",
    "for in record": "groups: [{name: g, rules: [{record: a, expr: x, for: 5m}]}]",
    "for 0s in record": "groups: [{name: g, rules: [{record: a, expr: x, for: 0s}]}]",
    "annotation in record": "groups: [{name: g, rules: [{record: a, expr: x, annotations: {b: c}}]}]",
    "bad label": "groups: [{name: g, rules: [{alert: a, expr: x, labels: {'': d}}]}]",
    "label __name__": "groups: [{name: g, rules: [{alert: a, expr: x, labels: {__name__: d}}]}]",
    "bad annotation": "groups: [{name: g, rules: [{alert: a, expr: x, annotations: {'': d}}]}]",
    "template in record": "groups: [{name: g, rules: [{record: a, expr: x, labels: {b: '{{ nope }}'}}]}]",
    "template": "groups: [{name: g, rules: [{alert: a, expr: x, labels: {b: '{{ nope }}'}}]}]",
    "label list": "groups: [{name: g, rules: [{alert: a, expr: x, labels: {b: [c]}}]}]",
    "labels null": "groups: [{name: g, rules: [{alert: a, expr: x, labels: ~}]}]",
    "merge": "groups: [{name: g, rules: [&r {alert: a, expr: x}, {<<: *r, alert: b}]}]",
    "tab": "groups:\n\t- name: g\n",
    "rules a mapping": "groups: [{name: g, rules: {alert: a}}]",
}


@pytest.fixture(scope="module")
def promtool() -> str:
    """The real promtool; where it is missing the test is skipped, or fails where peers are required."""
    return processes.require_program("promtool")


@pytest.mark.parametrize("name", FILES)
def test_a_test_file_has_the_same_verdict(promtool: str, tmp_path: Path, name: str) -> None:
    """Passing and failing files alike."""
    (tmp_path / "rules.yml").write_text(RULES)
    (tmp_path / "other.yml").write_text("groups: [{name: first, rules: [{alert: Down, expr: 'absent(up)'}]}]")
    (tmp_path / "broken.yml").write_text("groups: [{name: g, rules: [{alert: Down, expr: '('}]}]")
    (tmp_path / "failing.yml").write_text("groups: [{name: g, rules: [{alert: Down, expr: 'up + on() up'}]}]")
    (tmp_path / "tests.yml").write_text(FILES[name])
    done = subprocess.run([promtool, "test", "rules", "tests.yml"], cwd=tmp_path, capture_output=True, text=True)
    verdict = run_test_file(tmp_path / "tests.yml")

    assert verdict.is_passed == (done.returncode == 0), f"{done.stdout}{done.stderr}\n{verdict}"


@pytest.mark.parametrize("name", RULE_FILES)
def test_a_rule_file_has_the_same_verdict(promtool: str, tmp_path: Path, name: str) -> None:
    """What `promtool check rules` refuses is refused, and nothing else."""
    path = tmp_path / "rules.yml"
    path.write_text(RULE_FILES[name])
    done = subprocess.run([promtool, "check", "rules", "rules.yml"], cwd=tmp_path, capture_output=True, text=True)
    messages: list[str] = []
    try:
        load_rules([path])
    except RuleFileError as error:
        messages = error.messages

    assert (not messages) == (done.returncode == 0), f"{done.stdout}{done.stderr}\n{messages}"


@pytest.mark.parametrize("path", sorted(BUILTIN_TESTS.glob("*.yml")), ids=lambda path: path.name)
def test_the_tests_of_the_built_in_rules_have_the_same_verdict(promtool: str, path: Path) -> None:
    """The files that ship are judged alike."""
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True)
    verdict = run_test_file(path)

    assert verdict.is_passed == (done.returncode == 0), f"{done.stdout}{done.stderr}\n{verdict}"


def test_the_built_in_rules_load(promtool: str) -> None:
    """Here and in Prometheus."""
    paths = sorted(BUILTIN.glob("*.yml"))
    if not paths:
        pytest.skip("there are no built-in rules yet")
    done = subprocess.run([promtool, "check", "rules", *map(str, paths)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert load_rules(paths).names
