"""No sequence of alerts, outcomes, restarts and clock shifts breaks a bound of the contract of remedies."""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import replace

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent.remediation import transitions
from agent.remediation.guards import HOUR_MS
from agent.remediation.model import (
    HOST,
    Act,
    EventKind,
    Phase,
    RemediationState,
    overlaps,
)
from rules.alerts import Alert
from tests.agent.remediation.guard_bench import COLDER, COOL, DROP, MINUTE, PART, GuardBench, make_alert

EMPTY = {"name": "empty", "resource": "swap", "match": DROP.match}
NAMES = [("Hot", "A1"), ("Hot", "B1"), ("Hotter", "A1"), ("Half", "A1"), ("Full", "A1")]
FINAL = (EventKind.REFUSED, EventKind.FAILED, EventKind.UNKNOWN)


class RemedyMachine(RuleBasedStateMachine):
    """Alerts, outcomes, restarts and clock shifts in any order; `clock` is a time that nobody can set."""

    @initialize(observing=st.booleans())
    def begin(self, observing: bool) -> None:
        often = {"cooldown_ms": 5 * MINUTE, "max_per_hour": 2, "max_attempts": 9}
        remedies = (replace(COOL, **often), replace(DROP, **often), replace(DROP, **often, **EMPTY))
        self.bench = GuardBench(*remedies, COLDER, PART, observing=observing, max_per_hour=3)
        self.all_remedies = self.bench.remedies
        self.cooldowns = {remedy.name: remedy.cooldown_ms for remedy in self.all_remedies}
        self.alerts: dict[tuple[str, str], Alert] = {}
        self.clock = 0
        self.begun: deque[tuple[int, Act]] = deque()
        self.uncounted: set[int] = set()
        self.resumed = -HOUR_MS

    @rule(name=st.sampled_from(NAMES), lost=st.booleans(), value=st.sampled_from([1.0, 1.0, float("nan")]))
    def fire_alert(self, name: tuple[str, str], lost: bool, value: float) -> None:
        self.alerts[name] = make_alert(*name, value=value, fresh=not lost, lost_since_ms=1 if lost else None)

    @rule(name=st.sampled_from(NAMES))
    def end_alert(self, name: tuple[str, str]) -> None:
        self.alerts.pop(name, None)

    @rule(ms=st.sampled_from([1000, 1000, MINUTE, 5 * MINUTE, 6 * MINUTE, HOUR_MS // 2]))
    def tick(self, ms: int) -> None:
        latched = {latch.remedy for latch in self.bench.state.latches}
        claim_counts = {act.id: len(act.claims) for act in self.bench.state.acts}
        decision = self.bench.tick(*self.alerts.values(), after_ms=ms)
        self.clock += ms
        begin_entries = [entry for entry in decision.entries if entry.what in ("begin", "tighten")]
        for entry in begin_entries:
            assert not self.bench.killed
            assert not self.bench.halted
            assert not self.bench.state.pauses
            alert = next(alert for alert in self.alerts.values() if alert.labels == entry.labels)
            assert alert.fresh
            assert alert.value == alert.value
            assert self.bench.observing or not latched & {entry.remedy, HOST}
            assert not [each for each in self.bench.state.acts if each.is_blocking and each.id != entry.act]
            act = self.bench.state.find_act(entry.act)
            assert act is not None
            self._assert_cooled_down(act, entry.remedy)
            self.begun.append((self.clock, replace(act, remedy=entry.remedy)))
        assert len(begin_entries) <= 1 or self.bench.observing
        assert all(act.phase is Phase.STARTED for act in decision.begin)
        assert claim_counts.keys() or not any(entry.what == "tighten" for entry in begin_entries)

    def _assert_cooled_down(self, act: Act, remedy: str) -> None:
        earlier = [at for at, begun_act in self.begun if begun_act.resource == act.resource]
        earlier += [
            at
            for at, begun_act in self.begun
            if overlaps(begun_act.resource, act.resource) and begun_act.id not in self.uncounted
        ]
        assert not earlier or self.clock - max(earlier) >= self.cooldowns[remedy]

    @rule(pick=st.integers(0, 3), kind=st.sampled_from(list(EventKind)), value=st.sampled_from(["0.7", "0.4"]))
    def apply_any_event(self, pick: int, kind: EventKind, value: str) -> None:
        acts = self.bench.state.acts
        if not acts:
            return
        act = acts[pick % len(acts)]
        if act.phase in (Phase.STARTED, Phase.WRITING) and kind is EventKind.REFUSED:
            self.uncounted.add(act.id)
        self.bench.apply_event(act, kind, prior="1.0", value=value)

    @rule()
    def advance_acts(self) -> None:
        for act in self.bench.state.acts:
            next_kinds = {
                Phase.STARTED: EventKind.INTENDED,
                Phase.WRITING: EventKind.DID,
                Phase.HELD: EventKind.HELPED,
                Phase.RELEASING: EventKind.RESTORED,
            }
            self.bench.apply_event(act, next_kinds[act.phase], prior="1.0", value="0.7")

    @rule(back_ms=st.sampled_from([0, 0, HOUR_MS, 50 * HOUR_MS]))
    def restart(self, back_ms: int) -> None:
        self.bench.now -= back_ms
        stored = json.dumps(msgspec.json.decode(msgspec.json.encode(self.bench.state)))
        self.bench.state = msgspec.json.decode(stored, type=RemediationState).clamp_times(self.bench.now)
        for act in self.bench.state.acts:
            self.bench.apply_event(act, EventKind.INTERRUPTED)
        assert all(act.phase in (Phase.HELD, Phase.RELEASING) for act in self.bench.state.acts)

    @rule(delta_ms=st.sampled_from([-50 * HOUR_MS, -HOUR_MS, HOUR_MS, 50 * HOUR_MS]))
    def shift_clock(self, delta_ms: int) -> None:
        self.bench.now += delta_ms
        self.bench.state = self.bench.state.shift(delta_ms)

    @rule(name=st.sampled_from([None, "cool", "drop", HOST, "operator"]))
    def resume(self, name: str | None) -> None:
        before = self.bench.state
        self.bench.state = transitions.resume(before, name, self.bench.now)
        if self.bench.state.latches != before.latches:
            self.resumed = self.clock

    @rule(how=st.sampled_from(["paused", "killed", "halted"]), ms=st.sampled_from([1000, 6 * MINUTE]))
    def stop_for_a_tick(self, how: str, ms: int) -> None:
        """Stops acting for one tick; a pause of another name than the operator's is a pause too."""
        self.bench.killed, self.bench.halted = how == "killed", "disk full" if how == "halted" else ""
        self.bench.state = transitions.pause(self.bench.state, "maintenance") if how == "paused" else self.bench.state
        self.tick(ms)
        self.bench.killed, self.bench.halted = False, ""
        self.bench.state = replace(self.bench.state, pauses=())

    @rule(names=st.sets(st.sampled_from(["cool", "colder", "drop", "empty", "part"])), name=st.sampled_from(NAMES))
    def reload_configuration(self, names: set[str], name: tuple[str, str]) -> None:
        """Removes some remedies and adds others while an act is not verified; nothing waits for removed ones."""
        self.alerts[name] = make_alert(*name)
        self.tick(6 * MINUTE)
        for act in self.bench.state.acts:
            self.bench.apply_event(act, EventKind.INTENDED, prior="1.0", value="0.7")
            self.bench.apply_event(act, EventKind.DID, value="0.7")
        self.bench.remedies = tuple(each for each in self.all_remedies if each.name in names)
        self.bench.apply_verdicts(*self.alerts.values())
        waited_for = [act for act in self.bench.state.acts if act.is_blocking and act.phase is Phase.HELD]
        assert all(act.verdict_key[0] in names for act in waited_for)

    @rule(observing=st.sampled_from([False, False, True]))
    def set_mode(self, observing: bool) -> None:
        self.bench.observing = observing

    @rule(
        names=st.sets(st.sampled_from(NAMES), min_size=1),
        verdicts=st.lists(
            st.sampled_from([EventKind.HELPED, EventKind.HELPED, EventKind.USELESS, None]), min_size=4, max_size=12
        ),
    )
    def pass_a_busy_hour(self, names: set[tuple[str, str]], verdicts: list[EventKind | None]) -> None:
        """Fires alerts that come and go every six minutes, with acts that end in different ways, or do not end."""
        for verdict in verdicts:
            self.alerts = {name: make_alert(*name) for name in names}
            self.tick(6 * MINUTE)
            for act in self.bench.state.acts:
                if verdict is not None:
                    self.bench.apply_event(act, EventKind.INTENDED, prior="1.0", value="0.7")
                    self.bench.apply_event(act, EventKind.DID, value="0.7")
                    self.bench.apply_event(act, verdict)
            if len(verdicts) % 2:
                self.alerts = {}
                self.tick(1000)
                self.advance_acts()

    @invariant()
    def one_act_at_a_time(self) -> None:
        assert sum(act.is_blocking for act in self.bench.state.acts) <= 1

    @invariant()
    def one_act_on_a_resource(self) -> None:
        for act, other in itertools.combinations(self.bench.state.acts, 2):
            assert not overlaps(act.resource, other.resource)

    @invariant()
    def what_may_be_written_has_its_prior(self) -> None:
        for act in self.bench.state.acts:
            assert act.phase is Phase.STARTED or act.prior is not None

    @invariant()
    def budgets_hold(self) -> None:
        """The budgets hold in any hour since the last resume."""
        while self.begun and self.begun[0][0] <= self.clock - HOUR_MS and len(self.begun) > 50:
            self.begun.popleft()
        since = max(self.clock - HOUR_MS, self.resumed)
        counted_acts = [
            act for at, act in self.begun if at > since and not act.observed and act.id not in self.uncounted
        ]
        assert len(counted_acts) <= self.bench.max_per_hour
        for remedy in self.all_remedies:
            assert sum(act.remedy == remedy.name for act in counted_acts) <= remedy.max_per_hour

    @invariant()
    def nothing_is_held_without_a_claim(self) -> None:
        for act in self.bench.state.acts:
            assert act.phase is not Phase.HELD or act.claims

    @invariant()
    def what_is_tried_is_not_yet_known(self) -> None:
        for act in self.bench.state.acts:
            assert act.pending_tightening is None or not act.verified

    @invariant()
    def one_latch_a_remedy(self) -> None:
        names = [latch.remedy for latch in self.bench.state.latches]
        assert len(names) == len(set(names))


TestRemedyMachine = RemedyMachine.TestCase
TestRemedyMachine.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestRemedyMachine.pytestmark = [pytest.mark.deep]  # a state machine of hundreds of steps takes seconds
