"""Rules evaluated over time."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import Sample, gauge
from rules import evaluator
from rules.alerts import AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.history.selection import Selection
from rules.history.series_index import SelectionKeeper
from rules.matchers import Matchers
from rules.promql import Query
from rules.promql import compile as compile_query
from rules.state import compute_next_slot
from tests.rules.evaluated_host import HOUR, SECOND, Host, load_rule_text


def test_an_alert_lives_and_its_series_with_it(tmp_path: Path) -> None:
    """ALERTS and ALERTS_FOR_STATE follow pending, firing and resolved; the pending series ends when it fires."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1, for: 2s, labels: {severity: page}}"))
    labels = {"alertname": "Hot", "severity": "page", "dimm": "0"}
    host.tick(5)

    assert host.alert.state is AlertState.PENDING
    assert host.history.get_value("ALERTS", alertstate="pending", **labels) == 1
    assert host.history.get_value("ALERTS_FOR_STATE", **labels) == 1
    host.tick(6)
    host.tick(7)

    assert (host.alert.state, host.alert.value, host.alert.fired_at_ms) == (AlertState.FIRING, 7, 3000)
    assert host.history.get_value("ALERTS", alertstate="pending", **labels) is None
    assert host.history.get_value("ALERTS", alertstate="firing", **labels) == 1
    host.tick(0)

    assert host.alert.resolved_at_ms == 4000
    assert host.history.get_value("ALERTS", alertstate="firing", **labels) is None
    assert host.history.get_value("ALERTS_FOR_STATE", **labels) is None


def test_labels_and_annotations_are_expanded(tmp_path: Path) -> None:
    """Rule labels override the sample's, and an empty one removes it; annotations see value, labels and queries."""
    rule = (
        "{alert: Hot, expr: hot > 1, labels: {dimm: '', slot: 'A{{ $labels.dimm }}', site: x},"
        " annotations: {a: '{{ $value }} {{ $externalLabels.site }} {{ query `sum(hot)` | first | value }}'}}"
    )
    host = Host(load_rule_text(tmp_path, rule))
    host.tick(0, 5)

    assert host.alert.labels == (("alertname", "Hot"), ("site", "x"), ("slot", "A1"))
    assert host.alert.annotations == (("a", "5 lab 5"),)


def test_a_later_rule_sees_what_an_earlier_one_recorded_now(tmp_path: Path) -> None:
    """The rules of a group run in order, at one time."""
    rules = "{record: hottest, expr: max(hot), labels: {by: me}}\n{alert: Hot, expr: hottest > 1}"
    host = Host(load_rule_text(tmp_path, rules))
    host.tick(1, 3)

    assert host.history.get_value("hottest", by="me") == 3
    assert host.alert.labels == (("alertname", "Hot"), ("by", "me"))


def test_a_recorded_series_that_vanishes_ends_at_once(tmp_path: Path) -> None:
    """The series gets a stale marker, instead of five minutes of lookback."""
    host = Host(load_rule_text(tmp_path, "{record: too:hot, expr: hot > 1}\n{record: n, expr: count(too:hot)}"))
    host.tick(5, 6)

    assert host.history.get_value("n") == 2
    host.tick(5, 0)

    assert host.history.get_value("too:hot", dimm="1") is None
    assert host.history.get_value("n") == 1


def test_a_scalar_is_one_sample_without_labels(tmp_path: Path) -> None:
    """The value of the alert is the scalar."""
    host = Host(load_rule_text(tmp_path, "{record: two, expr: 1 + 1}\n{alert: Watchdog, expr: vector(1)}"))
    host.tick()

    assert host.history.get_value("two") == 2
    assert host.alert.labels == (("alertname", "Watchdog"),)


def test_an_error_changes_nothing_but_the_health(tmp_path: Path) -> None:
    """An error writes nothing and ends nothing, and alerts stay as they were; the next rule is evaluated."""
    rules = (
        "{record: one, expr: \"label_replace(hot, 'dimm', 'x', '', '')\"}\n"
        "{alert: Hot, expr: \"label_replace(hot, 'dimm', 'x', '', '') > 1\"}\n{record: fine, expr: max(hot)}"
    )
    host = Host(load_rule_text(tmp_path, rules))
    host.tick(5)
    host.tick(5, 6)

    assert [health.health for health in host.rules.health] == ["err", "err", "ok"]
    assert "same labelset" in host.rules.health[0].error
    assert host.history.get_value("one", dimm="x") == 5
    assert (host.alert.state, host.alert.value) == (AlertState.FIRING, 5)
    assert host.history.get_value("fine") == 6
    host.tick(7)

    assert [health.error for health in host.rules.health] == ["", "", ""]


