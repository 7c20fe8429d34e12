"""Alerts that outlive the process: which are restored, when they fire, and what ends them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import Sample, gauge
from rules.alert_restore import SavedAlert, restore_alert
from rules.alerts import LOST_RETENTION_MS, SETTLE_MS, Alert, AlertState
from rules.evaluator import RuleEvaluator
from rules.history.history import History
from rules.model import RuleSet
from rules.rulefile import load_rules

HOT = gauge("hot", "Heat.")
SECOND = 1000
MINUTE = 60 * SECOND
START = 1_700_000_000_000
THRESHOLD = "{alert: Hot, expr: hot > 80, for: 8s}"
AVERAGE = "{alert: Hot, expr: 'avg_over_time(hot[2m]) > 80', for: 8s}"


def load_rule_set(tmp_path: Path, *rules: str) -> RuleSet:
    path = tmp_path / "rules.yml"
    path.write_text("groups:\n- name: g\n  rules:\n" + "".join(f"  - {rule}\n" for rule in rules))
    return load_rules([path])


class Life:
    """A series of processes with the same rules; each starts with an empty History."""

    def __init__(self, rules: RuleSet) -> None:
        self.rule_set = rules
        self.now_ms = START
        self.start()

    def start(self) -> None:
        self.history = History(3600 * SECOND)
        self.rules = RuleEvaluator(self.rule_set, interval_ms=SECOND, external_labels={}, external_url="")

    def tick(self, value: float | None, count: int = 1) -> None:
        for _ in range(count):
            self.now_ms += SECOND
            if value is not None:
                self.history.record("heat", self.now_ms, [Sample(HOT, (("dimm", "1"),), value)])
            self.rules.evaluate(self.history, self.now_ms)

    def restart(self, away_ms: int, rules: RuleSet | None = None) -> int:
        saved_alerts, saved_ms = self.rules.export_alerts(), self.now_ms
        self.now_ms += away_ms
        self.rule_set = rules or self.rule_set
        self.start()
        return self.rules.restore_alerts(saved_alerts, self.now_ms, saved_ms)

    @property
    def alert(self) -> Alert | None:
        return next(iter(self.rules.list_alerts()), None)

    @property
    def state(self) -> str | None:
        return self.alert.state.value if self.alert else None


def test_a_pending_alert_fires_when_it_would_have(tmp_path: Path) -> None:
    """`for: 8s` that has waited 4 s continues over a restart of 2 s, and fires 8 s after the alert became active."""
    life = Life(load_rule_set(tmp_path, THRESHOLD))
    life.tick(90, 5)
    assert life.restart(2 * SECOND) == 1
    life.tick(90)
    assert life.state == "pending"
    life.tick(90)

    assert life.alert is not None
    assert (life.state, life.alert.fired_at_ms) == ("firing", START + 9 * SECOND)
    assert life.alert.active_at_ms == START + SECOND


def test_one_whose_time_passed_meanwhile_fires_at_once(tmp_path: Path) -> None:
    """The downtime of the agent counts towards `for`, if the condition is true again."""
    life = Life(load_rule_set(tmp_path, THRESHOLD))
    life.tick(90, 2)
    life.restart(MINUTE)
    life.tick(90)

    assert life.state == "firing"


def test_a_pending_alert_that_is_over_is_dropped_and_never_fires(tmp_path: Path) -> None:
    """If the first readings show that the condition is false, the alert does not fire on a later spike."""
    life = Life(load_rule_set(tmp_path, THRESHOLD))
    life.tick(90, 5)
    life.restart(MINUTE)
    life.tick(45)
    assert life.state is None
    life.tick(90)

    assert life.state == "pending"


def test_nothing_is_decided_before_the_source_is_sampled(tmp_path: Path) -> None:
    """Until the collector has recorded, a pending alert waits and a firing one is lost; then the readings decide."""
    for ticks, state in ((3, "pending"), (20, "firing")):
        life = Life(load_rule_set(tmp_path, THRESHOLD))
        life.tick(90, ticks)
        life.restart(20 * SECOND)
        life.tick(None, 10)
        assert life.alert is not None
        assert (life.state, life.alert.fresh) == (state, False)
        active_at_ms = life.alert.active_at_ms
        life.tick(90)

        assert life.alert is not None
        assert (life.state, life.alert.fresh, life.alert.active_at_ms) == ("firing", True, active_at_ms)


def test_a_source_that_never_comes_back_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """A metric that is no longer sampled holds its alert for a minute."""
    life = Life(load_rule_set(tmp_path, THRESHOLD))
    life.tick(90, 20)
    life.restart(SECOND)
    life.tick(None, SETTLE_MS // SECOND - 2)
    assert life.state == "firing"
    life.tick(None, 3)

    assert life.state == "resolved"


@pytest.mark.parametrize(("ticks", "after"), [(125, None), (140, "resolved")])
def test_absence_ends_nothing_before_the_window_is_covered(tmp_path: Path, ticks: int, after: str | None) -> None:
    """A rule over two minutes needs two minutes of cool readings after a restart, not one reading."""
    life = Life(load_rule_set(tmp_path, AVERAGE.replace("8s", "130s")))
    life.tick(90, ticks)
    before = life.state
    life.restart(SECOND)
    life.tick(45, 119)
    assert life.alert is not None
    assert (life.state, life.alert.fresh) == (before, False)
    life.tick(45, 2)

    assert life.state == after


def test_a_held_alert_does_not_ripen_without_evidence(tmp_path: Path) -> None:
    """A pending alert whose condition does not return stays pending, however long it is held."""
    life = Life(load_rule_set(tmp_path, AVERAGE))
    life.tick(90, 5)
    life.restart(SECOND)
    for _ in range(100):
        life.tick(45)
        assert life.state == "pending"
    life.tick(1e6)

    assert life.state == "firing"


def test_windows_of_recording_rules_count(tmp_path: Path) -> None:
    """An alert on a recording rule over two minutes is held for two minutes."""
    record = "{record: avg_hot, expr: 'avg_over_time(hot[2m])'}"
    life = Life(load_rule_set(tmp_path, record, "{alert: Hot, expr: avg_hot > 80}"))
    life.tick(90, 10)
    life.restart(SECOND)
    life.tick(45, 110)
    assert life.state == "firing"
    life.tick(45, 12)

    assert life.state == "resolved"


def test_a_silent_source_holds_a_restored_alert(tmp_path: Path) -> None:
    """A source known to be silent holds a pending alert for a quarter of an hour, and no longer."""
    life = Life(load_rule_set(tmp_path, THRESHOLD))
    life.tick(90, 3)
    life.restart(SECOND)
    life.history.record("heat", life.now_ms - 10, [Sample(HOT, (("dimm", "1"),), 90.0)])
    life.history.silence("heat", life.now_ms - 9)
    life.tick(None, LOST_RETENTION_MS // SECOND - 1)
    assert life.state == "pending"
    life.tick(None, 2)

    assert life.state is None


@pytest.mark.parametrize(
    "changed",
    [
        "{alert: Hot, expr: hot > 81, for: 8s}",
        "{alert: Hotter, expr: hot > 80, for: 8s}",
        "{alert: Hot, expr: hot > 80, for: 8s, labels: {severity: page}}",
        "{record: Hot, expr: hot > 80}",
    ],
)
def test_the_alerts_of_a_rule_that_has_changed_stay_behind(tmp_path: Path, changed: str) -> None:
    """Another name, other labels or another expression is another rule."""
    life = Life(load_rule_set(tmp_path, THRESHOLD))
    life.tick(90, 3)

    assert life.restart(SECOND, load_rule_set(tmp_path, changed)) == 0


def test_rules_alike_keep_apart(tmp_path: Path) -> None:
    """Two rules that differ only in `for` each get their own alert back."""
    life = Life(load_rule_set(tmp_path, THRESHOLD, THRESHOLD.replace("8s", "1h")))
    life.tick(90, 10)
    assert life.restart(SECOND) == 2
    life.tick(90)

    assert [alert.state.value for alert in life.rules.list_alerts()] == ["firing", "pending"]


def test_keep_firing_goes_on(tmp_path: Path) -> None:
    """A `keep_firing_for` that began before the restart ends at its original time."""
    life = Life(load_rule_set(tmp_path, "{alert: Hot, expr: hot > 80, keep_firing_for: 20s}"))
    life.tick(90)
    life.tick(45, 10)
    life.restart(5 * SECOND)
    life.tick(45)
    assert life.state == "firing"
    life.tick(45, 4)
    assert life.state == "firing"
    life.tick(45)

    assert life.state == "resolved"


def test_a_resolved_alert_is_remembered(tmp_path: Path) -> None:
    """Alertmanager still receives the resolved alert."""
    life = Life(load_rule_set(tmp_path, "{alert: Hot, expr: hot > 80}"))
    life.tick(90)
    life.tick(45)
    life.restart(SECOND)
    life.tick(45)
    assert life.alert is not None

    assert (life.state, life.alert.resolved_at_ms) == ("resolved", START + 2 * SECOND)


@settings(max_examples=200)
@given(st.integers(-(10**9), 10**9), st.lists(st.integers(0, 10**6) | st.none(), min_size=4, max_size=4))
def test_no_time_lies_ahead(away_ms: int, before: list[int | None]) -> None:
    """No shift of the clock during the downtime makes an age negative or changes the order of events."""
    times = [None if ago is None else START - ago for ago in before]
    alert = Alert("Hot", (), (), AlertState.FIRING, 1.0, START - 10**6, "hot", 1000, *times)
    now_ms = START + away_ms
    after = restore_alert(alert, now_ms, START)
    ages = [
        after.active_at_ms,
        after.fired_at_ms,
        after.resolved_at_ms,
        after.keep_firing_since_ms,
        after.lost_since_ms,
    ]
    moved = min(0, away_ms)

    assert all(at_ms is None or at_ms <= now_ms for at_ms in ages)
    assert after.fired_at_ms == (None if times[0] is None else times[0] + moved)
    assert after.active_at_ms == START - 10**6 + moved


def test_what_is_kept_is_all_there_is(tmp_path: Path) -> None:
    """Each alert is saved once, under the key of its rule; without alerts nothing is saved."""
    life = Life(load_rule_set(tmp_path, THRESHOLD))
    assert life.rules.export_alerts() == ()
    life.tick(90)
    assert life.alert is not None
    (saved_alert,) = life.rules.export_alerts()

    assert saved_alert == SavedAlert(saved_alert.rule, life.alert)
    assert (saved_alert.rule.name, saved_alert.rule.expr, saved_alert.rule.ordinal) == ("Hot", "hot > 80", 1)
