"""Tests of the runner for promtool's rule tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from rules.unittests.runner import parse_metric, parse_values, run_test_file

RULES = """
groups:
- name: g
  interval: 10m
  rules:
  - record: up:sum
    expr: sum(up)
  - alert: Down
    expr: up == 0
    for: 2m
    labels: {severity: page}
    annotations: {summary: '{{ $labels.job }} is down at {{ $externalLabels.site }}'}
"""
TESTS = """
rule_files: [rules.yml]
evaluation_interval: 1m
tests:
- interval: 1m
  external_labels: {site: lab}
  input_series:
  - {series: 'up{job="a"}', values: '1 0x5 1'}
  - {series: 'up{job="b"}', values: '1x3 stale'}
  alert_rule_test:
  - {eval_time: 2m, alertname: Down, exp_alerts: []}
  - eval_time: 3m30s
    alertname: Down
    exp_alerts:
    - exp_labels: {job: a, severity: page}
      exp_annotations: {summary: a is down at lab}
  - {eval_time: 7m, alertname: Down, exp_alerts: []}
  promql_expr_test:
  - {expr: 'up:sum', eval_time: 0m, exp_samples: [{labels: 'up:sum', value: 2}]}
  - {expr: 'up', eval_time: 4m, exp_samples: [{labels: 'up{job="a"}', value: 0}]}
  - {expr: 'count(ALERTS)', eval_time: 3m, exp_samples: [{labels: '{}', value: 1.0}]}
"""


def _run_tests(tmp_path: Path, tests: str = TESTS, rules: str = RULES) -> tuple[str, ...]:
    (tmp_path / "rules.yml").write_text(rules)
    (tmp_path / "tests.yml").write_text(tests)
    return run_test_file(tmp_path / "tests.yml").failures


def test_tests_that_hold_pass(tmp_path: Path) -> None:
    """Checks alerts at the evaluation before eval_time, recorded series, stale series and ALERTS."""
    assert _run_tests(tmp_path) == ()


@pytest.mark.parametrize(
    ("right", "wrong", "failure"),
    [
        ("alertname: Down, exp_alerts: []}\n  - eval", "alertname: Down, exp_alerts: [{}]}\n  - eval", "time: 2m"),
        (
            "severity: page}\n      exp",
            "severity: info}\n      exp",
            '+ {alertname="Down", job="a", severity="page"}',
        ),
        ("a is down at lab", "a is up", 'summary="a is down at lab"'),
        ("value: 2}", "value: 3}", 'expr: "up:sum", time: 0m'),
        ("count(ALERTS)", "sum(up offset 5m", 'expr: "sum(up offset 5m", time: 3m, err: '),
        ("interval: 1m\n  ext", "intervall: 1m\n  ext", "field intervall not found"),
        ("1 0x5 1'", "1 0x5 one'", 'values: "one" is none of'),
        ("alertname: Down, exp_alerts: []}\n  p", "exp_alerts: []}\n  p", "misses required attribute alertname"),
        ("eval_time: 7m", "eval_time: soon", 'eval_time: not a valid duration string: "soon"'),
        ("value: 1.0", "value: one", 'value: expected a number, found "one"'),
        ("labels: '{}'", "labels: 'x[5m]'", "labels: expected a series"),
    ],
)
def test_tests_that_do_not_hold_fail(tmp_path: Path, right: str, wrong: str, failure: str) -> None:
    """A wrong expectation or a wrong file is a failure that names it."""
    assert right in TESTS
    failures = _run_tests(tmp_path, TESTS.replace(right, wrong))

    assert any(failure in each for each in failures), failures


def test_a_rule_that_fails_to_evaluate_fails_the_test(tmp_path: Path) -> None:
    """A failing rule fails the test as in promtool, whatever the test expects."""
    failures = _run_tests(tmp_path, rules=RULES.replace("sum(up)", "label_replace(up, 'job', 'x', '', '')"))

    assert any(failure.startswith("rule: up:sum, time: 0s, err: ") for failure in failures)


def test_each_test_has_its_result(tmp_path: Path) -> None:
    """Every test has a result: an error for a failing expression, else its samples."""
    (tmp_path / "rules.yml").write_text(RULES)
    (tmp_path / "tests.yml").write_text(
        TESTS.replace("value: 2}", "value: 3}").replace("count(ALERTS)", "up + on() up")
    )
    results = run_test_file(tmp_path / "tests.yml").results

    assert [(each.kind, each.subject, each.ok) for each in results] == [
        ("alert", "Down", True),
        ("alert", "Down", True),
        ("alert", "Down", True),
        ("expr", "up:sum", False),
        ("expr", "up", True),
        ("expr", "up + on() up", False),
    ]
    assert results[3].actual == (((("__name__", "up:sum"),), 2.0),)
    assert results[3].failure.splitlines() == ['expr: "up:sum", time: 0m:', "  - up:sum{} 3", "  + up:sum{} 2"]
    assert "many-to-many" in (results[5].error or "")


def test_a_failing_rule_is_the_error_of_every_test_after_it(tmp_path: Path) -> None:
    """Later tests do not run, and the failure is reported once."""
    (tmp_path / "rules.yml").write_text(RULES.replace("sum(up)", "up + on() up"))
    (tmp_path / "tests.yml").write_text(TESTS)
    verdict = run_test_file(tmp_path / "tests.yml")

    assert len(verdict.failures) == 1
    assert len(verdict.results) == 6
    assert all("many-to-many" in (each.error or "") for each in verdict.results)


def test_a_subquery_without_a_step_takes_the_evaluation_interval(tmp_path: Path) -> None:
    """The default step applies to the rules and to the test's own expressions."""
    rules = RULES.replace("sum(up)", "count_over_time(vector(1)[150s:])").replace("up:sum", "steps")
    head, _, _ = TESTS.partition("  alert_rule_test")
    expr = "  - {expr: '%s', eval_time: 9m, exp_samples: [{labels: '%s', value: %d}]}\n"
    for interval, steps in (("1m", 3), ("30s", 5)):
        tests = head.replace("evaluation_interval: 1m", f"evaluation_interval: {interval}") + "  promql_expr_test:\n"
        tests += expr % ("steps", "steps", steps) + expr % ("count_over_time(vector(1)[150s:])", "{}", steps)

        assert _run_tests(tmp_path, tests, rules) == ()