def test_two_results_with_the_same_labels_fail_the_whole_rule(tmp_path: Path) -> None:
    """Labels are the identity: two alerts or series cannot share them."""
    rules = "{alert: Hot, expr: hot > 1, labels: {dimm: x}}\n{record: r, expr: hot, labels: {dimm: x}}"
    host = Host(load_rule_text(tmp_path, rules))
    host.tick(5, 6)

    assert [health.error for health in host.rules.health] == [
        "vector contains metrics with the same labelset after applying alert labels",
        "vector contains metrics with the same labelset after applying rule labels",
    ]
    assert host.rules.list_alerts() == ()


def test_beyond_the_limit_all_alerts_of_the_rule_go(tmp_path: Path) -> None:
    """An alerting rule beyond its limit loses its alerts; a recording rule writes nothing."""
    rules = "{alert: Hot, expr: hot > 1}\n{record: r, expr: hot}"
    host = Host(load_rule_text(tmp_path, rules, "  limit: 1\n"))
    host.tick(5)

    assert len(host.rules.list_alerts()) == 1
    host.tick(6, 6)

    assert host.rules.list_alerts() == ()
    assert [health.error for health in host.rules.health] == [
        "exceeded limit of 1 with 2 alerts",
        "exceeded limit of 1 with 2 series",
    ]
    assert host.history.get_value("r", dimm="0") == 5


def test_a_matrix_is_no_result(tmp_path: Path) -> None:
    """The rule loads, as in Prometheus, and fails when it is evaluated."""
    host = Host(load_rule_text(tmp_path, "{record: r, expr: 'hot[5m]'}"))
    host.tick(1)

    assert host.health.error == "rule result is not a vector or scalar"


def test_health_tells_how_long_and_how_many(tmp_path: Path) -> None:
    """A series count that is always 0 reveals a rule that matches nothing."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1}\n{alert: Never, expr: nothing > 1}"))

    assert [health.health for health in host.rules.health] == ["unknown", "unknown"]
    host.tick(5, 6)

    assert [(health.series, health.health) for health in host.rules.health] == [(2, "ok"), (0, "ok")]
    assert (host.health.last_ms, host.health.duration_seconds) == (1000, 0.25)
    assert (host.health.group, host.health.name, host.health.kind) == ("g", "Never", "alert")


def test_a_group_with_an_interval_is_due_once_per_slot(tmp_path: Path) -> None:
    """Slots are multiples of the interval; a late tick causes one evaluation, not several."""
    host = Host(load_rule_text(tmp_path, "{record: r, expr: max(hot)}", "  interval: 10s\n"))
    times = []
    for ms in (3000, *[1000] * 12, 47_000, 1000, *[1000] * 8):
        host.tick(1, ms=ms)
        times.append(host.health.last_ms)

    assert sorted({time for time in times if time}) == [3000, 10_000, 62_000, 70_000]


@settings(deadline=None)
@given(st.integers(0, 999), st.lists(st.integers(-12, 12), min_size=2, max_size=50))
def test_a_tick_that_jitters_is_never_dropped(
    tmp_path_factory: pytest.TempPathFactory, phase: int, jitter: list[int]
) -> None:
    """Ticks at the group's own interval are all evaluated, wherever they fall in the slot."""
    host = Host(load_rule_text(tmp_path_factory.getbasetemp(), "{record: r, expr: vector(1)}"))
    for number, late in enumerate(jitter, start=1):
        now_ms = number * SECOND + phase + late
        host.rules.evaluate(host.history, now_ms)

        assert host.health.last_ms == now_ms


@settings(deadline=None)
@given(st.integers(0, 10**13), st.sampled_from([1, 7, 100, 1000, 10_000, 3_600_000]))
def test_the_next_slot_is_a_multiple_within_two_intervals(now_ms: int, interval_ms: int) -> None:
    """An evaluation waits less than two intervals for the next."""
    start = compute_next_slot(now_ms, interval_ms)

    assert start % interval_ms == 0
    assert now_ms < start < now_ms + 2 * interval_ms


def test_the_same_time_is_not_evaluated_twice(tmp_path: Path) -> None:
    """A clock that stands still or runs back causes no evaluation."""
    host = Host(load_rule_text(tmp_path, "{record: r, expr: vector(1)}"))
    host.tick(1)
    host.rules.evaluate(host.history, host.now_ms)
    host.rules.evaluate(host.history, host.now_ms - 500)

    assert host.health.duration_seconds == 0.25
    assert host.health.last_ms == 1000


