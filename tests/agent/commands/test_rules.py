"""`steadytok rules check` and `rules test`: promtool's exit statuses, and results that a program can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.commands.rules import command

RULES = 'groups: [{name: g, rules: [{record: "up:sum", expr: sum(up)}, {alert: Down, expr: up == 0}]}]'
TESTS = """
rule_files: [rules.yml]
tests:
- name: first
  interval: 1m
  input_series: [{series: 'up{job="a"}', values: '1 0 0.1'}, {series: 'up{job="b"}', values: '1 1 NaN'}]
  promql_expr_test:
  - {expr: up, eval_time: 60s, exp_samples: [{labels: 'up{job="a"}', value: 0}, {labels: 'up{job="b"}', value: 1}]}
  - {expr: up + on() up, eval_time: 1m}
  - {expr: up / 0, eval_time: 2m, exp_samples: []}
  - {expr: 1.5, eval_time: 1m, exp_samples: [{labels: '{}', value: 1.5}]}
  alert_rule_test: [{eval_time: 1m, alertname: Down, exp_alerts: [{exp_labels: {job: a}}]}]
"""


def _run_rules(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(name="tests")
def _write_tests(tmp_path: Path) -> Path:
    (tmp_path / "rules.yml").write_text(RULES)
    (tmp_path / "tests.yml").write_text(TESTS)
    return tmp_path / "tests.yml"


def test_each_test_is_a_result(tests: Path) -> None:
    """The JSON has each test's subject, verdict, expected and actual result; a failing expression stops no other."""
    completed = _run_rules("test", "--json", tests)
    answer = json.loads(completed.stdout)
    results: list[dict[str, Any]] = answer["results"]

    assert completed.exit_code == 1
    assert answer["errors"] == []
    assert [(each.get("expr"), each.get("alertname"), each["ok"]) for each in results] == [
        (None, "Down", True),
        ("up", None, True),
        ("up + on() up", None, False),
        ("up / 0", None, False),
        ("1.5", None, True),
    ]
    assert {(each["file"], each["test"]) for each in results} == {(str(tests), "first")}
    assert [each["kind"] for each in results] == ["alert", "expr", "expr", "expr", "expr"]
    assert results[1]["eval_time"] == "60s"
    assert "many-to-many" in results[2]["error"]
    assert [each["error"] is None for each in results] == [True, True, False, True, True]
    alert = {"labels": {"alertname": "Down", "job": "a"}, "annotations": {}}
    assert results[0]["expected"] == results[0]["got"] == [alert]
    assert results[1]["got"][0] == {"labels": {"__name__": "up", "job": "a"}, "value": "0"}
    assert results[3]["got"] == [
        {"labels": {"job": "a"}, "value": "+Inf"},
        {"labels": {"job": "b"}, "value": "NaN"},
    ]
    assert results[4]["got"] == [{"labels": {}, "value": "1.5"}]


def test_a_file_that_cannot_be_run_is_an_error(tmp_path: Path) -> None:
    """It is listed under errors, because it belongs to no test."""
    (tmp_path / "tests.yml").write_text("tests: [{nonsense: 1}]")
    completed = _run_rules("test", "--json", tmp_path / "tests.yml", tmp_path / "none.yml")
    answer = json.loads(completed.stdout)

    assert completed.exit_code == 1
    assert answer["results"] == []
    assert ["field nonsense not found" in each["error"] for each in answer["errors"]] == [True, False]
    assert "cannot be read" in answer["errors"][1]["error"]


def test_a_failure_is_shown_as_a_difference(tests: Path) -> None:
    """A missing sample has a minus, an unexpected one a plus, an expected one no sign."""
    tests.write_text(TESTS.replace("""'up{job="b"}', value: 1}""", """'up{job="b"}', value: 2}"""))
    output_lines = _run_rules("test", tests).stdout.splitlines()

    assert [line.strip() for line in output_lines if "up{" in line][:3] == [
        'up{job="a"} 0',
        '- up{job="b"} 2',
        '+ up{job="b"} 1',
    ]
    assert _run_rules("test", tests).exit_code == 1


def test_the_exit_status_of_check_is_promtools(tmp_path: Path) -> None:
    """0 without a fault, 1 for a fault or a missing file, 3 for a duplicate with --lint-fatal."""
    good, twice, bad = (tmp_path / name for name in ("good.yml", "twice.yml", "bad.yml"))
    good.write_text(RULES)
    twice.write_text("groups: [{name: g, rules: [{record: a, expr: b}, {record: a, expr: c}]}]")
    bad.write_text("groups: [{name: g, rules: [{record: a}]}]")

    assert _run_rules("check", good).exit_code == 0
    assert _run_rules("check", "--lint-fatal", good).exit_code == 0
    assert _run_rules("check", twice).exit_code == 0
    assert "a occurs twice" in _run_rules("check", twice).stderr
    assert _run_rules("check", "--lint-fatal", twice).exit_code == 3
    assert _run_rules("check", "--lint-fatal", "--lint=none", twice).exit_code == 0
    assert _run_rules("check", "--lint-fatal", twice, bad).exit_code == 1
    assert _run_rules("check", tmp_path / "none.yml").exit_code == 1


def test_check_reports_rules_that_the_agent_does_not_evaluate(tmp_path: Path) -> None:
    """A range beyond sample.keep is a fault; with the configuration that keeps enough it is none."""
    rules, config, bad = (tmp_path / name for name in ("long.yml", "steadytok.yml", "bad.yml"))
    rules.write_text('groups: [{name: g, rules: [{record: a, expr: "rate(b[6h])"}, {record: c, expr: "rate(b[1h])"}]}]')
    config.write_text("sample: {keep: 6h}")
    bad.write_text("sample: {keep: for ever}")
    refused = _run_rules("check", rules)

    assert refused.exit_code == 1
    assert refused.stdout == f"{rules}: 2 rules found, 1 not evaluated\n"
    assert refused.stderr.startswith(f'{rules}:1: group "g", "a": looks back 6h, further than the 1h of sample.keep, ')
    assert _run_rules("check", "--config", config, rules).exit_code == 0
    assert _run_rules("check", "--config", bad, rules).exit_code == 2