def test_wrong_rule_files_fail_and_missing_ones_warn(tmp_path: Path) -> None:
    """Errors of the rule files are failures of the test; a pattern without a file is a warning."""
    assert any("could not parse" in failure for failure in _run_tests(tmp_path, rules=RULES.replace("sum(up)", "sum(")))
    (tmp_path / "tests.yml").write_text("rule_files: [none*.yml]\n")
    verdict = run_test_file(tmp_path / "tests.yml")

    assert verdict.is_passed
    assert "no file match pattern" in verdict.warnings[0]
    assert str(verdict).endswith("SUCCESS")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1 2.5 -3", (1.0, 2.5, -3.0)),
        ("0+10x3", (0.0, 10.0, 20.0, 30.0)),
        ("5-1x2", (5.0, 4.0, 3.0)),
        ("-2+4x2", (-2.0, 2.0, 6.0)),
        ("7x2", (7.0, 7.0, 7.0)),
        ("_ _x2 1", (None, None, None, 1.0)),
        ("1 stale", (1.0, "stale")),
        ("1e3 Inf -Inf 0x2", (1000.0, float("inf"), float("-inf"), 0.0, 0.0, 0.0)),
        ("", ()),
    ],
)
def test_values_expand_as_in_promtool(text: str, values: tuple[float | str | None, ...]) -> None:
    """The count of a notation is the number of values after the first."""
    assert parse_values(text) == values


@pytest.mark.parametrize("text", ["x", "1+x3", "1x", "0x1f", "1+1", "_3", "1x99999999", "{{count:1}}", "stalex3"])
def test_what_is_no_value_is_refused(text: str) -> None:
    """Wrong notations are refused, native histograms among them."""
    with pytest.raises(ValueError, match=r"none of|more than"):
        parse_values(text)


def test_a_series_is_parsed_with_its_name() -> None:
    """A series has equality matchers only."""
    assert parse_metric('m{b="2",a="1"}') == (("__name__", "m"), ("a", "1"), ("b", "2"))
    assert parse_metric("{}") == ()
    for wrong in ('m{a=~"1"}', "m[5m]", "m offset 5m", "1", "m{"):
        with pytest.raises(ValueError, match=r".+"):
            parse_metric(wrong)


def test_a_missing_file_is_a_failure(tmp_path: Path) -> None:
    """A missing file is a failure of the verdict and raises nothing."""
    assert "cannot be read" in run_test_file(tmp_path / "none.yml").failures[0]
