"""The state machine of an alert."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collectors import Labels
from rules.alerts import (
    LOST_RETENTION_MS,
    RESOLVED_RETENTION_MS,
    TRANSITIONS,
    Alert,
    AlertConditions,
    AlertState,
    Evidence,
    advance_alert,
    advance_alerts,
    count_live,
)

HOT: Labels = (("alertname", "Hot"), ("dimm", "1"))


def _build_result(value: float = 1.0) -> Alert:
    return Alert("Hot", HOT, (("summary", f"{value}"),), AlertState.PENDING, value, 0, "t > 1", 1000)


def _build_conditions(now_ms: int, for_ms: int = 0, keep_ms: int = 0, fresh: bool = True) -> AlertConditions:
    return AlertConditions(for_ms, keep_ms, now_ms, fresh)


def _run_alert(*steps: tuple[int, bool], for_ms: int = 0, keep_ms: int = 0) -> Alert | None:
    """Runs one alert through evaluations, given as (seconds, is_present); all are fresh."""
    alert: Alert | None = None
    for seconds, is_present in steps:
        alert = advance_alert(
            alert, _build_result() if is_present else None, _build_conditions(seconds * 1000, for_ms, keep_ms)
        )
    return alert


def _build_firing(now_ms: int = 0) -> Alert:
    alert = advance_alert(None, _build_result(), _build_conditions(now_ms))
    assert alert is not None
    return alert


def test_without_for_it_fires_at_once() -> None:
    """`for: 0s` fires at the first evaluation with a result."""
    alert = _run_alert((5, True))

    assert alert is not None
    assert (alert.state, alert.active_at_ms, alert.fired_at_ms) == (AlertState.FIRING, 5000, 5000)


def test_it_is_pending_until_for_has_passed() -> None:
    """The alert fires at the first evaluation at or after `for`; active_at does not change."""
    pending = _run_alert((1, True), (10, True), for_ms=10_000)
    firing = _run_alert((1, True), (10, True), (11, True), for_ms=10_000)

    assert pending is not None and pending.state is AlertState.PENDING
    assert firing is not None and firing.state is AlertState.FIRING
    assert (firing.active_at_ms, firing.fired_at_ms) == (1000, 11_000)


def test_a_pending_one_that_vanishes_is_forgotten() -> None:
    """The alert was never sent, so it is never resolved."""
    assert _run_alert((1, True), (2, False), for_ms=10_000) is None


def test_a_firing_one_that_vanishes_is_resolved_and_kept_15_minutes() -> None:
    """A resolved alert stays, so that Alertmanager receives it again; after more than 15 minutes it is gone."""
    resolved = _run_alert((1, True), (2, False))
    retained = _run_alert((1, True), (2, False), (902, False))

    assert resolved is not None and resolved.state is AlertState.RESOLVED and resolved.resolved_at_ms == 2000
    assert retained == resolved
    assert _run_alert((1, True), (2, False), (903, False)) is None


def test_a_resolved_one_that_returns_begins_anew() -> None:
    """The alert gets a new active_at and a new fired_at."""
    alert = _run_alert((1, True), (2, False), (3, True), (4, True), for_ms=0)

    assert alert is not None
    assert (alert.state, alert.active_at_ms, alert.fired_at_ms, alert.resolved_at_ms) == (
        AlertState.FIRING,
        3000,
        3000,
        None,
    )


def test_keep_firing_for_holds_it_with_its_last_value() -> None:
    """The alert keeps firing until keep_firing_for has passed since it vanished."""
    continued = _run_alert((1, True), (2, False), (11, False), keep_ms=10_000)
    ended = _run_alert((1, True), (2, False), (12, False), keep_ms=10_000)

    assert (
        continued is not None
        and continued.state is AlertState.FIRING
        and continued.keep_firing_since_ms == 2000
        and continued.fresh
    )
    assert ended is not None and ended.state is AlertState.RESOLVED and ended.resolved_at_ms == 12_000


def test_being_seen_again_ends_keep_firing() -> None:
    """keep_firing_for counts from the last disappearance."""
    alert = _run_alert((1, True), (2, False), (5, True), (6, False), (15, False), keep_ms=10_000)

    assert alert is not None and alert.keep_firing_since_ms == 6000 and alert.state is AlertState.FIRING


def test_keep_firing_for_does_not_hold_a_pending_one() -> None:
    """Only an alert that has fired is kept firing."""
    assert _run_alert((1, True), (2, False), for_ms=60_000, keep_ms=60_000) is None


def test_a_longer_for_sends_a_firing_one_back_to_pending() -> None:
    """A reload with a longer `for` applies to alerts that fire already."""
    alert = advance_alert(_build_firing(), _build_result(), _build_conditions(5000, for_ms=60_000))

    assert alert is not None
    assert (alert.state, alert.fired_at_ms, alert.active_at_ms) == (AlertState.PENDING, None, 0)


def test_value_and_annotations_follow_the_query_and_labels_stay() -> None:
    """Labels are the identity; value and annotations are those of the last evaluation."""
    alert = advance_alert(_build_firing(), _build_result(7.0), _build_conditions(1000))

    assert alert is not None
    assert (alert.value, alert.annotations, alert.labels) == (7.0, (("summary", "7.0"),), HOT)


def test_a_firing_one_that_vanishes_in_silence_is_lost_not_resolved() -> None:
    """With a silent source the absence proves nothing: the alert keeps firing, not fresh."""
    alert = advance_alert(_build_firing(), None, _build_conditions(1000, fresh=False))

    assert alert is not None
    assert (alert.state, alert.fresh, alert.lost_since_ms) == (AlertState.FIRING, False, 1000)


def test_a_lost_one_that_is_seen_again_is_fresh_again() -> None:
    """A fresh evaluation with the alert ends the loss; the alert never stopped firing."""
    lost = advance_alert(_build_firing(), None, _build_conditions(1000, fresh=False))
    alert = advance_alert(lost, _build_result(), _build_conditions(2000))

    assert alert is not None
    assert (alert.state, alert.fresh, alert.lost_since_ms, alert.fired_at_ms) == (AlertState.FIRING, True, None, 0)


def test_a_lost_one_is_resolved_by_a_fresh_empty_result() -> None:
    """The source has recorded again without the condition: the alert is resolved, and fresh."""
    lost = advance_alert(_build_firing(), None, _build_conditions(1000, fresh=False))
    alert = advance_alert(lost, None, _build_conditions(2000))

    assert alert is not None
    assert (alert.state, alert.fresh, alert.resolved_at_ms) == (AlertState.RESOLVED, True, 2000)


def test_a_lost_one_is_given_up_after_15_minutes() -> None:
    """The alert is resolved, but not fresh."""
    lost = advance_alert(_build_firing(), None, _build_conditions(1000, fresh=False))
    still_lost = advance_alert(lost, None, _build_conditions(1000 + LOST_RETENTION_MS - 1, fresh=False))
    given_up = advance_alert(still_lost, None, _build_conditions(1000 + LOST_RETENTION_MS, fresh=False))

    assert still_lost is not None and still_lost.state is AlertState.FIRING
    assert given_up is not None and given_up.state is AlertState.RESOLVED and not given_up.fresh


def test_a_lost_one_that_is_fresh_again_still_has_its_keep_firing_for() -> None:
    """keep_firing_for begins with the first fresh absence, not with the silence."""
    lost = advance_alert(_build_firing(), None, _build_conditions(1000, keep_ms=60_000, fresh=False))
    alert = advance_alert(lost, None, _build_conditions(300_000, keep_ms=60_000))

    assert alert is not None
    assert (alert.state, alert.keep_firing_since_ms, alert.fresh) == (AlertState.FIRING, 300_000, True)


def test_a_pending_one_that_vanishes_in_silence_is_dropped() -> None:
    """A pending alert is not held."""
    pending = advance_alert(None, _build_result(), _build_conditions(0, for_ms=5000))

    assert advance_alert(pending, None, _build_conditions(1000, for_ms=5000, fresh=False)) is None


def test_the_table_covers_every_state_and_evidence() -> None:
    """Every combination has a transition, except an untracked alert that is absent."""
    states = (None, *AlertState)

    assert set(TRANSITIONS) == {(state, evidence) for state in states for evidence in Evidence} - {
        (None, Evidence.ABSENT),
        (None, Evidence.SILENT),
        (None, Evidence.UNCOVERED),
    }


def test_a_shift_moves_every_time() -> None:
    """A shift of the wall clock changes no duration."""
    alert = replace(_build_firing(1000), keep_firing_since_ms=2000, lost_since_ms=3000, resolved_at_ms=None)
    moved = alert.shift(-500)

    assert (moved.active_at_ms, moved.fired_at_ms, moved.keep_firing_since_ms) == (500, 500, 1500)
    assert (moved.lost_since_ms, moved.resolved_at_ms) == (2500, None)


@st.composite
def _generate_lives(draw: st.DrawFn) -> list[tuple[bool, AlertConditions]]:
    for_ms, keep_ms = draw(st.sampled_from([0, 3000, 10_000])), draw(st.sampled_from([0, 5000]))
    now_ms = 0
    life = []
    for _ in range(draw(st.integers(1, 30))):
        now_ms += draw(st.sampled_from([1000, 3000, 60_000, 600_000]))
        life.append((draw(st.booleans()), AlertConditions(for_ms, keep_ms, now_ms, draw(st.booleans()))))
    return life


@settings(deadline=None)
@given(_generate_lives())
def test_whatever_happens_an_alert_keeps_its_word(life: list[tuple[bool, AlertConditions]]) -> None:
    """An alert fires only after `for`, is resolved only after firing, and never vanishes while it is present."""
    active: dict[Labels, Alert] = {}
    for is_present, conditions in life:
        before = active.get(HOT)
        active = advance_alerts(active, {HOT: _build_result()} if is_present else {}, conditions)
        after = active.get(HOT)
        if after is None:
            assert not is_present
            continue
        _check_transition(before, after, is_present, conditions)


def _check_transition(before: Alert | None, after: Alert, is_present: bool, conditions: AlertConditions) -> None:
    if after.state is AlertState.FIRING:
        assert after.fired_at_ms is not None and after.fired_at_ms - after.active_at_ms >= conditions.for_ms
        assert after.resolved_at_ms is None
    if after.state is AlertState.RESOLVED:
        assert before is not None and before.state is not AlertState.PENDING and not is_present
        assert after.resolved_at_ms is not None and conditions.now_ms - after.resolved_at_ms <= RESOLVED_RETENTION_MS
    if before is not None and before.state is AlertState.RESOLVED and after.state is not AlertState.RESOLVED:
        assert is_present and after.active_at_ms == conditions.now_ms
    if is_present:
        assert after.state is not AlertState.RESOLVED and after.fresh == conditions.fresh
    if after.lost_since_ms is not None:
        assert after.state is AlertState.FIRING and not after.fresh and not is_present
        assert conditions.now_ms - after.lost_since_ms < LOST_RETENTION_MS


@pytest.mark.parametrize("state", list(AlertState))
def test_the_limit_counts_pending_and_firing(state: AlertState) -> None:
    """Resolved alerts do not count against a group's limit."""
    assert count_live({HOT: replace(_build_result(), state=state)}) == (state is not AlertState.RESOLVED)