def test_a_silent_source_makes_a_firing_alert_lost(tmp_path: Path) -> None:
    """Silence does not resolve an alert: it keeps firing, not fresh, until the source records again."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1}"))
    host.tick(5)
    host.silence()

    assert (host.alert.state, host.alert.fresh, host.health.fresh) == (AlertState.FIRING, False, False)
    assert host.history.get_value("ALERTS", alertname="Hot", dimm="0", alertstate="firing") == 1
    host.tick(5)

    assert (host.alert.state, host.alert.fresh, host.alert.fired_at_ms) == (AlertState.FIRING, True, 1000)
    host.silence()
    host.tick(0)

    assert (host.alert.state, host.alert.fresh) == (AlertState.RESOLVED, True)


def test_a_lost_alert_is_given_up_after_15_minutes(tmp_path: Path) -> None:
    """The alert is resolved, but not fresh."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1}"))
    host.tick(5)
    host.silence()
    host.tick(ms=899 * SECOND, record=False)

    assert host.alert.state is AlertState.FIRING
    host.tick(record=False)

    assert (host.alert.state, host.alert.fresh) == (AlertState.RESOLVED, False)


def test_silence_reaches_through_recording_rules(tmp_path: Path) -> None:
    """If a source of a recording rule is silent, the alerts that build on the rule are lost."""
    rules = "{record: a, expr: hot}\n{record: b, expr: a * 2}\n{alert: Hot, expr: b > 2}\n{alert: Other, expr: c > 1}"
    host = Host(load_rule_text(tmp_path, rules))
    host.tick(5)
    host.silence()

    assert (host.alert.state, host.alert.fresh) == (AlertState.FIRING, False)
    assert [health.fresh for health in host.rules.health] == [False, False, False, True]
    host.tick(0)

    assert (host.alert.state, host.alert.fresh) == (AlertState.RESOLVED, True)


def test_silence_reaches_through_what_is_made_of_a_collectors_series(tmp_path: Path) -> None:
    """A series derived from a silent collector's ends, and its alert is lost, not resolved."""
    host = Host(load_rule_text(tmp_path, "{record: percent, expr: drift * 100}\n{alert: Moved, expr: percent > 10}"))
    host.history.derive("drift", ["learnt", "hot"])
    host.history.derive("learnt", ["drift"])  # a cycle does not loop for ever

    def tick(drift: float | None, record: bool = True) -> None:
        derived = [] if drift is None else [Sample(gauge("drift", "Made of hot."), (), drift)]
        host.history.record("agent", host.now_ms + SECOND, derived)
        host.tick(1, record=record)

    tick(0.5)
    assert (host.alert.state, host.alert.fresh) == (AlertState.FIRING, True)

    host.history.silence("heat", host.now_ms + 1)
    tick(None, record=False)
    assert (host.alert.state, host.alert.fresh, host.alert.lost_since_ms) == (AlertState.FIRING, False, host.now_ms)

    tick(0.5)
    assert (host.alert.fresh, host.alert.lost_since_ms) == (True, None)

    tick(None)
    assert (host.alert.state, host.alert.fresh) == (AlertState.RESOLVED, True)


def test_a_step_of_the_clock_changes_no_duration(tmp_path: Path) -> None:
    """History and evaluator are shifted together, and `for` continues."""
    host = Host(load_rule_text(tmp_path, "{alert: Hot, expr: hot > 1, for: 3s}", "  interval: 1s\n"))
    for step in (0, HOUR, -2 * HOUR + 4000, 0):
        host.history.shift(step)
        host.rules.shift(step)
        host.now_ms += step
        host.tick(5)

    assert host.alert.state is AlertState.FIRING
    assert host.alert.fired_at_ms is not None
    assert host.alert.fired_at_ms - host.alert.active_at_ms == 3000


def test_a_fault_inside_one_rule_never_takes_the_others(tmp_path: Path) -> None:
    """Even an exception from a bug is only that rule's error."""

    class _Broken(History):
        def select(self, matchers: Matchers, keeper: SelectionKeeper | None = None) -> Selection:
            raise ZeroDivisionError("a bug")

    rules = RuleEvaluator(
        load_rule_text(tmp_path, "{record: a, expr: hot}\n{record: b, expr: vector(1)}"),
        interval_ms=SECOND,
        external_labels={},
        external_url="",
    )
    history = _Broken(HOUR)
    rules.evaluate(history, 1000)

    assert [health.error for health in rules.health] == ["internal error: ZeroDivisionError: a bug", ""]
    assert history.get_value("b") == 1


def test_the_window_of_an_expression_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remediation asks for each alert in each tick; a cache of 1,024 expressions had compiled the 1,025th each time."""
    compiled: list[str] = []

    def count_compilation(text: str) -> Query:
        compiled.append(text)
        return compile_query(text)

    monkeypatch.setattr(evaluator, "compile_query", count_compilation)
    rules = "{record: mean, expr: 'avg_over_time(hot[20m])'}\n{alert: Hot, expr: 'max_over_time(mean[5m]) > 1'}"
    host = Host(load_rule_text(tmp_path, rules))
    expressions = ["max_over_time(mean[5m]) > 1", *(f"hot > {number}" for number in range(1_100))]
    for _ in range(3):
        windows = [host.rules.find_window_ms(expr) for expr in expressions]

    assert windows == [25 * 60 * SECOND, *[0] * 1_100]
    assert compiled == expressions
